"""The sandbox does what a grader needs: kernels that start, see what they may see, can be stopped, and leave nothing."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from grade.sandboxes import LIMITS, Kernel, kernel, snapshot, wait_until_gone, walls_or_skip
from jupyter_client.manager import start_new_kernel

from ftlab.errors import UsageError
from ftlab.grade import cgroups, cold, processes
from ftlab.grade import kernel as kernel_module
from ftlab.grade.kernel import Limits, Walls

pytest_plugins = ["grade.sandbox_plugin"]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def one(forked):
    with kernel(forked, {"FTLAB_PROBE_SEED": "seed 1"}) as running:
        yield running


def test_the_warmed_process_is_one_thread_and_has_the_libraries(forked):
    facts = forked.warm()
    assert facts["threads"] == 1
    assert not set(facts["missing"]) & {"torch", "transformers", "matplotlib.pyplot", "ipykernel.kernelapp"}


def test_a_kernel_has_torch_the_package_and_the_environment_that_was_given(one):
    assert one.value("'torch' in __import__('sys').modules") == "True"
    assert one.value("'ftlab' in __import__('sys').modules") == "False"
    assert one.value("__import__('shown').ANSWER") == "42"
    assert one.value("__import__('os').environ['FTLAB_PROBE_SEED']") == "seed 1"
    assert one.value("__import__('torch').get_num_threads()") == "1"


def test_nothing_of_the_graders_environment_is_taken_over(one):
    names = set(one.value("' '.join(__import__('os').environ)").split())
    assert "FTLAB_TEST_SECRET" in os.environ and "FTLAB_TEST_SECRET" not in names
    allowed = set(cold.environment("x", 1)) | {"FTLAB_PROBE_SEED"}
    shell = {"PAGER", "GIT_PAGER", "CLICOLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "LINES", "COLUMNS", "PYDEVD_USE_FRAME_EVAL"}
    assert names - allowed - shell == set()
    assert one.value("'not for kernels' in open('/proc/self/environ').read()") == "False"


def test_its_working_folder_is_private_and_writable(one):
    assert one.value("__import__('os').getcwd()") == "/ftlab-sandbox/scratch/work"
    assert one.run("open('note', 'w').write('x'); import tempfile; tempfile.NamedTemporaryFile()").status == "ok"
    assert one.run("import torch.multiprocessing as mp; q = torch.zeros(9).share_memory_()"
                   if one.run("import torch").status == "ok" else "1/0").status == "ok"  # fmt: skip


def test_it_is_nobody_without_any_capability(one):
    status = one.run("print(open('/proc/self/status').read())").text
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["65534"] * 4
    assert {int(facts[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")


def test_a_command_in_a_cell_runs_and_pip_says_clearly_that_it_cannot(one):
    assert "sandbox" in one.run("!hostname || cat /proc/sys/kernel/hostname").text
    begun = time.monotonic()
    assert "No matching distribution" in one.run("!pip install no-such-package").text
    assert time.monotonic() - begun < 15


def test_input_is_an_error_and_not_a_hang(one):
    assert one.raises("input('name?')") == "StdinNotImplementedError"


def test_an_interrupt_reaches_the_cell_and_the_kernel_goes_on(one):
    one.send("import time\nwhile True: time.sleep(0.01)")
    time.sleep(0.3)
    one.manager.interrupt_kernel()
    assert one.value("6 * 7") == "42"


@pytest.mark.full
def test_every_kernel_starts_from_the_same_seeds_forked_or_cold(forked):
    code = "__import__('numpy').random.rand(), __import__('torch').rand(1).item(), hash('x')"
    with kernel(forked) as two, kernel(forked) as three, walls_or_skip("cold") as walls, kernel(walls) as four:
        assert two.value(code) == three.value(code) == four.value(code)
        # The first cell of a cold kernel imports what a forked one has, and that draws from `random`.
        assert two.value("__import__('random').random()") == three.value("__import__('random').random()")


def test_a_kernel_sees_its_own_package_only_and_cannot_change_it(forked, tmp_path):
    (tmp_path / "other.py").write_text("SECRET = 1\n")
    os.chmod(tmp_path / "other.py", 0o600)  # its copy can be read all the same
    with kernel(forked, package=tmp_path) as two:
        assert two.value("__import__('other').SECRET") == "1"
        assert two.raises("import shown") == "ModuleNotFoundError"
        refused = ("OSError", "PermissionError")  # a read-only file system, or a file of root's on it
        assert two.raises("open('/ftlab-sandbox/package/other.py', 'a')") in refused
        assert two.raises("import os; os.chmod('/ftlab-sandbox/package/other.py', 0o777)") in refused
        assert two.raises("os.remove('/ftlab-sandbox/package/other.py')") in refused
    assert (tmp_path / "other.py").read_text() == "SECRET = 1\n"


def test_a_stopped_kernel_leaves_no_process_no_folder_and_no_group(forked):
    running = Kernel(forked)
    running.run("import subprocess; subprocess.Popen(['sleep', '100'], start_new_session=True)")
    keeper = processes.tree(forked._zygote.pid)
    room, group, names = running.manager.provisioner.room, running.process._group, snapshot(running.process.pid)
    assert len(names) == 3 and room.is_dir()  # PID 1, the kernel, sleep
    before = len(os.listdir("/proc/self/fd"))
    running.end()
    assert wait_until_gone(names, 0.5) == []
    assert not room.exists()
    assert group is None or not any(folder.exists() for folder in group.folders.values())
    assert len(os.listdir("/proc/self/fd")) < before
    time.sleep(0.2)
    assert set(processes.tree(forked._zygote.pid)) < set(keeper)  # its keeper has gone, too
    assert running.manager.provisioner.cause is None and forked.cause(running.manager.kernel_id) is None


def test_a_polite_shutdown_needs_no_cause_either(forked):
    running = Kernel(forked)
    running.client.stop_channels()
    running.manager.shutdown_kernel()
    assert running.manager.provisioner.cause is None and running.process.returncode == 0


def test_a_kernel_can_be_restarted(forked):
    with kernel(forked) as running:
        running.run("x = 1")
        running.manager.restart_kernel(now=True)
        running.client.wait_for_ready(timeout=30)
        running.process = running.manager.provisioner.kernel
        assert running.raises("x") == "NameError"


@pytest.mark.parametrize("code, status", [("import os; os._exit(3)", 3), ("import ctypes; ctypes.string_at(0)", -11)])
def test_a_kernel_that_dies_is_known_to_be_dead_at_once(forked, code, status):
    with kernel(forked) as running:
        running.send(code)
        assert running.wait_dead(3) < 3
        assert running.process.returncode == status
        assert running.manager.provisioner.cause == forked.cause(running.manager.kernel_id) == "kernel_died"


def test_a_child_process_can_start_a_kernel_with_this_package_on_its_path_only(forked, tmp_path):
    name = forked.kernel_name(forked.package)
    code = ("import sys; from jupyter_client.manager import start_new_kernel as start\n"
            "manager, client = start(kernel_name=sys.argv[1])\n"
            "client.execute_interactive('import shown; print(shown.ANSWER)', timeout=30)\n"
            "client.stop_channels(); manager.shutdown_kernel(now=True)\n"
            "print(type(manager.provisioner).__name__, 'ftlab.grade.kernel' in sys.modules)")  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or "ftlab-walls" in value}
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.split() == ["42", "SandboxProvisioner", "True"], done.stderr


# --- death: of the manager, the keeper, PID 1 -----------------------------------------------------------------------------


def _chain(forked, running):
    """(keeper, PID 1, kernel), as numbered here."""
    init = running.process.pid
    keeper = int(pathlib.Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[1])
    return keeper, init, processes.tree(init)[1]


@pytest.mark.parametrize("victim", ["keeper", "PID 1", "kernel"])
def test_no_process_outlives_another_of_its_chain(forked, victim):
    with kernel(forked) as running:
        running.run("import subprocess; subprocess.Popen(['sleep', '100'], start_new_session=True)")
        keeper, init, inner = _chain(forked, running)
        names = snapshot(init) + [(keeper, processes.start(keeper))]
        os.kill({"keeper": keeper, "PID 1": init, "kernel": inner}[victim], signal.SIGKILL)
        assert wait_until_gone(names, 1) == []
        assert running.wait_dead(1) < 1
        assert running.manager.provisioner.cause == "kernel_died"
    with kernel(forked) as running:
        assert running.value("1") == "1"


def test_a_kernel_does_not_outlive_its_manager(forked):
    name = forked.kernel_name(forked.package)
    code = ("import sys, time; from jupyter_client.manager import start_new_kernel as start\n"
            "manager, client = start(kernel_name=sys.argv[1])\n"
            "print(manager.provisioner.kernel.pid, flush=True); time.sleep(100)")  # fmt: skip
    child = subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True)
    init = int(child.stdout.readline())
    names = snapshot(init)
    assert len(names) == 2
    child.kill()
    child.wait()
    child.stdout.close()
    assert wait_until_gone(names, 1) == []


GRADER = """
import os, sys, time
from jupyter_client.manager import start_new_kernel
from ftlab.grade.kernel import Walls
walls = Walls(sys.argv[1], scratch_root=sys.argv[2]).__enter__()
manager, client = start_new_kernel(kernel_name=walls.kernel_name())
print(walls.folder, manager.provisioner.kernel.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.full
@pytest.mark.parametrize("mode", ["forked", "cold"])
@pytest.mark.parametrize("victim", ["grader", "child"])
def test_nothing_outlives_the_grader_or_the_warmed_process(mode, victim, tmp_path_factory):
    with walls_or_skip(mode):
        pass
    root = tmp_path_factory.mktemp("r")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    child = subprocess.Popen([sys.executable, "-c", GRADER, mode, root], stdout=subprocess.PIPE, text=True, env=environment)
    folder = pathlib.Path(child.stdout.readline().split()[0])
    names = snapshot(child.pid)[1:]
    assert len(names) >= 3  # bwrap twice, and a kernel
    # The child of bwrap's PID 1: the warmed process, or the cold kernel.
    inner = names[2][0]
    os.kill(child.pid if victim == "grader" else inner, signal.SIGKILL)
    assert wait_until_gone(names, 2) == []
    child.kill()
    child.wait()
    child.stdout.close()
    # What a killed grader leaves on disk the next one sweeps away, and its groups with it.
    assert folder.is_dir()
    with walls_or_skip("cold", scratch_root=root) as walls:
        assert not folder.exists()
        if walls._cgroup:
            assert not any((path.parent / folder.name).exists() for path in walls._cgroup.folders.values())


def warmed(walls):
    """The warmed process: the first Python inside bubblewrap. Kernels that it forked, which may not be gone yet, follow."""
    for pid in processes.tree(walls._zygote.pid):
        if "python" in pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]:
            return pid
    raise AssertionError("no Python among the processes inside")


