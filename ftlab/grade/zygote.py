"""The warmed process: it has the libraries in memory and forks a walled-in kernel in the time that takes.

Runs as a script inside bubblewrap (cold.py), as a throw-away user without any capability, and stays a single thread.
For each connection to its socket there is a chain of processes:

    zygote --fork--> keeper        ends the rest when the manager's end of the connection closes; tells how it ended
                     --fork--> init       PID 1 of a fresh PID namespace; builds the kernel's root, and reaps
                               --fork--> kernel   in a user namespace of its own, below the one that owns the mounts

The zygote itself reads nothing from anyone. The keeper reads the order: {package, limits, connection, environment}.
What the manager sees: {"init": true} with a pidfd (it may now put init into a cgroup, then answers {"go": true}),
{"kernel": true} with a pidfd, or {"error": text}; at the end {"exit": status}, as in subprocess.returncode.

Nothing of ftlab is imported here: what is in this process's memory is in every kernel's memory.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
import types

import door
import inside
import namespaces as ns

ROOT = f"{door.OWN}/root"
NOBODY = 65534

# What labs import, down to the modules that these libraries load on first use; what is not installed is left out.
PRELOADED = (
    "torch", "torch.nn.functional", "torch.utils.checkpoint", "torch.nn.utils.prune", "torch._dynamo", "numpy",
    "numpy.random", "safetensors.torch", "tokenizers", "transformers", "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto", "transformers.generation.utils",
    "peft", "matplotlib.pyplot", "matplotlib.figure", "matplotlib.backends.backend_agg",
    "matplotlib_inline.backend_inline", "ipywidgets", "IPython.display", "IPython.core.completer", "ipykernel.kernelapp",
    "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.heartbeat", "ipykernel.iostream", "ipykernel.debugger",
    "IPython.extensions.storemagic", "tqdm.auto", "psutil", "fractions", "statistics",
)  # fmt: skip


def main():
    config = json.loads(sys.argv[1])  # listen, user, visible, links
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the system
    listener = socket.socket(fileno=config["listen"])
    try:
        if config["user"] is not None:
            # One that nothing covers: only then may the kernels, in namespaces of their own, mount theirs.
            ns.mount("proc", "/proc", "proc", ns.NOSUID | ns.NODEV | ns.NOEXEC)
            ns.become(config["user"])
        ns.drop_capabilities()
        ns.dumpable(False)
        _rehearse(config)
    except OSError as error:
        _tell(problem=str(error))
        return 1
    _tell(walls=True)
    inside.enter()  # some libraries want a temporary folder
    started = time.monotonic()
    missing = preload(PRELOADED)
    _tell(ready=True, seconds=time.monotonic() - started, missing=missing, threads=len(os.listdir("/proc/self/task")))
    serve(listener, config)


def _tell(**facts):
    print(json.dumps(facts), flush=True)


def preload(names):
    """Import `names`; the names of those that could not be."""
    sys.modules["debugpy"] = None
    missing = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # not installed, or broken: then the kernel that needs it will say so
            missing.append(name)
    gc.collect()
    gc.freeze()  # a collection in a child then leaves the shared pages alone
    return missing


def serve(listener, config):
    """Fork a keeper for each connection, until the grader's end of stdin closes."""
    while True:
        readable, _, _ = select.select([listener, 0], [], [])
        if 0 in readable and not os.read(0, 1):
            return
        if listener in readable:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _or_die(keeper, connection, config)
            connection.close()


def _or_die(function, *arguments):
    """Run `function` as the rest of this forked process: nothing may climb back into the zygote's own code."""
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


# --- the keeper, in the zygote's namespaces ----------------------------------------------------------------------------


