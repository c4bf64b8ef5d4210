"""Which files of this machine the sandbox must show so that Python runs in it, and which of them it must not.

Python, a virtual environment and its packages may lie anywhere and be reached by symbolic links: every link on the way
is shown as a link, and what it ends in is shown at its real path. So a path means the same inside as outside.
Left out: what a program loads from elsewhere at run time, other than by LD_LIBRARY_PATH.
"""

import functools
import importlib.util
import os
import pathlib
import site
import stat
import sys
import sysconfig

from ftlab.grade import door

# What an installation of Python consists of, also conda's. Not the whole prefix: an environment made in a home folder
# has that folder as its prefix, and conda's holds all other environments.
_PARTS = ("bin", "lib", "lib32", "lib64", "include", "share", "etc", "ssl", "openssl", "pyvenv.cfg")
_MOST_LINKS = 40  # on one path; as Linux does
_ARCHIVES = (".whl", ".egg", ".zip", ".gz", ".bz2", ".xz")
_NEEDED = ("encodings", "ctypes", "ipykernel", "zmq", "torch")  # read by every kernel, where they are installed


def python_paths():
    """The absolute paths (list of str, as Python names them) of files and folders that this Python needs."""
    prefixes = dict.fromkeys((sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix))
    paths = [os.path.join(prefix, part) for prefix in prefixes for part in _PARTS]
    paths += [sys.executable, getattr(sys, "_base_executable", sys.executable)]
    paths += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*package_folders(), *library_folders()]
    # The system's own folders are shown anyhow.
    return [path for path in dict.fromkeys(map(os.path.abspath, paths)) if os.path.exists(path)]


def package_folders():
    """The folders of sys.path that hold installed packages: site-packages, dist-packages, and what .pth files add.

    The current folder and folders of sources are none: they may hold anything.
    """
    sites = [*site.getsitepackages(), site.getusersitepackages()]
    added = [folder for place in sites if place in sys.path for folder in _added_by_pth(place)]
    named = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    return [path for path in dict.fromkeys((*sites, *named, *added)) if path in sys.path and os.path.isdir(path)]


def _added_by_pth(place):
    """The folders that .pth files in the folder `place` put on sys.path, but for those that hold this package's source."""
    found = []
    for file in sorted(pathlib.Path(place).glob("*.pth")):
        try:
            lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            continue
        for line in filter(None, map(str.strip, lines)):
            if not line.startswith(("#", "import ", "import\t")):
                found.append(os.path.abspath(os.path.join(place, line)))
    return [path for path in found if not os.path.isfile(os.path.join(path, "ftlab", "__init__.py"))]


def from_pythonpath():
    """Those of `package_folders` that only PYTHONPATH names: kernels need them in theirs."""
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return [path for path in map(os.path.abspath, given) if path in package_folders() and path not in site.getsitepackages()]


@functools.cache
def library_folders():
    """The folders of LD_LIBRARY_PATH from which this process has loaded a library (a Python may need its own)."""
    try:
        lines = pathlib.Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    loaded = {os.path.dirname(line.split(None, 5)[5]) for line in lines if line.count("/") > 1 and ".so" in line}
    given = filter(os.path.isabs, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    return [path for path in dict.fromkeys(given) if os.path.realpath(path) in loaded]


def resolve(path):
    """({link: target}, [paths to show]) of an absolute path that exists: its links on the way, and its real path.

    The sandbox has a /tmp and a /dev/shm of its own. Where one of these is a link on this machine, the path through it is
    shown as it is named, besides the real one.
    """
    links, aliases, hops = {}, [], 0
    done, left = "/", [part for part in path.split("/") if part]
    while left:
        part = left.pop(0)
        if part == ".":
            continue
        here = os.path.normpath(os.path.join(done, part))
        if part != ".." and os.path.islink(here):
            hops += 1
            if hops > _MOST_LINKS:
                raise OSError(f"too many symbolic links on the way to {path}")
            target = os.readlink(here)
            if here in door.ALIASES:
                aliases.append("/".join([here, *left]))
            else:
                links[here] = target
            left = [part for part in target.split("/") if part] + left
            here = "/" if target.startswith("/") else done
        done = here
    return links, [done, *(alias for alias in aliases if alias not in door.ALIASES)]


@functools.cache
def copies(folder):
    """The real paths below `folder` (tuple of str) that hold this package, or are archives of it: other installations.

    Kernels must not find one: a whole package holds the answers. Links are not followed, and packages not searched.
    """
    found, left = [], [folder]
    while left:
        place = left.pop()
        try:
            with os.scandir(place) as entries:
                entries = list(entries)
        except OSError:
            continue
        if place != folder and any(entry.name == "__init__.py" for entry in entries):
            continue
        for entry in entries:
            name, is_folder = entry.name, entry.is_dir(follow_symlinks=False)
            ours = name == "ftlab" or name.startswith(("ftlab-", "ftlab_"))
            if ours and not name.endswith(".dist-info") and (entry.is_dir() or name.endswith(_ARCHIVES)):
                found.append(os.path.realpath(entry.path))
            elif is_folder and name != "__pycache__":
                left.append(entry.path)
    return tuple(found)


def unreadable(paths):
    """The first file or folder that every kernel reads and that only its owner or group may read; None: there is none.

    paths: what is shown. The folders above them do not count: the sandbox makes its own.
    """
    for path in (os.path.realpath(sys.executable), *_origins()):
        top = next((top for top in map(pathlib.Path, paths) if pathlib.Path(path).is_relative_to(top)), None)
        if top is None:
            continue
        for part in (*reversed([p for p in pathlib.Path(path).parents if p.is_relative_to(top)]), pathlib.Path(path)):
            mode = os.stat(part).st_mode
            needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
            if mode & needed != needed:
                return str(part)
    return None


def _origins():
    """The real paths of the modules that every kernel needs."""
    for name in _NEEDED:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and os.path.isfile(spec.origin):
            yield os.path.realpath(spec.origin)