@pytest.mark.full
def test_a_dead_warmed_process_is_replaced(tmp_path):
    with walls_or_skip("forked") as walls:
        with kernel(walls) as running:
            assert running.value("1") == "1"
        os.kill(warmed(walls), signal.SIGKILL)
        walls._zygote.wait(60)
        with kernel(walls) as running:
            assert running.value("1") == "1"


@pytest.mark.full
def test_twenty_kernels_one_after_another_leave_memory_and_files_as_they_were(forked):
    def held():
        pids = [os.getpid(), *processes.tree(forked._zygote.pid)]
        return len(os.listdir("/proc/self/fd")), len(pids), sum(map(processes.private, pids)) / 2**20

    for _ in range(3):
        Kernel(forked).end()
    time.sleep(0.3)
    files, count, memory = held()
    for _ in range(20):
        Kernel(forked).end()
    time.sleep(0.3)
    after = held()
    assert after[:2] == (files, count)
    assert after[2] < memory + 10  # MiB


# --- cold, and which mode is taken ----------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_cold_kernel_has_the_same_walls(tmp_path):
    (tmp_path / "shown.py").write_text("ANSWER = 42\n")
    with walls_or_skip("cold") as walls, kernel(walls, {"FTLAB_PROBE_SEED": "s"}, tmp_path) as running:
        assert running.value("__import__('shown').ANSWER, __import__('os').environ['FTLAB_PROBE_SEED']") == "42 s"
        assert running.value("__import__('os').getuid() not in (0, 1)") == "True"
        assert running.value("__import__('os').getcwd()") == "/ftlab-sandbox/scratch/work"
        assert running.raises(f"open({str(ROOT / 'pyproject.toml')!r})") == "FileNotFoundError"
        assert running.raises("open('/ftlab-sandbox/package/shown.py', 'a')") in ("OSError", "PermissionError")
        assert running.raises("open('/usr/x', 'w')") in ("OSError", "PermissionError")
        for folder in (".", "/dev/shm"):
            code = f"for number in range(600):\n    open(f'{folder}/many{{number}}', 'w').close()"
            assert running.raises(code) == "OSError", "500 files are allowed"
            assert running.run(f"import glob, os; [os.remove(path) for path in glob.glob('{folder}/many*')]").status == "ok"
        code = "from multiprocessing import shared_memory; shared_memory.SharedMemory(create=True, size=99)"
        assert running.run(code).status == "ok"
        assert str(walls.folder) not in running.run("!cat /proc/1/cmdline").text
        running.send("import time\nwhile True: time.sleep(0.01)")
        time.sleep(0.3)
        running.manager.interrupt_kernel()
        assert running.value("1") == "1"
        names = snapshot(running.process._process.pid)
        assert len(names) >= 3  # bwrap, its PID 1, the kernel
        running.end()
        assert wait_until_gone(names, 1) == []
        assert running.manager.provisioner.cause is None
        with kernel(walls, package=tmp_path) as second:
            second.send("import os; os._exit(1)")
            second.wait_dead(3)
            assert second.manager.provisioner.cause == "kernel_died"


