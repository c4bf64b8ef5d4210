"""Kernels behind walls: `Walls` sets the sandbox up, the provisioner starts each Jupyter kernel in it.

    with Walls() as walls:
        name = walls.kernel_name(package=folder, environment={"FTLAB_PROBE_SEED": secret})
        manager, client = jupyter_client.manager.start_new_kernel(kernel_name=name)

A kernel of that name can also be started by a child process: what it needs is in the environment that Walls exports
(JUPYTER_PATH, and PYTHONPATH where this package is not installed).

Modes. forked: the kernel is forked from a warmed process (zygote.py), which stands in bubblewrap, into namespaces of its
own. cold: a new Python in bubblewrap. container: a new Python in docker or podman. unsafe: a new Python, no walls.
"""

import asyncio
import compileall
import contextlib
import dataclasses
import json
import os
import pathlib
import py_compile
import re
import secrets
import select
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import EntryPoint, entry_points

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from traitlets import Dict

from ftlab.errors import UsageError
from ftlab.files import atomic_write_text, read_json, write_json
from ftlab.grade import cgroups, cold, door, namespaces, processes, shown

PROVISIONER = "ftlab-sandbox"
MODES = ("forked", "cold", "container", "unsafe")
PREFIX = "ftlab-walls-"  # of the run folders and the cgroups
IMAGE = "ftlab-grade"  # or what FTLAB_GRADE_IMAGE says
_HOLDS_ANSWERS = 3
# An editable install's import finder knows where the whole package is, and would find in it what a kernel's copy lacks.
_WITHOUT_EDITABLE = ("import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]; "
                     "import runpy; runpy.run_module('ipykernel_launcher', run_name='__main__', alter_sys=True)")  # fmt: skip
