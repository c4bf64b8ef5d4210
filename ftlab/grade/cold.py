"""Command lines of the well-kept walls: bubblewrap around the warmed process or one cold kernel, and a container.

A `House` says what can be seen inside: the system's programs and libraries, the Python in use with its packages, a few
files of /etc. Nothing else of the machine exists there: no home, no repository, no other submission.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import site
import subprocess
import sys

from ftlab.files import atomic_write_text
from ftlab.grade.door import PACKAGE, SCRATCH

SCRIPTS = "/run/ftlab"  # where those of our files lie inside that run there
INSIDE, ZYGOTE, DOOR, NAMESPACES = ("inside.py", "zygote.py", "door.py", "namespaces.py")
PACKAGES = "/run/ftlab/packages"
HERE = pathlib.Path(__file__).parent
NOBODY = "65534"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "fonts", "mime.types", "alternatives")
_OWN_ETC = {
    "passwd": f"nobody:x:{NOBODY}:{NOBODY}:nobody:/scratch/home:/bin/sh\n",
    "group": f"nogroup:x:{NOBODY}:\n",
    "hosts": "127.0.0.1 localhost sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclasses.dataclass
class House:
    """binds: {path inside: path outside}, all read-only; links: {path: target}; masked: folders shown empty."""

    binds: dict
    links: dict
    masked: list

    @property
    def tops(self):
        """The paths inside that lie in no other: a recursive bind of these shows the whole house."""
        paths = sorted(self.binds)
        return [path for path in paths if not any(path.startswith(other + "/") for other in paths)]


def house(folder, hidden=()):
    """The House of this Python; its few own files are written below `folder`.

    hidden: paths that must not be seen even when they lie in what is shown (/usr/src/course, say).
    """
    binds, links = {}, {}
    for path in map(pathlib.Path, _SYSTEM):
        if path.is_symlink():
            links[str(path)] = os.readlink(path)
        elif path.is_dir():
            binds[str(path)] = str(path)
    for name in _ETC:
        if (source := pathlib.Path("/etc", name)).exists():
            binds[f"/etc/{name}"] = str(source.resolve())
    for name, text in _OWN_ETC.items():
        atomic_write_text(pathlib.Path(folder, name), text)
        binds[f"/etc/{name}"] = str(pathlib.Path(folder, name))
    if os.path.isdir("/sys/devices/system/cpu"):  # torch counts the processors there
        binds["/sys/devices/system/cpu"] = "/sys/devices/system/cpu"
    for path in _python():
        if not any(_within(path, top) for top in map(pathlib.Path, binds)) or any(_within(path, h) for h in hidden):
            binds[str(path)] = str(path)
    masked = [path for path in (*_installed_here(), *map(pathlib.Path, hidden)) if _shown(path, binds)]
    return House(binds, links, [str(path) for path in masked if path.is_dir()])


def _python():
    """The folders that this Python needs: its prefixes and the site-packages that lie outside of them."""
    sites = [path for path in (*site.getsitepackages(), site.getusersitepackages()) if path in sys.path]
    folders = []
    named = [pathlib.Path(path) for path in (sys.base_prefix, sys.prefix, os.path.realpath(sys.executable), *sites)]
    named[2] = named[2].parent
    for path in dict.fromkeys(place for name in named for place in (name, name.resolve())):
        if path.is_dir() and not any(_within(path, other) for other in folders):
            folders.append(path)
    return folders


def _installed_here():
    """Where site-packages hold this package itself: its answers are for the package folder of each kernel to show."""
    return [path / "ftlab" for path in map(pathlib.Path, site.getsitepackages()) if (path / "ftlab").is_dir()]


def _within(path, folder):
    return pathlib.Path(path).is_relative_to(folder)


def _shown(path, binds):
    return any(_within(path, top) for top in binds)


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
    # Folders on the way are bwrap's own, and closed to other users if not told otherwise.
    ways = {str(way) for path in (*house.binds, f"{PACKAGES}/0", PACKAGE) for way in pathlib.Path(path).parents}
    steps = [(way, ["--perms", "0755", "--dir", way]) for way in ways if way != "/" and not _shown(way, house.binds)]
    steps += [(path, ["--ro-bind", source, path]) for path, source in house.binds.items()]
    steps += [(path, ["--symlink", target, path]) for path, target in house.links.items()]
    steps += [(path, ["--tmpfs", path, "--remount-ro", path]) for path in house.masked]
    for _, step in sorted(steps, key=lambda step: step[0].count("/")):  # what lies deeper comes later
        command += step
    for name in (INSIDE, ZYGOTE, DOOR, NAMESPACES):
        command += ["--ro-bind", str(HERE / name), f"{SCRIPTS}/{name}"]
    command += ["--dev", "/dev", "--perms", "1777", "--size", str(limits["scratch_mib"] << 18), "--tmpfs", "/dev/shm",
                "--remount-ro", "/dev"]  # fmt: skip
    return command + ["--perms", "1777", "--size", str(limits["scratch_mib"] << 20), "--tmpfs", "/scratch",
                      "--symlink", "/scratch/tmp", "/tmp"]  # fmt: skip


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
    return {
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": f"{SCRATCH}/home", "TMPDIR": f"{SCRATCH}/tmp", "USER": "nobody", "LOGNAME": "nobody", "SHELL": "/bin/sh",
        "LANG": "C.UTF-8", "TERM": "dumb", **settings(package, threads), **dict(extra),
    }  # fmt: skip


def settings(package, threads):
    """The variables of every kernel, also of one without walls."""
    return {
        **({"PYTHONPATH": package} if package else {}), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
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
    command += ["--ro-bind", packages, PACKAGES, "--dir", f"{SCRIPTS}/root"]
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
        "--tmpfs", f"/scratch:rw,nosuid,nodev,exec,size={size}{inodes},mode=1777",
        "--tmpfs", f"/tmp:rw,nosuid,nodev,size={size}{inodes},mode=1777",
        "--shm-size", f"{max(1, limits['scratch_mib'] // 4)}m",
        "--volume", f"{door}:/run/door:ro",
    ]  # fmt: skip
    for script in (INSIDE, DOOR, NAMESPACES):
        command += ["--volume", f"{HERE / script}:{SCRIPTS}/{script}:ro"]
    command += ["--volume", f"{package}:{PACKAGE}:ro"] if package else []
    command += ["--env", "OMP_NUM_THREADS=1", "--env", "PYTHONHASHSEED=0"]
    return [*command, "--entrypoint", "python", image, "-s", f"{SCRIPTS}/{INSIDE}", "/run/door/door"]


@functools.cache
def is_podman(runtime):
    """Whether the program `runtime` is podman, also where it goes by docker's name."""
    try:
        return "podman" in subprocess.run([runtime, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return False