def test_where_nothing_works_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    before = set(pathlib.Path(tmp_path).iterdir())
    with pytest.raises(UsageError, match="apt-get install bubblewrap.*--unsafe"):
        Walls(scratch_root=tmp_path).__enter__()
    assert set(tmp_path.iterdir()) == before


def test_an_old_or_broken_bubblewrap_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    script = tmp_path / "bwrap"
    script.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    script.chmod(0o755)
    with pytest.raises(UsageError, match="bubblewrap 0.8 or later is needed, not bubblewrap 0.4.1"):
        Walls("cold").__enter__()
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.9.0 && exit\n'
                      "echo bwrap: No permissions to create new namespace >&2; exit 1\n")  # fmt: skip
    for mode in ("forked", "cold"):
        with pytest.raises(UsageError, match="No permissions to create new namespace.*in a container") as raised:
            Walls(mode).__enter__()
        assert "apt-get" not in str(raised.value) and "\n" not in str(raised.value), "it is installed"


def test_without_nested_namespaces_auto_falls_back_to_cold(monkeypatch):
    monkeypatch.setattr(Walls, "_start_zygote", lambda self: "unshare: Operation not permitted")
    with walls_or_skip("auto") as walls:
        if walls.mode == "container":
            pytest.skip("no bubblewrap")
        assert walls.mode == "cold" and "not forked: unshare" in walls.describe()