_REHEARSAL = f"import importlib.util as i, ipykernel, sys; sys.exit({_HOLDS_ANSWERS} if i.find_spec('ftlab') else 0)"
# What bubblewrap, and the calls of namespaces.py, say where the system refuses namespaces or mounts.
_REFUSED = re.compile(r"[Nn]amespace|unshare|[ug]id map|not permitted|pivot_root|make / slave|proc on /|on /newroot/proc")
_LONGEST_SOCKET = 107  # bytes of a Unix socket's path
_SYS_ADMIN = 21  # CAP_SYS_ADMIN, by its number in capability.h


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one kernel may use. memory_mib: beyond what it shares with the warmed process; processes: threads count;
    scratch_mib, files: what it may write; cell_seconds, output_bytes: kept by the nbval plugin, not by the walls."""

    memory_mib: int = 2048
    processes: int = 64
    scratch_mib: int = 256
    files: int = 20000
    cell_seconds: float = 60
    output_bytes: int = 2_000_000
    threads: int = 1

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise UsageError(f"the limit {field.name} must be greater than 0, not {getattr(self, field.name)}")
        if self.processes < 16:
            raise UsageError(f"the limit processes must be at least 16 (a kernel alone has ten threads), not {self.processes}")


class Walls:
    """The sandbox of one grader; a context manager.

    mode: "auto" (the first of forked, cold, container that works here) or one of MODES. scratch_root: where the run
    folder is made (sockets and copies of packages; what kernels write stays in memory); default: the temporary folder.
    hidden: folders that no kernel may see even if they lie in the system's (the repository always is).
    Raises UsageError where the mode, or for "auto" every mode, does not work on this machine.
    """

    def __init__(self, mode="auto", limits=None, scratch_root=None, hidden=()):
        if mode not in ("auto", *MODES):
            raise UsageError(f"no sandbox mode {mode!r}; there are auto, {', '.join(MODES)}")
        self.asked, self.mode, self.limits = mode, None, limits or Limits()
        self._root, self._hidden = scratch_root, [pathlib.Path(path).resolve() for path in (*hidden, *_repository())]
        self._zygote = self._cgroup = self._exported = self._program = self._image = None
        self._packages, self._names, self._problems, self._warmth = {}, {}, {}, {}
        self._no_way_to_show = None

    def __enter__(self):
        self.folder = _run_folder(self._root)
        try:
            self._cgroup = cgroups.make(self.folder.name)
            self.user = _throw_away_user()
            for name in ("etc", "packages", "kernels", "causes"):
                (self.folder / name).mkdir()
            self.house = cold.house(self.folder / "etc", self._hidden)
            self.mode = self._choose()
            self._export()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *_):
        if self._exported is not None:
            for name, value in self._exported.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        self._end_zygote()
        if self._cgroup:
            for pid in processes.members(self._cgroup):
                processes.kill(pid)
            self._cgroup.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def describe(self):
        """One line: which walls stand, and how memory and processes are limited."""
        if self.mode == "unsafe":
            return "unsafe: no sandbox; the submissions' code runs as you, with your files and your network"
        counted = f"cgroups v{self._cgroup.version}" if self._cgroup else "a watcher and process limits"
        counted = "the container runtime" if self.mode == "container" else counted
        what = {"forked": "kernels forked from a warmed process in bubblewrap, each in namespaces of its own",
                "cold": "a new Python in bubblewrap for each kernel",
                "container": "a container for each kernel"}[self.mode]  # fmt: skip
        why = "".join(f"; not {mode}: {problem}" for mode, problem in self._problems.items())
        return f"{self.mode}: {what}; memory and processes limited by {counted}{why}"

    def kernel_name(self, package=None, environment=None):
        """The name of a Jupyter kernel in these walls.

        package: a folder to have on PYTHONPATH; what it holds now is what kernels see. environment: more variables.
        """
        if self._zygote and self._zygote.poll() is not None:  # it has died: the next kernels get a new one
            self._end_zygote()
            if problem := self._start_zygote():
                raise UsageError(f"the warmed process cannot be started again: {problem}")
        key = (str(package), json.dumps(environment or {}, sort_keys=True))
        if key not in self._names:
            name = f"{self.folder.name}-{len(self._names)}"
            spec = {"display_name": name, "language": "python", "interrupt_mode": "signal",
                    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}  # fmt: skip
            if self.mode == "unsafe":  # as Jupyter starts any kernel, but for what an editable install would bring back
                spec["argv"][1:3] = ["-c", _WITHOUT_EDITABLE]
                copy = package and str(self._package(package))
                spec["env"] = {**cold.settings(copy, self.limits.threads), **(environment or {})}
            else:
                config = {"order": self._order(package, environment)}
                spec["metadata"] = {"kernel_provisioner": {"provisioner_name": PROVISIONER, "config": config}}
            write_json(self.folder / "jupyter/kernels" / name / "kernel.json", spec)
            self._names[key] = name
        return self._names[key]

    def cause(self, kernel_id):
        """Why the kernel died: "oom", "kernel_died"; None when it runs, was stopped by its manager or is not known."""
        file = self.folder / "causes" / kernel_id
        return file.read_text() if file.exists() else None

    def _order(self, package, environment):
        """What the provisioner must know, as JSON."""
        source = self._package(package) if package else None
        limits = dataclasses.asdict(self.limits)
        # Where no cgroup counts, a bound of each process's own stands behind the watcher.
        limits["data_mib"] = None if self._cgroup else limits["memory_mib"] + 1024
        return {
            "mode": self.mode, "folder": str(self.folder), "source": source and str(source), "limits": limits,
            "package": door.PACKAGE if package else None, "environment": environment or {}, "user": self.user,
            "cgroup": self._cgroup and self._cgroup.as_json(), "house": dataclasses.asdict(self.house),
            "program": self._program, "image": self._image,
        }  # fmt: skip

    def _package(self, package):
        """A copy that every user can read, made once: hard links where they do, since nobody can write through them."""
        source = pathlib.Path(package).resolve()
        if source not in self._packages:
            if not source.is_dir():
                raise UsageError(f"no folder {package} to put on the kernels' PYTHONPATH")
            copy = self.folder / "packages" / str(len(self._packages))
            shutil.copytree(source, copy, copy_function=_link, ignore=shutil.ignore_patterns(".git", ".venv"))
            # Compiled once, not by each kernel: none can write beside what it imports. Tracebacks name the place inside.
            compileall.compile_dir(copy, ddir=None if self.mode == "unsafe" else door.PACKAGE, force=True, quiet=2,
                                   invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)  # fmt: skip
            for path in (copy, *copy.rglob("*")):
                if path.is_dir() or path.suffix == ".pyc":
                    path.chmod(0o755 if path.is_dir() else 0o644)
            self._packages[source] = copy
        return self._packages[source]

    # --- which mode ----------------------------------------------------------------------------------------------------

    def _choose(self):
        attempts = {"forked": self._start_zygote, "cold": self._try_cold, "container": self._try_container}
        if self.asked == "unsafe":
            return "unsafe"
        self._no_way_to_show = self._cannot_be_read()
        for mode in attempts if self.asked == "auto" else (self.asked,):
            problem = attempts[mode]()
            if problem is None:
                return mode
            self._problems[mode] = problem
        tried = "; ".join(f"{mode}: {problem}" for mode, problem in self._problems.items())
        remedy = self._remedy(tried)
        raise UsageError(f"no sandbox works here ({tried}); {remedy}{', or, ' if remedy else ''}if you trust every submission, "
                         "choose --unsafe")  # fmt: skip

    def _remedy(self, tried):
        """What to do where every mode failed for the reasons `tried`; "" where the reason itself has to be mended."""
        if not namespaces.supported() or self._bubblewrap() is not None:
            return "install bubblewrap 0.8 or later (apt-get install bubblewrap), or docker or podman"
        if self._no_way_to_show:
            return self._no_way_to_show[1]
        if _REFUSED.search(tried):  # it is there and may not do its work
            return (f"let this user make namespaces ({_who_forbids()}in a container: docker run --security-opt "
                    "seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined)")
        return ""

    def _cannot_be_read(self):
        """(what the user inside may not read, what to do) or None. As root only: that user is another one than we are."""
        path = self.user is not None and shown.unreadable(self.house.binds.values())
        if not path:
            return None
        return (f"{path} can be read by its owner or group alone, and kernels run as another user, who owns nothing",
                f"let all users read Python and its packages (chmod -R go+rX {shlex.quote(path)})")  # fmt: skip

    def _bubblewrap(self):
        """None when bwrap can be asked for more, or why not."""
        if not namespaces.supported():
            return "this needs Linux on x86_64 or aarch64"
        self._program = shutil.which("bwrap")
        if self._program is None:
            return "bubblewrap is not installed"
        try:
            version = subprocess.run([self._program, "--version"], capture_output=True, text=True).stdout
        except OSError as error:
            return f"{self._program} cannot be run: {error.strerror}"
        numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
        return None if numbers >= [0, 8] else f"bubblewrap 0.8 or later is needed, not {version.strip()}"

    def _try_cold(self):
        if problem := self._bubblewrap() or self._no_way_to_show and self._no_way_to_show[0]:
            return problem
        command = cold.bubblewrap(self._program, self.house, dataclasses.asdict(self.limits), self.user)
        command += ["--proc", "/proc", "--remount-ro", "/", "--", sys.executable, "-S", "-c", "import ctypes"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return None if done.returncode == 0 else _last_line(done.stderr)

    def _try_container(self):
        image = os.environ.get("FTLAB_GRADE_IMAGE", IMAGE)
        problems = []
        for name in ("docker", "podman"):
            program = shutil.which(name)
            if program is None:
                continue
            done = subprocess.run([program, "image", "inspect", image], capture_output=True, text=True)
            problem = _last_line(done.stderr) if done.returncode else self._rehearse(program, image)
            if problem is None:
                self._program, self._image = program, image
                return None
            problems.append(f"{name}: {problem}")
        return "; ".join(problems) or "neither docker nor podman is installed"

    def _rehearse(self, program, image):
        """None when a container of `image` starts under our bounds and is one to grade in, or why not."""
        name = f"{self.folder.name}-rehearsal"
        command = cold.container_command(program, name, image, dataclasses.asdict(self.limits), None, str(self.folder / "etc"))
        done = subprocess.run([*command[:command.index(image) + 1], "-c", _REHEARSAL], capture_output=True, text=True)
        subprocess.run([program, "rm", "--force", name], capture_output=True)
        if done.returncode == _HOLDS_ANSWERS:
            return (f"the image {image} holds the course itself, with its answers: "
                    "docker build -f docker/Dockerfile --target environment -t ftlab-grade .")  # fmt: skip
        return _last_line(done.stderr) if done.returncode else None

    # --- the warmed process ----------------------------------------------------------------------------------------------

    def _start_zygote(self):
        """Start it; None when its walls stand (it goes on importing), else the reason why they do not."""
        if problem := self._bubblewrap() or self._no_way_to_show and self._no_way_to_show[0]:
            return problem
        address = self.folder / "zygote"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(address))
            address.chmod(0o600)
            listener.listen(64)
            config = {"listen": listener.fileno(), "user": self.user, "visible": self.house.tops, "links": self.house.links}
            command = cold.zygote_command(
                self._program, self.house, dataclasses.asdict(self.limits), self.user, str(self.folder / "packages"),
                json.dumps(config),
                # Linux ends the child when the *thread* that made it ends; the pipe at its stdin ends it in any case.
                dies_with_us=threading.current_thread() is threading.main_thread(),
            )
            with open(self.folder / "zygote.log", "wb") as log, cold.unseen(command) as (command, options):
                self._zygote = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                                pass_fds=[listener.fileno(), options])  # fmt: skip
        first = self._hear(20)
        if not first.get("walls"):
            problem = first.get("problem") or self._log()
            self._end_zygote()
            return problem
        if self._cgroup:  # the outer wall is bounded, too
            group = self._cgroup.child("zygote", (self.limits.memory_mib + 4096) << 20, 1024)
            for pid in processes.tree(self._zygote.pid):
                with contextlib.suppress(ProcessLookupError):  # the rehearsal's are just leaving
                    group.add(pid)
        return None

    def _hear(self, seconds):
        """The next line that the zygote prints, as a dict; {} when none comes."""
        until = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._zygote.stdout], [], [], left)[0]:
                return {}
            piece = os.read(self._zygote.stdout.fileno(), 1)
            if not piece:
                return {}
            line += piece
        return json.loads(line)

    def warm(self, seconds=120):
        """Wait until the warmed process has its libraries; returns {seconds, missing, threads}, {} in other modes.

        Nobody must call this: a kernel that is asked for earlier waits for it by itself.
        """
        if self.mode != "forked" or self._warmth:
            return self._warmth
        self._warmth = self._hear(seconds)
        if not self._warmth:
            raise RuntimeError(f"the warmed process did not get ready: {self._log()}")
        return self._warmth

    def _log(self):
        return _last_line((self.folder / "zygote.log").read_text(errors="replace"))

    def _end_zygote(self):
        if self._zygote is None:
            return
        self._zygote.stdin.close()  # it leaves when its stdin closes, and all that it forked with it
        try:
            self._zygote.wait(2)
        except subprocess.TimeoutExpired:  # in the midst of an import
            for pid in reversed(processes.tree(self._zygote.pid)):
                processes.kill(pid)
            self._zygote.wait()
        self._zygote.stdout.close()
        self._zygote, self._warmth = None, {}

    # --- what children of ours need --------------------------------------------------------------------------------------

    def _export(self):
        """Let this process and the children that it starts from now on find the kernels and their provisioner."""
        register()
        added = {"JUPYTER_PATH": [str(self.folder / "jupyter")]}
        if not entry_points(group=KernelProvisionerFactory.GROUP_NAME, name=PROVISIONER):
            # Not installed, or installed before the entry point was there: one more place to find it by.
            info = self.folder / "python/ftlab_sandbox-0.dist-info"
            atomic_write_text(info / "METADATA", "Metadata-Version: 2.1\nName: ftlab-sandbox\nVersion: 0\n")
            atomic_write_text(info / "entry_points.txt", f"[{KernelProvisionerFactory.GROUP_NAME}]\n{_ENTRY}\n")
            added["PYTHONPATH"] = [str(self.folder / "python"), str(pathlib.Path(cold.__file__).parents[2])]
        self._exported = {name: os.environ.get(name) for name in added}
        for name, places in added.items():
            os.environ[name] = os.pathsep.join([*places, *filter(None, [os.environ.get(name)])])


_ENTRY = f"{PROVISIONER} = ftlab.grade.kernel:SandboxProvisioner"


def register():
    """Let this process's Jupyter know the provisioner, also when the package is not installed but on PYTHONPATH."""
    name, _, value = _ENTRY.partition(" = ")
    KernelProvisionerFactory.provisioners.setdefault(name, EntryPoint(name, value, KernelProvisionerFactory.GROUP_NAME))


