"""The student's work folder: private copies of the labs, which nothing of ours ever overwrites."""

import hashlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys

from ftlab.course import catalogue
from ftlab.errors import UsageError
from ftlab.files import atomic_write_bytes, read_json, with_this_package, write_json

RECORD = ".ftlab.json"  # {file: hash of the lab as it was copied}
# Defaults of settings: JupyterLab asks nobody about its news, and offers no update of the course's exact versions.
CONFIG = catalogue.PACKAGE / "course" / "jupyter"


def copy_labs(name=None, folder=None):
    """Copy the labs (or the one called `name`) into the work folder; return (folder, lines that say what was done).

    A copy that the student has changed stays as it is; where the course has a newer one, that is put beside it as
    NN_name.new.ipynb.
    """
    folder = pathlib.Path(folder or os.environ.get("FTLAB_WORK") or "ftlab-work")
    labs = catalogue.find_labs([name] if name else ())
    source = catalogue.labs_folder()
    labs = labs if name else [lab for lab in labs if _exists(source, lab)]
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name another work folder with --dir")
    if folder.resolve() == source.resolve():
        raise UsageError(f"{folder} holds the course's own labs: name another work folder with --dir")
    if labs and not _exists(source, labs[0]):
        raise UsageError(f"lab {labs[0]} is not built yet: run ftlab build {labs[0]}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record = _record(folder)
        lines = [line for lab in labs if (line := _copy(source / f"{lab}.ipynb", folder, record))]
        write_json(folder / RECORD, record)
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror}): name another work folder with --dir") from None
    return folder, lines


def open_jupyter(folder, name=None, browser=True, port=None):
    """Start JupyterLab on `folder` and wait until it ends; return its exit status."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise UsageError("JupyterLab is not installed: pip install 'ftlab[lab]'")
    places = os.pathsep.join(filter(None, [str(CONFIG), os.environ.get("JUPYTER_CONFIG_PATH")]))
    environment = with_this_package() | {"JUPYTER_CONFIG_PATH": places}
    # Until it handles Ctrl-C itself it ignores it: in the midst of its imports it would print a traceback.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(jupyter_command(folder, name, browser, port), env=environment)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        return process.wait()
    except KeyboardInterrupt:  # how one leaves JupyterLab
        return _ended(process)


def _ended(process):
    """Let JupyterLab end its kernels and itself; at a second Ctrl-C, or after ten seconds, it is killed. Returns 0."""
    process.terminate()
    try:
        process.wait(10)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
    return 0


def jupyter_command(folder, name=None, browser=True, port=None):
    """The command that starts JupyterLab on `folder`, at lab `name` where one is given."""
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}"]
    if name:
        command.append(f"--LabApp.default_url=/lab/tree/{catalogue.find_labs([name])[0]}.ipynb")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # a container's only user is often root, and JupyterLab refuses root unasked
    return command + ([] if browser else ["--no-browser"]) + ([f"--port={port}"] if port else [])


def _copy(source, folder, record):
    """Bring one lab; returns what there is to say about it."""
    data, target = source.read_bytes(), folder / source.name
    fresh = _hash(data)
    if not target.exists():
        atomic_write_bytes(target, data)
        record[source.name] = fresh
        return f"copied {source.name} to {folder}"
    mine = _hash(target.read_bytes())
    if mine == fresh or record.get(source.name) == fresh:
        return ""
    if mine == record.get(source.name):  # untouched: a newer release takes its place
        atomic_write_bytes(target, data)
        record[source.name] = fresh
        return f"brought {source.name} up to date"
    beside = target.with_suffix(".new.ipynb")
    if beside.exists() and _hash(beside.read_bytes()) == fresh:
        return ""
    if beside.exists() and record.get(beside.name) != _hash(beside.read_bytes()):
        return f"{source.name} has a newer release, but {beside.name} holds work of yours: rename it and run this again"
    atomic_write_bytes(beside, data)
    record[beside.name] = fresh
    return f"your {source.name} stays; the course's newer one is beside it as {beside.name}"


def _record(folder):
    try:
        record = read_json(folder / RECORD)
        return dict(record)
    except (OSError, ValueError, TypeError):
        return {}


def _exists(source, lab):
    return (source / f"{lab}.ipynb").exists()


def _hash(data):
    return hashlib.sha256(data).hexdigest()[:16]