BY_A_CONTAINERS_ROOT = """
import sys
sys.path.insert(0, sys.argv[1])
from grade.sandboxes import kernel
from ftlab.grade.kernel import Walls
with Walls("auto") as walls, kernel(walls) as running:
    print(walls.mode, running.value("__import__('os').getuid()"), running.raises("open('/usr/x', 'w')"))
"""


def test_the_root_of_a_container_grades_behind_the_walls_of_any_user():
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv: gives up what a container's root has not")
    with walls_or_skip("cold"):
        pass
    # Docker's default for root: all but CAP_SYS_ADMIN of what grading needs.
    command = ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-c", BY_A_CONTAINERS_ROOT, ROOT / "tests"]
    done = subprocess.run(command, capture_output=True, text=True)
    mode, user, refused = done.stdout.split() or [done.stderr] * 3
    assert mode in ("forked", "cold"), done.stderr
    assert user == "65534" and refused in ("OSError", "PermissionError")


def test_no_walls_only_when_asked_for(tmp_path):
    (tmp_path / "shown.py").write_text("ANSWER = 42\n")
    with Walls("unsafe") as walls:
        assert "no sandbox" in walls.describe()
        folder = walls.folder / "jupyter/kernels" / walls.kernel_name(tmp_path, {"A": "1"})
        spec = json.loads((folder / "kernel.json").read_text())
        assert spec["env"]["A"] == "1" and (pathlib.Path(spec["env"]["PYTHONPATH"]) / "shown.py").exists()
        assert "kernel_provisioner" not in spec.get("metadata", {})


