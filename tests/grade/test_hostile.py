"""What a submission may try against the grader, the machine and its neighbours, and how far it gets.

The hostile code runs inside the sandbox and aims only at files, processes and sockets that the test made itself.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest
from grade.sandboxes import LIMITS, Kernel, kernel, snapshot, wait_until_gone, walls_or_skip

from ftlab.grade import processes

pytest_plugins = ["grade.sandbox_plugin"]
ROOT = pathlib.Path(__file__).parents[2]
REFUSED = {"PermissionError", "FileNotFoundError", "OSError", "ProcessLookupError", "NotADirectoryError"}


@pytest.fixture(scope="module")
def one(forked):
    """A kernel for what leaves it alive."""
    with kernel(forked) as running:
        yield running


def libc(call):
    """Code that makes a system call through libc and raises its error."""
    return ("import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            f"if {call} == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))")  # fmt: skip


def test_files_of_others_do_not_exist_there(forked, one, tmp_path):
    secret = tmp_path / "grades.csv"
    secret.write_text("secret")
    others = [secret, ROOT / "solutions", ROOT / "ftlab", forked.folder, forked.package, "/etc/shadow", "/etc/hostname",
              "/var", "/home", "/run", "/sys/fs/cgroup", "/boot", "/ftlab-sandbox/packages"]  # fmt: skip
    for path in map(str, others):
        assert one.value(f"__import__('os').path.exists({path!r})") == "False", path
    # Nor anywhere else; what Python and the system brought along is left out.
    code = """
import os, sys
for folder, folders, files in os.walk('/'):
    folders[:] = [n for n in folders if os.path.join(folder, n) not in ('/usr', '/proc', sys.prefix, sys.base_prefix)]
    print(*(name for name in files if name.endswith(('.py', '.csv', '.ipynb', '.json'))))
"""
    assert sorted(one.run(code).text.split()) == ["connection.json", "shown.py"]  # in its home, and in its package
    home = str(pathlib.Path.home())
    there = json.loads(one.value(f"__import__('json').dumps(__import__('os').listdir({home!r}) "
                                 f"if __import__('os').path.isdir({home!r}) else [])"))
    way = pathlib.Path(sys.base_prefix).relative_to(home).parts[:1] if sys.base_prefix.startswith(home) else ()
    assert set(there) <= {*way}  # the way to the Python in use, at most


def test_nothing_outside_its_scratch_folder_can_be_written(one):
    code = """
import os
written = []
for folder, folders, _ in os.walk('/'):
    if folder.startswith(('/proc', '/ftlab-sandbox/scratch')):
        folders[:] = []
        continue
    if folder.count('/') > 5:
        folders[:] = []
    try:
        open(folder + '/x-was-here', 'w').close()
        written.append(folder)
    except OSError:
        pass
print(written)
"""
    assert one.run(code, timeout=60).text.strip() == "[]"
    assert one.raises("open('/proc/sys/kernel/hostname', 'w').write('x')") in REFUSED
    assert one.raises("open('/proc/sysrq-trigger', 'w')") in REFUSED


def test_other_processes_cannot_be_seen_or_reached(forked, one):
    numbers = one.value("[n for n in __import__('os').listdir('/proc') if n.isdigit()]")
    assert set(eval(numbers)) == {"1", "2"}  # PID 1 of its own namespace, and itself
    assert one.raises("open('/proc/1/mem', 'rb')") in REFUSED
    assert one.raises("open('/proc/1/environ', 'rb').read()") in REFUSED
    assert one.raises("import os; os.listdir('/proc/1/fd')") in REFUSED
    assert one.raises(libc("libc.ptrace(16, 1, 0, 0)")) == "PermissionError"
    assert one.raises(f"import os; os.kill({os.getpid()}, 0)") in REFUSED
    assert one.raises(f"import os; os.kill({forked._zygote.pid}, 9)") in REFUSED
    with kernel(forked) as neighbour:
        neighbour.run("open('/ftlab-sandbox/scratch/work/mine', 'w').write('mine')")
        assert one.raises("open('/ftlab-sandbox/scratch/work/mine')") == "FileNotFoundError"
        assert one.raises(f"import os; os.kill({neighbour.process.pid}, 9)") in REFUSED
        assert neighbour.value("1") == "1"


def test_no_socket_reaches_out(one, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, \
            socket.socket(socket.AF_UNIX) as abstract:  # fmt: skip
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        abstract.bind(f"\0ftlab-test-{os.getpid()}")
        abstract.listen()
        assert one.raises(f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)") \
            == "ConnectionRefusedError"  # fmt: skip
        one.run(f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('127.0.0.1', {udp.getsockname()[1]}))")
        with pytest.raises(BlockingIOError):
            udp.recv(1)
        assert one.raises(f"socket.socket(socket.AF_UNIX).connect('\\0ftlab-test-{os.getpid()}')") == "ConnectionRefusedError"
    assert one.raises("socket.create_connection(('192.0.2.1', 80), 2)") == "OSError"  # a documentation address: no route
    assert one.value("[name for _, name in socket.if_nameindex()]") == "['lo']"
    for family in ("AF_VSOCK", "AF_PACKET", "AF_ALG"):
        assert one.raises(f"socket.socket(socket.{family}, socket.SOCK_RAW if '{family}' == 'AF_PACKET' else "
                          "socket.SOCK_STREAM)") == "PermissionError"  # fmt: skip


@pytest.mark.parametrize("call", [
    "libc.unshare(0x10000000)", "libc.unshare(0x20000)",
    "libc.mount(b'tmpfs', b'/ftlab-sandbox/scratch/tmp', b'tmpfs', 0, None)", "libc.umount2(b'/ftlab-sandbox/package', 2)",
    "libc.chroot(b'/ftlab-sandbox/scratch')", "libc.setns(os.open('/proc/self/ns/net', os.O_RDONLY), 0)",
    "libc.sethostname(b'x', 1)", "libc.setuid(0)", "libc.personality(0) if libc.syscall(425, 1, 0) != -1 else -1",
    "libc.clone(0, 0, 0x10000000 | 17, 0) if libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) != -1 else -1",
    "libc.setrlimit(6, (ctypes.c_ulong * 2)(9999, 9999))",
])  # fmt: skip
def test_no_call_gives_more_rights(one, call):
    assert one.raises(libc(call)) in ("PermissionError", "OSError")


def test_set_user_id_programs_give_nothing(one):
    assert "uid=0" not in one.run("!su -c id; sudo -n id; mount -t tmpfs none /ftlab-sandbox/scratch/tmp").text
    assert one.raises("import subprocess; subprocess.run(['unshare', '-Ur', 'id'], check=True)") == "CalledProcessError"


def test_the_disk_is_bounded_in_bytes_and_in_files(forked):
    with kernel(forked) as running:
        most = LIMITS.scratch_mib * 2**20
        code = f"""
