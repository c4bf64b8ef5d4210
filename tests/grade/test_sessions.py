"""pytest sessions in forked children: they end when they must, and a server that dies is replaced."""

import os
import signal
import threading
import time

import pytest

from ftlab.errors import NotHeld
from ftlab.grade.sessions import Sessions

TESTS = """
import os, pathlib, sys, time

def test_passes(): pass

def test_tells():
    pathlib.Path("tells").write_text(f"{os.getppid()} {'IPython' in sys.modules} {'nbval.plugin' in sys.modules}")

def test_hangs():
    pathlib.Path("pid").write_text(str(os.getpid()))
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def sessions():
    with Sessions() as sessions:
        yield sessions


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    return tmp_path


def run(sessions, folder, name, seconds=60):
    return sessions.run(["-q", f"--rootdir={folder}", "-c", os.devnull, f"test_some.py::{name}"], folder, folder / "log.txt",
                        seconds)  # fmt: skip


def ended(pid):
    """Whether the process is gone within two seconds."""
    for _ in range(40):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_session_ends_with_pytest_s_status_and_its_output_in_the_log(sessions, folder):
    assert run(sessions, folder, "test_passes") == 0
    assert "1 passed" in (folder / "log.txt").read_text()
    assert run(sessions, folder, "test_of_no_such_name") == 4
    assert os.getcwd() != str(folder)


def test_each_session_is_forked_from_one_server_that_has_imported_everything(sessions, folder):
    for _ in range(2):
        assert run(sessions, folder, "test_tells") == 0
        told = (folder / "tells").read_text().split()
        assert told == [str(sessions._server.pid), "True", "True"]


def test_a_session_that_hangs_is_ended(sessions, folder):
    with pytest.raises(NotHeld, match="signal 9"):
        run(sessions, folder, "test_hangs", seconds=8)  # by then it has begun on a busy machine, too
    assert ended(int((folder / "pid").read_text()))
    assert run(sessions, folder, "test_passes") == 0


def test_a_server_that_was_killed_is_replaced_and_leaves_no_session_behind(sessions, folder):
    run(sessions, folder, "test_passes")
    server = sessions._server.pid

    def kill_when_it_hangs():
        while not (folder / "pid").exists() or not (folder / "pid").read_text():
            time.sleep(0.05)
        os.kill(server, signal.SIGKILL)

    threading.Thread(target=kill_when_it_hangs, daemon=True).start()
    with pytest.raises(NotHeld, match="ended"):
        run(sessions, folder, "test_hangs")
    assert ended(int((folder / "pid").read_text()))
    assert run(sessions, folder, "test_passes") == 0