def keeper(connection, config):
    ns.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    order, listeners = door.receive(connection)
    if order is None:
        os._exit(0)
    try:
        _own_user_namespace(0)
        ns.unshare(ns.NEWPID)
        init_pid = os.fork()
    except OSError as error:
        door.send(connection, {"error": str(error)})
        os._exit(1)
    if init_pid == 0:
        _or_die(init, connection, order, listeners, config)
    ns.drop_capabilities()
    for descriptor in listeners:
        os.close(descriptor)
    ended = os.pidfd_open(init_pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(connection, 0)  # reported only when the manager's end is closed
    poll.poll()
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(ended, signal.SIGKILL)
    os.waitpid(init_pid, 0)
    os._exit(0)


def _own_user_namespace(inner):
    """A fresh user namespace, in which this process is user `inner`, with all capabilities there and none outside."""
    outer = os.getuid()
    ns.dumpable(True)  # to write the maps
    ns.unshare(ns.NEWUSER)
    ns.map_user(inner, outer)
    ns.dumpable(False)


# --- PID 1 ---------------------------------------------------------------------------------------------------------------


def init(connection, order, listeners, config):
    ns.die_with_parent()
    ns.unshare(ns.NEWNS | ns.NEWNET | ns.NEWIPC | ns.NEWUTS | ns.NEWCGROUP)
    door.send(connection, {"init": True}, [os.pidfd_open(os.getpid())])
    if door.receive(connection)[0] is None:
        os._exit(0)
    try:
        build_root(config, order["package_source"], order["limits"])
        socket.sethostname("sandbox")
        ns.loopback_up()
        kernel_pid = os.fork()
    except OSError as error:
        door.send(connection, {"error": str(error)})
        os._exit(1)
    if kernel_pid == 0:
        _or_die(kernel, connection, order, listeners)
    for descriptor in listeners:
        os.close(descriptor)
    ns.drop_capabilities()
    ns.no_new_privileges()
    while True:
        pid, status = os.wait()
        if pid == kernel_pid:
            door.send(connection, {"exit": os.waitstatus_to_exitcode(status)})
            os._exit(0)  # takes everything else in this PID namespace along


def build_root(config, package, limits):
    """The kernel's own file tree: the system and one package, read-only, and one bounded scratch folder.

    config["visible"]: paths, shown where they are; config["links"]: {path: what it points to}.
    """
    ns.mount(None, "/", flags=ns.PRIVATE | ns.REC)
    ns.mount("tmpfs", ROOT, "tmpfs", ns.NOSUID | ns.NODEV, "size=1m,nr_inodes=4096,mode=755")
    scratch = f"size={limits['scratch_mib']}m,nr_inodes={limits['files']},mode=755"
    os.makedirs(ROOT + door.SCRATCH)
    ns.mount("tmpfs", ROOT + door.SCRATCH, "tmpfs", ns.NOSUID | ns.NODEV, scratch)
    os.mkdir(ROOT + "/dev")
    for path, content in door.ALIASES.items():
        os.mkdir(ROOT + content)
        if any(shown.startswith(path + "/") for shown in (*config["visible"], *config["links"])):
            ns.bind(ROOT + content, ROOT + path)  # a folder, since something is shown below it
        else:
            os.symlink(content, ROOT + path)
    for path in config["visible"]:
        ns.bind(path, ROOT + path)
    for path, target in config["links"].items():
        os.makedirs(os.path.dirname(ROOT + path), exist_ok=True)
        os.symlink(target, ROOT + path)
    if package:
        ns.bind(package, ROOT + door.PACKAGE)
    _devices()
    os.mkdir(ROOT + "/proc")
    ns.mount("proc", ROOT + "/proc", "proc", ns.NOSUID | ns.NODEV | ns.NOEXEC)
    ns.change_root(ROOT)
    ns.mount(None, "/", flags=ns.BIND | ns.REMOUNT | ns.RDONLY | ns.NOSUID | ns.NODEV)


def _devices():
    for name in ("null", "zero", "full", "random", "urandom"):
        ns.bind(f"/dev/{name}", f"{ROOT}/dev/{name}")
    os.mkdir(ROOT + "/dev/pts")
    # `!command` in a cell runs on a terminal of its own.
    ns.mount("devpts", ROOT + "/dev/pts", "devpts", ns.NOSUID | ns.NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
             "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}  # fmt: skip
    for name, target in links.items():
        os.symlink(target, f"{ROOT}/dev/{name}")


# --- the kernel ----------------------------------------------------------------------------------------------------------


def kernel(connection, order, listeners):
    ns.die_with_parent()
    try:
        # Below the namespace that owns the mounts and the network: no capability here means anything to them.
        _own_user_namespace(NOBODY)
        inside.lock_down(order["limits"])
    except OSError as error:
        door.send(connection, {"error": str(error)})
        os._exit(1)
    door.send(connection, {"kernel": True}, [os.pidfd_open(os.getpid())])
    connection.close()
    sys.modules["__main__"] = types.ModuleType("__main__")
    inside.become_kernel(order, listeners)


def _rehearse(config):
    """OSError with the reason when walls cannot be built here: found out before anything is imported."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            _own_user_namespace(0)
            ns.unshare(ns.NEWPID)
            second = os.fork()
            if second == 0:
                ns.unshare(ns.NEWNS | ns.NEWNET | ns.NEWIPC | ns.NEWUTS | ns.NEWCGROUP)
                build_root(config, None, {"scratch_mib": 1, "files": 100})
                ns.loopback_up()
                _own_user_namespace(NOBODY)
                inside.lock_down({"processes": 16, "scratch_mib": 1, "data_mib": None})
                os._exit(0)
            _, status = os.waitpid(second, 0)
            if status:
                raise OSError(f"the process inside ended with {os.waitstatus_to_exitcode(status)}")
        except BaseException as error:
            os.write(writer, f"{error}".encode()[:4000])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        problem = file.read()
    if problem:
        raise OSError(problem)


if __name__ == "__main__":
    sys.exit(main())
