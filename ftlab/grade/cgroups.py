"""Control groups, versions 1 and 2: memory and process limits that the kernel of the system keeps for a whole group.

They are made next to the grader's own group, from outside the sandbox, where the user may do so (root, or a delegated
subtree); where not, `make` says None and others limit instead (kernel.py).
"""

import contextlib
import pathlib
import time

CONTROLLERS = ("memory", "pids")


class Cgroup:
    """One group: its folders, by controller (in version 2 one folder serves both)."""

    def __init__(self, folders, version):
        self.folders = {name: pathlib.Path(path) for name, path in folders.items()}
        self.version = version

    def as_json(self):
        """The arguments of Cgroup(), as JSON."""
        return {"folders": {name: str(folder) for name, folder in self.folders.items()}, "version": self.version}

    def child(self, name, memory_bytes, processes):
        """A group below this one, with its limits. Its OSError is the system's refusal."""
        child = Cgroup({key: folder / name for key, folder in self.folders.items()}, self.version)
        for folder in child._distinct():
            folder.mkdir(exist_ok=True)
        if self.version == 2:
            child._write("memory", "memory.max", memory_bytes)
            child._try("memory", "memory.swap.max", 0)
        else:
            child._write("memory", "memory.limit_in_bytes", memory_bytes)
            child._try("memory", "memory.memsw.limit_in_bytes", memory_bytes)
        child._write("pids", "pids.max", processes)
        return child

    def add(self, pid):
        """Move a process into this group; what it starts from then on is there, too."""
        for folder in self._distinct():
            (folder / "cgroup.procs").write_text(str(pid))

    def pids(self):
        """The processes of this group (not of those below it)."""
        found = set()
        for folder in self._distinct():
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (folder / "cgroup.procs").read_text().split())
        return found

    def out_of_memory(self):
        """How many processes the system has killed because this group was at its limit."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        try:
            lines = (self.folders["memory"] / name).read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.split()[0] == "oom_kill")

    def remove(self, patience=2.0):
        """Remove the group and those below it; True when it is gone. Dead processes leave within `patience` seconds."""
        until = time.monotonic() + patience
        while True:
            for folder in self._distinct():
                for below in sorted(folder.glob("*/"), reverse=True):
                    with contextlib.suppress(OSError):
                        below.rmdir()
                with contextlib.suppress(OSError):
                    folder.rmdir()
            if not any(folder.exists() for folder in self._distinct()):
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.02)

    def _distinct(self):
        return dict.fromkeys(self.folders.values())

    def _write(self, controller, name, value):
        (self.folders[controller] / name).write_text(str(value))

    def _try(self, controller, name, value):
        with contextlib.suppress(OSError):  # no swap, or not counted
            self._write(controller, name, value)


def make(name):
    """A new empty Cgroup `name` that can have limited children, or None where the system does not let us."""
    for attempt in (_version_2, _version_1):
        with contextlib.suppress(OSError, KeyError):
            if (group := attempt(name)) is not None:
                return group
    return None


def _version_2(name):
    """Below the nearest of our own group and those above it that hands both controllers on."""
    mount, own = _mounts()["unified"], _own()[""]
    for folder in (mount / own, *(mount / own).parents):
        if not folder.is_relative_to(mount):
            break
        try:
            if not set(CONTROLLERS) <= set((folder / "cgroup.subtree_control").read_text().split()):
                continue
            (folder / name).mkdir()
            (folder / name / "cgroup.subtree_control").write_text("+memory +pids")
        except OSError:
            with contextlib.suppress(OSError):
                (folder / name).rmdir()
            continue
        return Cgroup(dict.fromkeys(CONTROLLERS, folder / name), 2)
    return None


def _version_1(name):
    """Below our own group of each controller's hierarchy."""
    mounts, own, folders = _mounts(), _own(), {}
    for controller in CONTROLLERS:
        base = mounts[controller] / own[controller]
        if not base.is_dir():  # in a container the path may be the host's
            base = mounts[controller]
        folders[controller] = base / name
    group = Cgroup(folders, 1)
    try:
        for folder in group._distinct():
            folder.mkdir()
    except OSError:
        group.remove(patience=0)
        raise
    return group


def _mounts():
    """{controller, or "unified": where its hierarchy is mounted}."""
    found = {}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault("unified", pathlib.Path(left.split()[4]))
        elif kind == "cgroup":
            for controller in set(CONTROLLERS) & set(options.split(",")):
                found.setdefault(controller, pathlib.Path(left.split()[4]))
    return found


def _own():
    """{controller ("" in version 2): the path of this process's group, relative to the mount}."""
    found = {}
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path.lstrip("/")
    return found


def remove_named(name):
    """Remove the group that `make(name)` made in a process that was killed, with those below it."""
    with contextlib.suppress(OSError, KeyError):
        mounts, own = _mounts(), _own()
        for kind, mount in mounts.items():
            folder = mount / own.get("" if kind == "unified" else kind, "")
            for base in (folder, *folder.parents):
                if base.is_relative_to(mount) and (base / name).is_dir():
                    Cgroup({"memory": base / name}, 1).remove(patience=0)