def _run_folder(root):
    """A new private folder below `root`, with the name of its owner; those of dead owners are swept away.

    Where sockets cannot lie below `root` (default: the temporary folder), for the length of its path or for its rights,
    another place for temporary files is taken. Raises UsageError where there is none.
    """
    problems = []
    for place in dict.fromkeys(map(os.path.abspath, filter(None, (root, *_temporary_folders())))):
        if len(os.fsencode(place)) + 44 >= _LONGEST_SOCKET or os.pathsep in place:
            problems.append(f"{place} is too long a path for sockets, or has a colon in it")
            continue
        try:
            os.makedirs(place, exist_ok=True)
            _sweep(pathlib.Path(place))
            folder = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            write_json(folder / "owner", {"pid": os.getpid(), "start": processes.start(os.getpid())})
            return folder
        except OSError as error:
            problems.append(f"{place}: {error.strerror}")
    raise UsageError(f"no place for the grader's sockets ({'; '.join(problems)}): set TMPDIR to a folder with a short path")


def _temporary_folders():
    """Places for temporary files: what Python takes, then the system's own."""
    with contextlib.suppress(OSError):  # none that can be written to
        yield tempfile.gettempdir()
    yield from ("/tmp", os.environ.get("XDG_RUNTIME_DIR"), "/var/tmp", "/dev/shm")


