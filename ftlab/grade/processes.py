"""The process of one kernel behind each kind of walls, as seen from outside, in the manner of subprocess.Popen."""

import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading
import time

from ftlab.grade import cgroups, cold, door

PATIENCE = 150  # seconds for a kernel to stand: the warmed process may still be importing
_BEAT = 0.1  # seconds between two looks of the watcher


class _Kernel:
    """poll, wait, send_signal, kill, terminate, pid, returncode; and cause, clean.

    A subclass sets `pid` (the process inside, as numbered here) and `inner` (a pidfd of the kernel) and says how to
    look at, end and tidy up its walls. `stopped`: its manager wants it to end, so its death needs no cause.
    """

    stdin = stdout = stderr = None
    returncode = cause = pid = inner = None
    stopped = False

    def __init__(self, order, request, listeners, room, kernel_id):
        self.order, self.room = order, room
        self._note = pathlib.Path(order["folder"], "causes", kernel_id)
        self._group = self._watcher = None
        self._over, self._done = False, threading.Event()
        try:
            self._start(request, listeners)
        except BaseException:
            self.kill()
            self.clean()
            raise
        if self.inner is not None and self._group is None and order["mode"] != "container":
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()

    def poll(self):
        """None while it lives, then its status: the exit code, or minus a signal's number."""
        if self.returncode is None:
            status = self._status()
            if status is not None:
                if not self.stopped:
                    self.cause = "oom" if self._out_of_memory() else "kernel_died"
                    with contextlib.suppress(OSError):  # the run folder may be gone by now
                        self._note.write_text(self.cause)
                self.returncode = status
        return self.returncode

    def wait(self, timeout=None):
        until = time.monotonic() + timeout if timeout is not None else None
        while self.poll() is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("the kernel", timeout)
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, signum):
        """To the kernel itself; SIGKILL ends all that the walls hold."""
        if signum == signal.SIGKILL:
            self.kill()
        elif self.poll() is None:
            self._signal(signum)

    def terminate(self):
        self.stopped = self.stopped or self.poll() is None
        self.send_signal(signal.SIGTERM)

    def kill(self):
        if self.poll() is None:
            self.stopped = True
            self._kill()

    def clean(self):
        """Let go of everything that the kernel held outside; the kernel is dead by then."""
        self._done.set()
        if self._watcher:
            self._watcher.join()
        self._release()
        if self._group:
            self._group.remove()
        if self.inner is not None:
            os.close(self.inner)
            self.inner = None

    def _signal(self, signum):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.inner, signum)

    def _out_of_memory(self):
        return self._over or bool(self._group and self._group.out_of_memory())

    def _join_group(self, pid):
        """Put the process that holds the kernel into a cgroup of its own, before it has started anything."""
        if self.order["cgroup"]:
            limits = self.order["limits"]
            parent = cgroups.Cgroup(**self.order["cgroup"])
            self._group = parent.child(self.room.name, limits["memory_mib"] << 20, limits["processes"])
            self._group.add(pid)

    def _watch(self):
        """Where there is no cgroup: look at the memory of the kernel and its children, and end them when it is too much.

        The limit can be passed by what is allocated between two looks; RLIMIT_DATA stops a single process behind it.
        """
        most = self.order["limits"]["memory_mib"] << 20
        while self.returncode is None and not self._done.wait(_BEAT):
            pids = tree(self.pid)
            if sum(map(resident, pids)) > most and sum(map(private, pids)) > most:
                self._over = True
                self._kill()
                return


class Forked(_Kernel):
    """A kernel forked by the warmed process; the connection to its keeper is the leash (zygote.py)."""

    _holder = None  # pidfd of PID 1 of the kernel's namespace: when it is dead, so is everything in there

    def _start(self, request, listeners):
        package = self.order["source"]
        request["package_source"] = package and f"{cold.PACKAGES}/{pathlib.Path(package).name}"
        self._leash = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._leash.settimeout(PATIENCE)
        try:
            self._leash.connect(str(pathlib.Path(self.order["folder"], "zygote")))
        except OSError as error:
            raise RuntimeError(f"the warmed process is gone ({error.strerror})") from None
        door.send(self._leash, request, [listener.fileno() for listener in listeners])
        self._holder = self._expect("init")
        self.pid = pid_of(self._holder)
        self._join_group(self.pid)
        door.send(self._leash, {"go": True})
        self.inner = self._expect("kernel")

    def _expect(self, name):
        message, descriptors = door.receive(self._leash)
        if message is None or name not in message:
            raise RuntimeError(f"the kernel could not be started: {(message or {}).get('error', 'it died at once')}")
        return descriptors[0]

    def _status(self):
        if self._holder is None:
            return -signal.SIGKILL
        if not select.select([self._holder], [], [], 0)[0]:
            return None
        self._leash.settimeout(0)
        with contextlib.suppress(OSError):
            while (message := door.receive(self._leash)[0]) is not None:
                if "exit" in message:
                    return message["exit"]
        return -signal.SIGKILL  # PID 1 was killed before it could tell

    def _kill(self):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._holder, signal.SIGKILL)

    def _release(self):
        self._leash.close()  # the keeper leaves, and kills what might still be there
        if self._holder is not None:
            select.select([self._holder], [], [], 5)
            os.close(self._holder)
            self._holder, self.returncode = None, self.returncode if self.returncode is not None else -signal.SIGKILL


