"""Kernels in real containers, where docker or podman and an image to grade in are there.

    docker build -f docker/Dockerfile --target environment -t ftlab-grade .     # or podman, or FTLAB_GRADE_IMAGE
"""

import pathlib
import time

import pytest
from grade.sandboxes import kernel, snapshot, wait_until_gone, walls_or_skip

pytestmark = [pytest.mark.full, pytest.mark.slow]
FORKS = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(100)
        made += 1
except OSError as error:
    print(made < 48, error.errno)
"""


@pytest.fixture(scope="module")
def walls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    folder.chmod(0o755)
    (folder / "shown.py").write_text("ANSWER = 42\n")
    with walls_or_skip("container") as walls:
        walls.package = folder
        yield walls


@pytest.fixture(scope="module")
def one(walls):
    with kernel(walls, {"FTLAB_PROBE_SEED": "s"}) as running:
        yield running


def test_it_has_its_package_and_is_nobody(one):
    assert one.value("__import__('shown').ANSWER, __import__('os').environ['FTLAB_PROBE_SEED']") == "42 s"
    assert one.value("__import__('os').getuid(), __import__('os').getcwd()") == "65534 /ftlab-sandbox/scratch/work"
    facts = dict(line.split(":\t", 1) for line in one.run("print(open('/proc/self/status').read())").text.splitlines()
                 if ":\t" in line)  # fmt: skip
    assert {int(facts[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")


def test_it_can_write_in_its_scratch_folder_only_and_not_without_end(one):
    for path in ("/usr/x", "/ftlab-sandbox/package/shown.py", "/ftlab-sandbox/scripts/inside.py", "/etc/passwd"):
        assert one.raises(f"open({path!r}, 'a')") in ("OSError", "PermissionError"), path
    assert one.raises("with open('big', 'wb') as file:\n    file.write(bytes(80 << 20))") == "OSError"
    assert one.run("import os; os.remove('big'); open('small', 'w').write('x')").status == "ok"


def test_it_has_no_network_and_sees_nothing_of_the_grader(one):
    assert one.raises("import socket; socket.create_connection(('192.0.2.1', 9), 1)") == "OSError"
    assert one.run("import os; print(os.listdir('/sys/class/net'))").text.strip() in ("['lo']", "[]")
    assert one.raises(f"open({str(pathlib.Path(__file__).resolve())!r})") == "FileNotFoundError"


def test_an_interrupt_reaches_the_cell(one):
    one.send("import time\nwhile True: time.sleep(0.01)")
    time.sleep(0.5)
    one.manager.interrupt_kernel()
    assert one.value("1") == "1"


def test_its_death_is_known_with_its_cause(walls):
    for code, cause, status in (("import os; os._exit(3)", "kernel_died", 3), ("x = bytearray(900 << 20)", "oom", 137)):
        with kernel(walls) as running:
            running.send(code)
            running.wait_dead(20)
            assert (running.manager.provisioner.cause, running.process.returncode) == (cause, status)


def test_a_bomb_of_processes_is_bounded_and_leaves_nothing(walls):
    with kernel(walls) as running:
        assert running.run(FORKS).text.strip() == "True 11"
        names = snapshot(running.process.pid)
    assert wait_until_gone(names, 5) == []
    assert running.process._runtime("ps", "--all", "--quiet", "--filter", f"name={running.process._name}").stdout == ""
