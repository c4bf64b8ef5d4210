"""Files that are either whole or not there: every write of ours goes through here."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile

from ftlab.errors import UsageError


def atomic_write_bytes(path, data, private=False):
    """Write `data` to `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    private: the file is its owner's alone.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; a written file should have the mode that open() would give it.
        if not private:
            os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def atomic_write_text(path, text, private=False):
    """As `atomic_write_bytes`, for text in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"), private)


def read_json(path):
    """The JSON value in the file at `path`."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def write_json(path, value, indent=1, private=False):
    """Write `value` as JSON to `path`, atomically, with a newline at the end."""
    atomic_write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", private)


@contextlib.contextmanager
def atomic_folder(path):
    """Yield a temporary folder that becomes `path` when the block succeeds and vanishes when it does not.

    An existing folder at `path` is replaced only at the end, by two renames.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if path.exists():
            old = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.rename(path, old / "was")
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def share(folder):
    """Give every file under `folder` the mode that open() would give it; some libraries make theirs private."""
    mask = _umask()
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.chmod(path, 0o666 & ~mask)


def check_free(out):
    """Raise UsageError unless a new folder can be made at `out`: what stands there already is never overwritten."""
    out = pathlib.Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already; give another folder with --out, or remove it first")
    parent = next(p for p in out.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"{parent} cannot be written to; give another folder with --out")


def with_this_package(environment=None):
    """`environment` (default: this process's) as a dict in which PYTHONPATH leads to this package: for a child process.

    An editable install alone does not: where the current folder holds a folder `ftlab`, a clone, Python takes that one.
    """
    environment = dict(os.environ if environment is None else environment)
    paths = [str(pathlib.Path(__file__).absolute().parents[1]), environment.get("PYTHONPATH", "")]
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