@pytest.mark.full
def test_without_walls_an_editable_install_does_not_bring_back_what_a_kernel_must_not_have(tmp_path, monkeypatch):
    """Its finder, last in line, knows the whole package, and so finds what the kernel's copy lacks."""
    site, whole, copy = tmp_path / "site", tmp_path / "whole/shown", tmp_path / "copy"
    for folder, name in ((whole, "absent.py"), (copy / "shown", "there.py"), (site, "sitecustomize.py")):
        folder.mkdir(parents=True)
        (folder / name).write_text("")
    for folder in (whole, copy / "shown"):
        (folder / "__init__.py").write_text("")
    (site / "sitecustomize.py").write_text(
        "import sys\nfrom importlib.machinery import PathFinder\nclass EditableFinder:\n    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        return PathFinder.find_spec(name, [{str(whole)!r}]) if name == 'shown.absent' else None\n"
        "sys.meta_path.append(EditableFinder)\n")  # fmt: skip
    with Walls("unsafe") as walls:
        name = walls.kernel_name(copy)
        spec = walls.folder / "jupyter/kernels" / name / "kernel.json"
        told = json.loads(spec.read_text())
        told["env"]["PYTHONPATH"] += f"{os.pathsep}{site}"
        spec.write_text(json.dumps(told))
        manager, client = start_new_kernel(kernel_name=name)
        try:
            for code, status in (("import shown.there", "ok"), ("import shown.absent", "error"), ("__file__", "error")):
                reply = client.execute_interactive(code, timeout=30, output_hook=lambda message: None)
                assert reply["content"]["status"] == status, (code, reply["content"])
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        found = subprocess.run([sys.executable, "-c", "import shown.absent"], env={**os.environ, **told["env"]})
        assert found.returncode == 0, "so it is by itself"


def test_bad_requests_are_named(tmp_path):
    with pytest.raises(UsageError, match="no sandbox mode 'strong'"):
        Walls("strong")
    with pytest.raises(UsageError, match="memory_mib must be greater than 0"):
        Limits(memory_mib=0)
    with pytest.raises(UsageError, match="processes must be at least 16"):
        Limits(processes=4)
    with Walls("unsafe") as walls, pytest.raises(UsageError, match="no folder .*/none"):
        walls.kernel_name(tmp_path / "none")


def test_the_environment_is_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", "/mine")
    before = dict(os.environ)
    with Walls("unsafe") as walls:
        assert os.environ["JUPYTER_PATH"] == f"{walls.folder}/jupyter{os.pathsep}/mine"
    assert dict(os.environ) == before


# --- the parts ------------------------------------------------------------------------------------------------------------


def test_the_house_shows_no_home_no_repository_and_no_second_copy_of_the_package(tmp_path, monkeypatch):
    house = cold.house(tmp_path)
    shown = [pathlib.Path(path) for path in house.binds]
    for private in map(pathlib.Path, (ROOT / "ftlab", ROOT / "solutions", pathlib.Path.home(), tmp_path, "/var", "/run")):
        assert not any(private.is_relative_to(path) for path in shown), private
    assert any(pathlib.Path(sys.prefix, "bin").resolve().is_relative_to(path) for path in shown)
    site = tmp_path / "site-packages"
    (site / "ftlab").mkdir(parents=True)
    monkeypatch.setattr(cold.site, "getsitepackages", lambda: [str(site)])
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    house = cold.house(tmp_path, hidden=[site / "private"])
    assert str(site) in house.binds and house.masked == [str(site / "ftlab")]
    (site / "private").mkdir()
    house = cold.house(tmp_path, hidden=[site / "private"])
    assert str(site / "private") in house.masked
    command = cold.bubblewrap("bwrap", house, dataclasses.asdict(LIMITS), None)
    assert command.index(str(site / "private")) > command.index(str(site))


def test_the_container_has_no_network_no_rights_and_bounds():
    command = cold.container_command("docker", "name", "image", dataclasses.asdict(LIMITS), "/pack", "/door")
    text = " ".join(command)
    for wanted in ("--network none", "--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--memory 512m",
                   "--memory-swap 512m", "--pids-limit 48", "--user 65534:65534", "--volume /pack:/ftlab-sandbox/package:ro",
                   "--volume /door:/ftlab-sandbox/door:ro", "size=64m,nr_inodes=500", "--pull never"):  # fmt: skip
        assert wanted in text
    assert all(word.endswith(":ro") for before, word in zip(command, command[1:], strict=False) if before == "--volume")
    assert command[command.index("image") :] == ["image", "-s", "/ftlab-sandbox/scripts/inside.py", "/ftlab-sandbox/door/door"]


FAKE_RUNTIME = """#!/bin/sh
# Stands in for {name}: notes what it is told, and runs nothing.
[ "$1" = --version ] && echo {name} version 9 && exit 0
echo "$@" >> {log}
case "$1,$*" in
  image*) exit 0;;
  run*rehearsal*) echo {says} >&2; exit {status};;
  run*) echo 'no such image' >&2; exit 125;;
  inspect*) echo false;;
esac
"""