def _sweep(root):
    alive = set()
    for folder in root.glob(PREFIX + "*"):
        try:
            owner = read_json(folder / "owner")
            lives = processes.start(owner["pid"]) == owner["start"]
        except FileNotFoundError:  # just being made, or another user's
            lives = time.time() - folder.stat().st_mtime < 60 if folder.exists() else True
        except (OSError, ValueError):
            lives = True
        if lives:
            alive.add(folder.name)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            cgroups.remove_named(folder.name)


def _throw_away_user():
    """As root: the number of a user who owns nothing and is nobody else's; None for anyone else, and where the system
    has no such user for us: a container's root may be mapped to few, or may make namespaces only as any user does."""
    if os.geteuid() != 0 or not _capable(_SYS_ADMIN):
        return None
    mapped = [list(map(int, line.split())) for line in pathlib.Path("/proc/self/uid_map").read_text().splitlines()]
    user = 0x7A000000 + secrets.randbelow(0x10000)
    return user if any(first <= user < first + count for first, _, count in mapped) else None


def _who_forbids():
    """The setting of this machine that forbids namespaces to users, with how to change it, or ""."""
    forbidding = {"kernel/unprivileged_userns_clone": ("0", "1"), "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
                  "user/max_user_namespaces": ("0", "15000")}  # fmt: skip
    for name, (value, better) in forbidding.items():
        with contextlib.suppress(OSError):
            if pathlib.Path("/proc/sys", name).read_text().strip() == value:
                return f"the setting {name.replace('/', '.')}={value} forbids it: sysctl {name.replace('/', '.')}={better}; "
    return ""