class Boxed(_Kernel):
    """A new Python in bubblewrap."""

    _process = _holder = None

    def _start(self, request, listeners):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        (block, go), (told, info) = os.pipe(), os.pipe()
        log = self.room / "log"
        with ours, theirs, open(log, "wb") as errors, open(go, "wb", 0) as go, open(told, "rb") as told:
            order = self.order
            command = cold.kernel_command(
                order["program"], cold.House(**order["house"]), order["limits"], order["user"], order["source"],
                door=theirs.fileno(), block=block, info=info,
            )
            with cold.unseen(command) as (command, options):
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                    pass_fds=[theirs.fileno(), block, info, options],
                )
            os.close(block), os.close(info), theirs.close()
            text = told.read()
            if not text:
                raise RuntimeError(f"bubblewrap: {log.read_text(errors='replace').strip()}")
            self.pid = json.loads(text)["child-pid"]
            self._holder = os.pidfd_open(self.pid)
            self._join_group(self.pid)
            go.write(b"x")
            door.receive(ours)  # it is there; if it is gone, the next call tells
            self._bound_files()
            door.send(ours, request, [listener.fileno() for listener in listeners])
            message, descriptors = door.receive(ours)
            if message is None:
                raise RuntimeError(f"the kernel could not be started: {log.read_text(errors='replace').strip()}")
            self.inner = descriptors[0]

    def _bound_files(self):
        command = [sys.executable, "-S", str(cold.HERE / "bound.py"), str(self.pid), str(self.order["limits"]["files"])]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason told"])[-1]
            raise RuntimeError(f"the number of files that a kernel may write cannot be bounded: {last}")

    def _status(self):
        return self._process.poll() if self._process else -signal.SIGKILL

    def _kill(self):
        with contextlib.suppress(ProcessLookupError):
            if self._holder is not None:
                signal.pidfd_send_signal(self._holder, signal.SIGKILL)
            elif self._process:
                self._process.kill()

    def _release(self):
        if self._process:
            self._process.wait()
        if self._holder is not None:
            os.close(self._holder)
            self._holder = None


class Contained(_Kernel):
    """A new Python in a container; the runtime's own commands signal and end it."""

    _process = None

    def _start(self, request, listeners):
        order = self.order
        self._name = f"{pathlib.Path(order['folder']).name}-{self.room.name}"
        # The runtime counts processes; the limit of a user's would count those of all containers.
        request.update(user=None, limits={**order["limits"], "processes": None, "data_mib": None})
        request["environment"]["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        way = self.room / "door"
        way.mkdir(mode=0o755)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(way / "door"))
            os.chmod(way / "door", 0o666)  # for the user inside; outside the run folder is ours alone
            listener.listen(1)
            listener.settimeout(PATIENCE)
            command = cold.container_command(order["program"], self._name, order["image"], order["limits"],
                                             order["source"], str(way))  # fmt: skip
            log = self.room / "log"
            with open(log, "wb") as errors:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
            self.pid = self._process.pid
            while not select.select([listener], [], [], 0.1)[0]:
                if self._process.poll() is not None:
                    raise RuntimeError(f"the container could not be started: {log.read_text(errors='replace').strip()}")
            connection, _ = listener.accept()
            with connection:
                door.receive(connection)  # it is there; what bounds it the runtime has set up
                door.send(connection, request, [listener.fileno() for listener in listeners])
                message, descriptors = door.receive(connection)
        if message is None:
            raise RuntimeError(f"the kernel could not be started: {log.read_text(errors='replace').strip()}")
        self.inner = descriptors[0]

    def _runtime(self, *arguments):
        return subprocess.run([self.order["program"], *arguments], capture_output=True, text=True, timeout=30)

    def _status(self):
        return self._process.poll() if self._process else -signal.SIGKILL

    def _signal(self, signum):
        self._runtime("kill", "--signal", str(int(signum)), self._name)

    def _kill(self):
        self._runtime("kill", self._name)

    def _out_of_memory(self):
        # podman does not always tell. A SIGKILL that is not ours is the system's (or the code's own: the same points).
        told = self._runtime("inspect", "--format", "{{.State.OOMKilled}}", self._name).stdout.strip()
        return told == "true" or self._status() == 128 + signal.SIGKILL

    def _release(self):
        if self._process:
            self._runtime("rm", "--force", self._name)
            self._process.wait()


# --- what /proc says -----------------------------------------------------------------------------------------------------


def tree(pid):
    """`pid` and all its living descendants, parents first."""
    found, queue = [], [pid]
    while queue:
        found.append(pid := queue.pop(0))
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                queue += map(int, pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def start(pid):
    """When the process was started, in ticks since the machine's start: with the number, its name for all time.

    None when it is dead, also when its parent has not yet taken note of that.
    """
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def pid_of(pidfd):
    """The number, in this PID namespace, of the process that a pidfd from another one stands for."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


def resident(pid):
    """Bytes of anonymous memory in RAM, what is shared with the warmed process included; 0 for the dead."""
    try:
        pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 2 else 0


def private(pid):
    """Bytes of memory in RAM that no other process has; slower than `resident`, which it is where the system says no."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return resident(pid)
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_Dirty"))


def members(group):
    """All processes of a cgroup and of those directly below it."""
    found = group.pids()
    for folder in group.folders.values():
        for below in folder.glob("*/"):
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (below / "cgroup.procs").read_text().split())
    return found
