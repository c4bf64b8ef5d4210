"""Command lines of the well-kept walls: bubblewrap around the warmed process or one cold kernel, and a container.

A `House` says what can be seen inside: the system's programs and libraries, the Python in use with its packages, a few
files of /etc. Nothing else of the machine exists there: no home, no repository, no other submission.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
import site
import subprocess
import sys

from ftlab.errors import UsageError
from ftlab.files import atomic_write_text
from ftlab.grade import shown
from ftlab.grade.door import ALIASES, OWN, PACKAGE, SCRATCH

SCRIPTS = f"{OWN}/scripts"  # where those of our files lie inside that run there
INSIDE, ZYGOTE, DOOR, NAMESPACES = ("inside.py", "zygote.py", "door.py", "namespaces.py")
PACKAGES = f"{OWN}/packages"
CONTAINERS_DOOR = f"{OWN}/door"
HERE = pathlib.Path(__file__).parent
NOBODY = "65534"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "fonts", "mime.types", "alternatives")
_OWN_ETC = {
    "passwd": f"nobody:x:{NOBODY}:{NOBODY}:nobody:{SCRATCH}/home:/bin/sh\n",
    "group": f"nogroup:x:{NOBODY}:\n",
    "hosts": "127.0.0.1 localhost sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclasses.dataclass
class House:
    """What is shown inside. binds: {path inside: path outside}, all read-only; links: {path: target}; masked: folders
    shown empty; scripts: the folder outside that holds our files which run inside."""

    binds: dict
    links: dict
    masked: list
    scripts: str = str(HERE)

    @property
    def tops(self):
        """The paths inside that lie in no other: a recursive bind of these shows the whole house."""
        paths = sorted(self.binds)
        return [path for path in paths if not any(path.startswith(other + "/") for other in paths)]

    @property
    def own_tmp(self):
        """Whether something is shown below /tmp, which then is a file system of its own and no link."""
        return any(path.startswith("/tmp/") for path in (*self.binds, *self.links))


def house(folder, hidden=()):
    """The House of this Python; its few own files are written below `folder`.

    hidden: paths that must not be seen even when they lie in what is shown (/usr/src/course, say).
    Raises UsageError where a path that must be shown is one that the sandbox needs for itself.
    """
    binds, links = _system(pathlib.Path(folder))
    needed = []
    for path in shown.python_paths():
        on_the_way, ends = shown.resolve(path)
        links |= on_the_way
        needed += [end for end in ends if end not in needed]
    for path in needed:
        if _within(path, OWN) or _within(OWN, path) or path in ALIASES:
            raise UsageError(f"the sandbox cannot show {path}, which this Python needs: it has a folder of its own there; "
                             "make the environment in another folder")  # fmt: skip
    hidden = [os.path.realpath(path) for path in hidden]
    hidden += _other_copies([*(source for source in binds.values() if os.path.isdir(source)), *needed])
    for path in sorted(needed, key=lambda path: path.count("/")):
        # In a folder that is shown anyhow, or in one that is hidden in it: then it is shown once more.
        if not any(_within(path, top) for top in binds) or any(_within(path, place) for place in hidden):
            binds[path] = os.path.realpath(path)
    masked = []
    for path in hidden:
        for place in _places(path, binds):
            if os.path.isdir(path):
                masked.append(place)
            elif os.path.exists(path):
                binds[place] = str(pathlib.Path(folder, "empty"))
    made = House(binds, {}, list(dict.fromkeys(masked)), str(_scripts(folder)))
    made.links = {path: target for path, target in links.items() if not _in_a_bind(path, made)}
    return made


def _system(folder):
    """(binds, links) of the system's programs and libraries and of a few files of /etc, our own ones made in `folder`."""
    binds, links = {}, {}
    for path in map(pathlib.Path, _SYSTEM):
        if path.is_symlink():
            links[str(path)] = os.readlink(path)
        elif path.is_dir():
            binds[str(path)] = str(path)
    for name in _ETC:
        if (source := pathlib.Path("/etc", name)).exists():
            binds[f"/etc/{name}"] = str(source.resolve())
    for name, text in (_OWN_ETC | {"empty": ""}).items():
        atomic_write_text(folder / name, text)
        os.chmod(folder / name, 0o644)  # whatever the umask: another user reads it
        if name in _OWN_ETC:
            binds[f"/etc/{name}"] = str(folder / name)
    if os.path.isdir("/sys/devices/system/cpu"):  # torch counts the processors there
        binds["/sys/devices/system/cpu"] = "/sys/devices/system/cpu"
    return binds, links