def _capable(capability):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("CapEff:")[1].split()[0], 16) >> capability & 1


def _repository():
    """The folders of the course around this package, when it does not stand in site-packages."""
    root = pathlib.Path(__file__).parents[2]
    return [root / name for name in ("ftlab", "solutions", "labs", "tests", "docs", ".git")]


def _link(source, target):
    """Copy a file for all to read: by a hard link where everyone may read it and the system lets us."""
    if os.stat(source).st_mode & 0o004 and not os.path.islink(source):
        try:
            return os.link(source, target)
        except OSError:
            pass
    shutil.copyfile(source, target)
    os.chmod(target, 0o644)


def _last_line(text):
    return (text.strip().splitlines() or ["it ended without a word"])[-1]


# --- one kernel ----------------------------------------------------------------------------------------------------------


class SandboxProvisioner(LocalProvisioner):
    """Starts a kernel behind the walls that its kernelspec's `order` describes (Walls wrote it)."""

    order = Dict(help="what Walls says about the sandbox").tag(config=True)
    room = kernel = None

    @property
    def cause(self):
        """As Walls.cause."""
        return self.kernel.cause if self.kernel else None

    async def pre_launch(self, **kwargs):
        manager = self.parent
        if self.room is None:  # a restart keeps the old one: the clients know its sockets
            self.room = pathlib.Path(self.order["folder"], "kernels", secrets.token_hex(4))
            self.room.mkdir(mode=0o700)
            manager.cache_ports = False
            manager.transport, manager.ip = "ipc", str(self.room / "c")
            manager.connection_file = str(self.room / "connection.json")
        return await super().pre_launch(**kwargs)

    async def launch_kernel(self, cmd, **kwargs):
        info = dict(self.connection_info)
        info["key"] = info["key"].decode()
        listeners = [_listen(f"{info['ip']}-{info[name]}") for name in door.PORTS]
        order = self.order
        request = {
            "package": order["package"], "limits": order["limits"], "connection": info, "user": order["user"],
            "environment": cold.environment(order["package"], order["limits"]["threads"], order["environment"]),
        }  # fmt: skip
        start = {"forked": processes.Forked, "cold": processes.Boxed, "container": processes.Contained}[order["mode"]]
        try:
            self.kernel = self.process = start(order, request, listeners, self.room, self.kernel_id)
        except BaseException:
            shutil.rmtree(self.room, ignore_errors=True)
            raise
        finally:
            for listener in listeners:
                listener.close()
        self.pid = self.process.pid
        return self.connection_info

    async def kill(self, restart=False):
        await super().kill(restart)
        until = time.monotonic() + 1  # dead in some milliseconds; the manager looks after the first tenth of a second only
        while self.process and self.process.poll() is None and time.monotonic() < until:
            await asyncio.sleep(0.005)

    async def send_signal(self, signum):
        if self.process:
            self.process.send_signal(signum)

    async def shutdown_requested(self, restart=False):
        if self.process:
            self.process.stopped = True

    async def cleanup(self, restart=False):
        if self.kernel:
            self.kernel.clean()
        if self.room and not restart:
            shutil.rmtree(self.room, ignore_errors=True)
            self.room = None


def _listen(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    pathlib.Path(path).unlink(missing_ok=True)
    listener.bind(path)
    listener.listen(64)
    return listener


register()
