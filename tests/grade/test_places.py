"""Python, its packages and the course may lie anywhere: what the sandbox shows of them, where, and what it never shows."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest
from grade.sandboxes import LIMITS, walls_or_skip

from ftlab.errors import UsageError
from ftlab.grade import cold, door, shown
from ftlab.grade import kernel as kernel_module
from ftlab.grade.kernel import Walls

ROOT = pathlib.Path(__file__).parents[2]
STAND = """
import dataclasses, subprocess, sys
from ftlab.grade import cold
from ftlab.grade.kernel import Walls
with Walls("forked") as walls:
    print(walls.mode)
with Walls("cold") as walls:
    command = cold.bubblewrap(walls._program, walls.house, dataclasses.asdict(walls.limits), walls.user)
    code = "import sys, zmq; open('/tmp/x', 'w').close(); open('/dev/shm/x', 'w').close(); print(ascii(sys.prefix))"
    command += ["--proc", "/proc", "--remount-ro", "/", "--", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout.strip(), done.stderr.strip()[-300:])
"""


def environment_at(folder):
    """A virtual environment at `folder` that has this one's packages, by a symbolic link; its Python."""
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (folder / "bin").mkdir(parents=True)
    packages.parent.mkdir(parents=True)
    os.symlink(sysconfig.get_path("purelib"), packages)
    os.symlink(os.path.realpath(sys.executable), folder / "bin/python")
    home = os.path.dirname(os.path.realpath(sys.executable))
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    return folder / "bin/python"


@pytest.fixture(scope="module")
def some_sandbox():
    with walls_or_skip("cold"):
        pass


@pytest.mark.parametrize("place", ["a b'\"ü\nx/env", "by a link"])
def test_the_sandbox_stands_wherever_python_lies(tmp_path, place, some_sandbox):
    """tmp_path is below the temporary folder, as a clone that is made for a trial."""
    if place == "by a link":
        environment_at(tmp_path / "disk/user/env")
        os.symlink("disk/user", tmp_path / "home")
        python = tmp_path / "home/env/bin/python"
    else:
        python = environment_at(tmp_path / place)
    done = subprocess.run([python, "-c", STAND], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["forked", f"{ascii(str(python.parents[1]))} "], done.stderr


def test_each_link_on_the_way_is_shown_as_a_link(tmp_path):
    real = tmp_path / "disk/one/env"
    (real / "bin").mkdir(parents=True)
    os.symlink("disk", tmp_path / "data")
    os.symlink(tmp_path / "data/one", tmp_path / "home")
    links, ends = shown.resolve(f"{tmp_path}/home/./env/../env/bin")
    assert links == {f"{tmp_path}/home": f"{tmp_path}/data/one", f"{tmp_path}/data": "disk"}
    assert ends == [str(real / "bin")]
    os.symlink("round", tmp_path / "round")
    with pytest.raises(OSError, match="too many"):
        shown.resolve(f"{tmp_path}/round/x")


def test_a_temporary_folder_that_is_a_link_stays_the_sandboxs_own(tmp_path, monkeypatch):
    (tmp_path / "disk/env").mkdir(parents=True)
    os.symlink("disk", tmp_path / "tmp")
    monkeypatch.setitem(door.ALIASES, f"{tmp_path}/tmp", "/x")
    links, ends = shown.resolve(f"{tmp_path}/tmp/env")
    assert links == {} and ends == [f"{tmp_path}/disk/env", f"{tmp_path}/tmp/env"]


def test_of_a_home_that_is_an_environment_its_other_folders_are_not_shown(tmp_path, monkeypatch):
    environment_at(tmp_path / "home")
    (tmp_path / "home/submissions").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "home"))
    house = cold.house(tmp_path)
    assert str(tmp_path / "home/bin") in house.binds
    assert not any(pathlib.Path(tmp_path, "home/submissions").is_relative_to(path) for path in house.binds)


@pytest.mark.parametrize("where", ["lib/python3.11/site-packages/ftlab", "share/course/ftlab", "lib/wheels/ftlab-1-py3.whl"])
def test_another_copy_of_the_package_is_hidden_wherever_it_is_shown(tmp_path, monkeypatch, where):
    base = tmp_path / "base"
    if where.endswith(".whl"):
        (base / where).parent.mkdir(parents=True)
        (base / where).write_text("PK")
    else:
        (base / where).mkdir(parents=True)
        (base / where / "__init__.py").write_text("")
    for name in ("base_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, name, str(base))
    house = cold.house(tmp_path)
    if where.endswith(".whl"):
        assert pathlib.Path(house.binds[str(base / where)]).read_bytes() == b""
    else:
        assert str(base / where) in house.masked
    words = cold.bubblewrap("bwrap", house, dataclasses.asdict(LIMITS), None)
    assert words.index(str(base / where)) > words.index(str(base / where.split("/")[0]))


def test_what_is_shown_in_a_hidden_folder_is_shown_again(tmp_path):
    shown_again = next(path for path in cold.house(tmp_path).binds if path.endswith("/lib") and path != "/lib")
    hidden = str(pathlib.Path(shown_again).parent)
    house = cold.house(tmp_path, [hidden])
    assert shown_again in house.binds and not any(pathlib.Path(hidden).is_relative_to(path) for path in house.binds)


def test_a_python_in_the_place_of_the_sandboxs_own_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shown, "python_paths", lambda: [f"{door.OWN}/env/bin"])
    with pytest.raises(UsageError, match=f"cannot show {door.OWN}/env/bin"):
        cold.house(tmp_path)


def test_what_the_user_inside_may_not_read_is_named(tmp_path, monkeypatch, some_sandbox):
    module = tmp_path / "lib/module.py"
    module.parent.mkdir()
    module.write_text("")
    monkeypatch.setattr(shown, "_origins", lambda: [str(module)])
    assert shown.unreadable([str(tmp_path / "lib")]) is None
    module.chmod(0o640)
    assert shown.unreadable([str(tmp_path / "lib")]) == str(module)
    module.parent.chmod(0o700)
    assert shown.unreadable([str(tmp_path / "lib")]) == str(module.parent)
    assert shown.unreadable([]) is None
    monkeypatch.setattr(shown, "unreadable", lambda paths: "/a b/lib")
    monkeypatch.setattr(kernel_module, "_throw_away_user", lambda: 12345)
    told = "/a b/lib can be read by its owner or group alone.*chmod -R go.rX '/a b/lib'"
    with pytest.raises(UsageError, match=told) as error:
        Walls("forked").__enter__()
    assert "namespaces" not in str(error.value)


def test_a_failure_that_is_no_refusal_gets_no_advice_about_namespaces(tmp_path, monkeypatch):
    script = tmp_path / "bwrap"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.9.0 && exit\n'
                      'echo "bwrap: Can\'t make symlink at /tmp: File exists" >&2; exit 1\n')  # fmt: skip
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UsageError, match="File exists.; if you trust every submission") as error:
        Walls("cold").__enter__()
    assert "namespaces" not in str(error.value) and "install" not in str(error.value)


def test_sockets_lie_where_they_can(tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("r")  # a short path
    monkeypatch.setattr(kernel_module, "_temporary_folders", lambda: iter([f"{root}/ok"]))
    for place in (f"{root}/{'ü' * 40}", f"{root}/a:b", "/proc/none"):
        assert kernel_module._run_folder(place).parent == root / "ok"
    monkeypatch.setattr(kernel_module, "_temporary_folders", lambda: iter([]))
    with pytest.raises(UsageError, match="no place for the grader's sockets .*set TMPDIR"):
        kernel_module._run_folder("/proc/none")