def _scripts(folder):
    """Copies, which every user may read, of our files that run inside."""
    place = pathlib.Path(folder, "scripts")
    place.mkdir(exist_ok=True)
    for name in (INSIDE, ZYGOTE, DOOR, NAMESPACES):
        shutil.copyfile(HERE / name, place / name)
        os.chmod(place / name, 0o644)
    return place


def _other_copies(folders):
    """The places of this package, or archives of it, in the `folders` that are shown and in those below the system's."""
    found, searched = [], []
    for folder in sorted(dict.fromkeys(folders), key=lambda path: path.count("/")):
        # A folder inside one that was searched is known, unless it lies in a place that is hidden for its name.
        if not any(_within(folder, other) for other in searched) or any(_within(folder, place) for place in found):
            found += shown.copies(folder)
            searched.append(folder)
    return list(dict.fromkeys(found))


def _places(path, binds):
    """Where inside the real path `path` would be seen."""
    return [os.path.normpath(os.path.join(place, os.path.relpath(path, source)))
            for place, source in binds.items() if _within(path, source)]  # fmt: skip


def _within(path, folder):
    return pathlib.Path(path).is_relative_to(folder)


def bubblewrap(bwrap, house, limits, user):
    """The arguments of bwrap that both walls share: no network, nothing but the house, one bounded scratch folder.

    user: the throw-away user of a root that can become one, else None: bwrap then makes a user namespace. `--` and the
    command come last, from the caller.
    """
    command = [bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
               "--new-session", "--clearenv", "--hostname", "sandbox"]  # fmt: skip
    if user is not None:
        command += _caps("SETUID", "SETGID", "SETPCAP")
    else:  # a root who cannot become the throw-away user is nobody in it; anyone else keeps the own number
        command += ["--unshare-user", *(["--uid", NOBODY, "--gid", NOBODY] if os.geteuid() == 0 else [])]

    def tmpfs(path, mib):
        return path, ["--perms", "1777", "--size", str(int(mib * 2**20)), "--tmpfs", path]

    size = limits["scratch_mib"]
    steps = [("/dev", ["--dev", "/dev"]), tmpfs("/dev/shm", size / 4), tmpfs(SCRATCH, size)]
    steps += [tmpfs("/tmp", size / 4) if house.own_tmp else ("/tmp", ["--symlink", ALIASES["/tmp"], "/tmp"])]
    steps += [(path, ["--ro-bind", source, path]) for path, source in house.binds.items()]
    steps += [(path, ["--symlink", target, path]) for path, target in house.links.items()]
    steps += [(path, ["--tmpfs", path]) for path in house.masked]
    scripts = {f"{SCRIPTS}/{name}": str(pathlib.Path(house.scripts, name)) for name in (INSIDE, ZYGOTE, DOOR, NAMESPACES)}
    steps += [(path, ["--ro-bind", source, path]) for path, source in scripts.items()]
    # Folders on the way are bwrap's own, and closed to other users if not told otherwise.
    made = {path for path, step in steps if "--symlink" not in step}
    ways = {str(way) for path in (*made, *house.links, f"{PACKAGES}/0") for way in pathlib.Path(path).parents}
    steps += [(way, ["--perms", "0755", "--dir", way]) for way in ways - made - {"/"} if not _in_a_bind(way, house)]
    for _, step in sorted(steps, key=lambda step: step[0].count("/")):  # what lies deeper comes later
        command += step
    for path in (*house.masked, "/dev"):
        command += ["--remount-ro", path]
    return command


def _in_a_bind(path, house):
    """Whether the folder `path` comes with a bind, so that it needs no making."""
    nearest = max((place for place in (*house.binds, *house.masked) if _within(path, place)), key=len, default=None)
    return nearest is not None and nearest not in house.masked


def _caps(*names):
    return [word for name in names for word in ("--cap-add", f"CAP_{name}")]


@contextlib.contextmanager
def unseen(command):
    """The bwrap `command` with its options in a file that only it can open, since /proc/1/cmdline is read inside.

    Yields (command, number of the descriptor to be inherited).
    """
    end = command.index("--")
    with os.fdopen(os.memfd_create("arguments"), "wb", 0) as file:
        file.write(b"".join(os.fsencode(word) + b"\0" for word in command[1:end]))
        file.seek(0)
        yield [command[0], "--args", str(file.fileno()), *command[end:]], file.fileno()