import os
written = 0
try:
    for number in range(4):
        with open(f'/tmp/big{{number}}', 'wb', 0) as file:
            for _ in range({LIMITS.scratch_mib}):
                written += file.write(bytes(2**20))
except OSError as error:
    print(error.errno, end=' ')
print(written)
"""
        error, written = map(int, running.run(code).text.split())
        assert error in (27, 28) and most / 2 < written <= most  # EFBIG, ENOSPC
        assert running.raises("open('/dev/shm/x', 'wb', 0).write(bytes(2**24))") in (None, "OSError")
        running.run("import glob\nfor name in glob.glob('/tmp/big*') + glob.glob('/dev/shm/x'): os.remove(name)")
        code = ("number = 0\ntry:\n    while True:\n        open(f'/tmp/{number}', 'w').close()\n        number += 1\n"
                "except OSError: print(number)")  # fmt: skip
        assert int(running.run(code).text) < LIMITS.files
    assert not any(name.startswith("big") for name in os.listdir("/tmp"))


def test_a_fork_bomb_meets_the_limit_and_is_gone_with_the_kernel(forked):
    running = Kernel(forked)
    # First that the limit holds, with processes that do nothing.
    code = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError: pass
print(made)
"""
    made = int(running.run(code).text)
    assert 5 < made < LIMITS.processes
    running.end()
    # Then the bomb; what each process does otherwise is nothing.
    running = Kernel(forked)
    running.send("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
    time.sleep(1)
    names = snapshot(running.process.pid)
    assert 5 < len(names) <= LIMITS.processes + 1
    with kernel(forked) as neighbour:
        assert neighbour.value("1") == "1"
    running.end()
    assert wait_until_gone(names, 3) == []


def test_killing_everything_kills_itself_only(forked, one):
    with kernel(forked) as running:
        running.send("import os, signal; os.kill(-1, signal.SIGKILL)")
        time.sleep(0.3)
        running.send("os.kill(1, signal.SIGKILL); os.kill(1, signal.SIGTERM); os.kill(1, signal.SIGINT)")
        time.sleep(0.2)
        assert one.value("1") == "1"
        assert processes.start(forked._zygote.pid) is not None
    with kernel(forked) as running:
        assert running.value("1") == "1"


MEMORY_BOMB = "import numpy\nheld = []\nwhile True: held.append(numpy.ones(2**21))  # 16 MiB each"


def test_a_memory_bomb_is_told_from_other_deaths_and_hurts_no_neighbour(forked, one):
    one.run("x = 1")
    with kernel(forked) as running:
        running.send(MEMORY_BOMB)
        running.wait_dead(20)
        assert running.manager.provisioner.cause == forked.cause(running.manager.kernel_id) == "oom"
    assert one.value("x") == "1"


@pytest.mark.full
def test_a_memory_bomb_meets_the_watcher_where_there_are_no_groups(forked, monkeypatch):
    monkeypatch.setattr(forked, "_cgroup", None)
    with kernel(forked, {"WITHOUT": "cgroups"}) as running:
        running.send("import os, numpy, time\nfor _ in range(3): os.fork()\n"  # eight processes, 80 MiB each
                     "held = [numpy.ones(2**20) for _ in range(10)]; time.sleep(60)")  # fmt: skip
        running.wait_dead(20)
        assert running.manager.provisioner.cause == "oom"
    with kernel(forked, {"WITHOUT": "cgroups"}) as running:
        assert running.value("len([0] * 10_000_000)") == "10000000"


def test_a_daemon_is_gone_with_its_kernel(forked):
    running = Kernel(forked)
    running.run("""
import os, time, threading
threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(1)
    os._exit(0)
""")
    time.sleep(0.2)
    names = snapshot(running.process.pid)
    assert len(names) >= 3
    running.end()
    assert wait_until_gone(names, 1) == []


def test_a_cell_that_ignores_interrupts_can_be_killed(forked):
    running = Kernel(forked)
    running.send("import signal\nfor n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(n, signal.SIG_IGN)\n"
                 "while True: pass")  # fmt: skip
    time.sleep(0.3)
    running.manager.interrupt_kernel()
    time.sleep(0.3)
    assert running.manager.is_alive()
    names = snapshot(running.process.pid)
    begun = time.monotonic()
    running.end()
    assert time.monotonic() - begun < 2 and wait_until_gone(names, 1) == []


def test_a_kernel_that_floods_its_output_can_be_killed_meanwhile(forked):
    running = Kernel(forked)
    running.send("for _ in range(10_000): print('x' * 100_000, flush=True)")
    received, until = 0, time.monotonic() + 10
    while received < 20_000_000 and time.monotonic() < until:
        message = running.client.get_iopub_msg(timeout=10)
        received += len(message["content"].get("text", "")) if message["msg_type"] == "stream" else 0
    assert received >= 20_000_000
    names = snapshot(running.process.pid)
    running.end()
    assert wait_until_gone(names, 1) == []


def test_replacing_its_sockets_and_files_reaches_nothing_outside(forked):
    with kernel(forked) as running:
        listeners = [path for path in running.manager.provisioner.room.iterdir() if path.is_socket()]
        assert len(listeners) == 5
        for path in listeners:
            assert running.raises(f"import os; os.unlink({str(path)!r})") == "FileNotFoundError"
        assert running.run("os.symlink('/etc/passwd', '/ftlab-sandbox/scratch/work/link')").status == "ok"
        assert sorted(path.name for path in running.manager.provisioner.room.iterdir()) == sorted(
            [*(path.name for path in listeners), "connection.json"])  # fmt: skip


@pytest.mark.full
def test_a_cold_kernel_withstands_the_same(tmp_path):
    with walls_or_skip("cold") as walls:
        with kernel(walls) as running:
            for path in (ROOT / "solutions", walls.folder, "/etc/shadow", "/home"):
                assert running.value(f"__import__('os').path.exists({str(path)!r})") == "False"
            assert running.raises(libc("libc.unshare(0x10000000)")) == "PermissionError"
            assert running.raises(libc("libc.ptrace(16, 1, 0, 0)")) == "PermissionError"
            assert running.value("[name for _, name in __import__('socket').if_nameindex()]") == "['lo']"
            code = ("import os\nn = 0\ntry:\n  for i in range(4):\n    with open(f'/tmp/{i}', 'wb', 0) as f:\n"
                    "      for _ in range(64): n += f.write(bytes(2**20))\nexcept OSError: print(n)")  # fmt: skip
            written = running.run(code).text
            assert int(written) <= LIMITS.scratch_mib * 2**20
        with kernel(walls) as running:
            running.send(MEMORY_BOMB)
            running.wait_dead(20)
            assert running.manager.provisioner.cause == "oom"
        running = Kernel(walls)
        made = int(running.run("import os, time\nmade = 0\ntry:\n  while made < 200:\n    if os.fork() == 0: time.sleep(60)\n"
                               "    made += 1\nexcept OSError: pass\nprint(made)").text.split()[-1])  # fmt: skip
        assert made < LIMITS.processes
        names = snapshot(running.process._process.pid)
        running.end()
        assert wait_until_gone(names, 2) == []


@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0, reason="as root: others run the whole of these tests as themselves")
def test_without_root_and_groups_the_walls_stand_too(tmp_path_factory):
    """The same attacks, in a process that has become an ordinary user (where that user can reach this Python)."""
    root = tmp_path_factory.mktemp("u")
    os.chmod(root, 0o777)
    reader, writer = os.pipe()
    user = 61234
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([]), os.setresgid(user, user, user), os.setresuid(user, user, user)
            problem = "" if os.access(sys.executable, os.X_OK) and os.access(sys.prefix, os.X_OK) else "no way to Python"
            os.write(writer, problem.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as file:
        if file.read():
            pytest.skip("this Python lies where other users have no way to")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not without_root", __file__],
        user=user, group=user, extra_groups=[], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "HOME": str(root), "TMPDIR": str(root), "FTLAB_FAST": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