def fake_runtime(tmp_path, monkeypatch, status=0, says="", name="docker"):
    """Only this runtime is there, and the shell; returns the path of its notes."""
    script = tmp_path / name
    script.write_text(FAKE_RUNTIME.format(name=name, log=tmp_path / "log", status=status, says=f"'{says}'"))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "log"


def test_a_container_that_does_not_start_is_an_error_with_its_words(tmp_path, monkeypatch):
    log = fake_runtime(tmp_path, monkeypatch)
    with Walls("container") as walls:
        assert walls.mode == "container" and "container runtime" in walls.describe()
        with pytest.raises(RuntimeError, match="could not be started: no such image"):
            Kernel(walls)
        assert list((walls.folder / "kernels").glob("*/door")) == []
    calls = log.read_text().splitlines()
    assert calls[0] == "image inspect ftlab-grade"
    assert calls[1].startswith("run --name ftlab-walls-") and "-rehearsal " in calls[1]
    assert calls[3].startswith("run --name ftlab-walls-") and calls[-1].startswith("rm --force ftlab-walls-")
    assert "nr_inodes=20000" in calls[3]


@pytest.mark.parametrize("status, says, told", [
    (126, "Error: unknown mount option", "docker: Error: unknown mount option.; install bubblewrap"),
    (3, "", "docker: the image ftlab-grade holds the course itself, with its answers: docker build .*--target environment"),
])  # fmt: skip
def test_a_container_that_cannot_be_graded_in_is_refused_before_anything_is(status, says, told, tmp_path, monkeypatch):
    fake_runtime(tmp_path, monkeypatch, status, says)
    with pytest.raises(UsageError, match=told):
        Walls("container").__enter__()


def test_podmans_scratch_folder_has_no_option_that_it_does_not_know(tmp_path, monkeypatch):
    fake_runtime(tmp_path, monkeypatch, name="podman")
    command = cold.container_command(str(tmp_path / "podman"), "name", "image", dataclasses.asdict(LIMITS), "/pack", "/door")
    assert "nr_inodes" not in " ".join(command) and "size=64m" in " ".join(command)


def test_groups_of_version_2_are_made_where_both_controllers_are_handed_on(tmp_path, monkeypatch):
    own = tmp_path / "user.slice/app.slice/here.scope"
    own.mkdir(parents=True)
    for folder, controllers in ((own, ""), (own.parent, "memory pids"), (tmp_path, "cpu memory pids")):
        (folder / "cgroup.subtree_control").write_text(controllers)
    monkeypatch.setattr(cgroups, "_mounts", lambda: {"unified": tmp_path})
    monkeypatch.setattr(cgroups, "_own", lambda: {"": "user.slice/app.slice/here.scope"})
    group = cgroups.make("ftlab-walls-x")
    assert group.folders == dict.fromkeys(("memory", "pids"), own.parent / "ftlab-walls-x") and group.version == 2
    child = group.child("k", 1 << 29, 48)
    assert (child.folders["memory"] / "memory.max").read_text() == str(1 << 29)
    assert (child.folders["pids"] / "pids.max").read_text() == "48"
    (child.folders["memory"] / "memory.events").write_text("low 0\nmax 5\noom 2\noom_kill 1\n")
    assert child.out_of_memory() == 1
    assert cgroups.Cgroup(**json.loads(json.dumps(child.as_json()))).folders == child.folders
    monkeypatch.setattr(cgroups, "_own", lambda: {"": ""})
    (tmp_path / "cgroup.subtree_control").write_text("cpu")
    assert cgroups.make("ftlab-walls-y") is None


def test_a_run_folder_of_a_dead_grader_is_swept_and_a_living_ones_is_not(tmp_path_factory):
    root = tmp_path_factory.mktemp("r")
    assert kernel_module._run_folder(root).parent == root
    dead = root / "ftlab-walls-dead"
    dead.mkdir()
    (dead / "owner").write_text(json.dumps({"pid": os.getpid(), "start": 1}))  # our number, another process
    kernel_module._run_folder(root)
    assert not dead.exists() and len(list(root.iterdir())) == 2


def test_a_path_too_long_for_sockets_is_not_used(tmp_path):
    long = tmp_path / ("x" * 100)
    folder = kernel_module._run_folder(long)
    try:
        assert len(str(folder / "kernels/01234567/c-5")) < 100
    finally:
        (folder / "owner").unlink()
        folder.rmdir()