def environment(package, threads, extra=()):
    """The whole environment of a kernel (dict): nothing of the grader's own but the PATH to this Python."""
    libraries = os.pathsep.join(shown.library_folders())
    return {
        **({"LD_LIBRARY_PATH": libraries} if libraries else {}),
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": f"{SCRATCH}/home", "TMPDIR": f"{SCRATCH}/tmp", "USER": "nobody", "LOGNAME": "nobody", "SHELL": "/bin/sh",
        "LANG": "C.UTF-8", "TERM": "dumb", **settings(package, threads), **dict(extra),
    }  # fmt: skip


def settings(package, threads):
    """The variables of every kernel, also of one without walls."""
    places = [*([package] if package else []), *shown.from_pythonpath()]
    return {
        **({"PYTHONPATH": os.pathsep.join(places)} if places else {}), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
        "FTLAB_HEADLESS": "1", "FTLAB_PROFILE": "cpu", "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE",
        "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }  # fmt: skip


def python(script, *arguments):
    """The command that runs one of our scripts inside: no user's site-packages unless this Python uses them."""
    safe = [] if site.getusersitepackages() in sys.path else ["-s"]
    return [sys.executable, *safe, f"{SCRIPTS}/{script}", *arguments]


def zygote_command(bwrap, house, limits, user, packages, config, dies_with_us):
    """bubblewrap around the warmed process; `config` is its one argument (JSON text), `packages` a folder outside."""
    command = bubblewrap(bwrap, house, limits, user)
    command += ["--ro-bind", packages, PACKAGES, "--perms", "0755", "--dir", f"{OWN}/root"]
    # As root it mounts /proc itself, before it becomes the throw-away user: bwrap's has parts covered, and then the
    # kernels' namespaces may not mount theirs.
    command += ["--proc", "/proc"] if user is None else ["--dir", "/proc", *_caps("SYS_ADMIN")]
    command += ["--die-with-parent"] if dies_with_us else []
    for name, value in environment(None, 1).items():
        command += ["--setenv", name, value]
    return [*command, "--remount-ro", "/", "--", *python(ZYGOTE, config)]


def kernel_command(bwrap, house, limits, user, package, door, block, info):
    """bubblewrap around one cold kernel. door, block, info: numbers of descriptors that it inherits.

    bwrap writes the process's number to `info` and waits for a byte on `block` before it starts anything.
    """
    command = bubblewrap(bwrap, house, limits, user) + ["--proc", "/proc", "--die-with-parent"]
    command += ["--disable-userns"] if user is None else []
    command += ["--ro-bind", package, PACKAGE] if package else []
    for name, value in environment(None, 1).items():
        command += ["--setenv", name, value]
    command += ["--block-fd", str(block), "--info-fd", str(info), "--remount-ro", "/"]
    return [*command, "--", *python(INSIDE, str(door))]


def container_command(runtime, name, image, limits, package, door):
    """A container around one cold kernel, by docker or podman; `door`: the folder outside that holds the socket `door`.

    The image has Python and the libraries (docker/); what is ours is shown to it read-only.
    """
    size, memory = f"{limits['scratch_mib']}m", f"{limits['memory_mib']}m"
    # podman's tmpfs knows no such option: there the memory limit, which counts inodes too, bounds the number of files.
    inodes = "" if is_podman(runtime) else f",nr_inodes={limits['files']}"
    command = [
        runtime, "run", "--name", name, "--network", "none", "--read-only", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--user", f"{NOBODY}:{NOBODY}", "--hostname", "sandbox", "--init",
        "--no-healthcheck", "--memory", memory, "--memory-swap", memory,
        "--pids-limit", str(limits["processes"]), "--cpus", str(limits["threads"]), "--pull", "never", "--log-driver", "none",
        "--tmpfs", f"{SCRATCH}:rw,nosuid,nodev,exec,size={size}{inodes},mode=1777",
        "--tmpfs", f"/tmp:rw,nosuid,nodev,size={size}{inodes},mode=1777",
        "--shm-size", f"{max(1, limits['scratch_mib'] // 4)}m",
        "--volume", f"{door}:{CONTAINERS_DOOR}:ro",
    ]  # fmt: skip
    for script in (INSIDE, DOOR, NAMESPACES):
        command += ["--volume", f"{HERE / script}:{SCRIPTS}/{script}:ro"]
    command += ["--volume", f"{package}:{PACKAGE}:ro"] if package else []
    command += ["--env", "OMP_NUM_THREADS=1", "--env", "PYTHONHASHSEED=0"]
    return [*command, "--entrypoint", "python", image, "-s", f"{SCRIPTS}/{INSIDE}", f"{CONTAINERS_DOOR}/door"]


@functools.cache
def is_podman(runtime):
    """Whether the program `runtime` is podman, also where it goes by docker's name."""
    try:
        return "podman" in subprocess.run([runtime, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return False
