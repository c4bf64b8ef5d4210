"""Zips unpacked within limits: what a student put into one is not to be trusted.

Only what may be a notebook is unpacked, without its outputs; of everything else there is its name, with a beginning of what
it holds, so that it can be said what was handed in. Links and what points outside of the zip are not written.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib

from ftlab.grade.notebook_file import MAX_BYTES, MAX_FILE, Unreadable, reduced, too_large

BEGINNING = 4096  # bytes kept of a file that is no notebook
DIRECTORY_BYTES = 16_000_000  # of a zip's list of entries
CHECKPOINTS = ".ipynb_checkpoints"
SKIPPED = ("__pycache__", "node_modules", "site-packages", "venv")  # folders in which no work lies
DAMAGED = "the zip is damaged, encrypted or of a kind that is not read"
OTHERS = 200  # files of a student's zip that are no notebooks and are told by name


@dataclasses.dataclass
class Budget:
    """What may still be unpacked of one student's zips, all together: notebooks and zips, bytes, and zips in each other."""

    entries: int = 1000
    bytes: int = 200_000_000
    depth: int = 3
    whole_class: bool = False


def class_budget():
    """What may be unpacked of a zip of the whole class, in which each entry may be somebody's."""
    return Budget(50_000, 20_000_000_000, 1, True)


def ours(name):
    """Whether `name` is of a file that systems put beside people's own."""
    return name.startswith((".", "~$", "__MACOSX")) or name.lower() in ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")


def may_be_notebook(name):
    """Whether a file of this name is looked into: a notebook under its own suffix, or one under another."""
    name = name.lower()
    return ".ipynb" in name or pathlib.PurePath(name).suffix in ("", ".json", ".txt", ".nb", ".bak", ".download")


class Scratch:
    """Unpacks zips into folders of its own; `problems` says of which unpacked file what it was not unpacked for."""

    def __init__(self, folder):
        if folder is None:
            folder = tempfile.mkdtemp(prefix="ftlab-submissions-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.folder, self.count, self.problems = pathlib.Path(folder), 0, {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def unpack(self, path, budget):
        """(folder with what the zip at `path` holds, None), or (None, why it was not unpacked). Takes it from `budget`."""
        self.count += 1
        target = self.folder / f"{self.count}"
        try:
            problem = list_problem(path)
            if not problem:
                with zipfile.ZipFile(path) as archive:
                    entries = _wanted(archive, budget)
                    problem = _problem(entries, budget)
                    if not problem:
                        self._write(archive, entries, target)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError, struct.error) as error:
            problem = f"{DAMAGED} ({' '.join(str(error).split())[:100]})"
        if problem:
            shutil.rmtree(target, ignore_errors=True)
            return None, problem
        return target, None

    def _write(self, archive, entries, target):
        target.mkdir(parents=True)
        for entry in entries:
            path = _free(target.joinpath(*entry.parts), entry.info.is_dir())
            if path is None:
                continue  # a folder that is there already
            with contextlib.suppress(FileExistsError, NotADirectoryError):  # a file where another entry has a folder
                path.parent.mkdir(parents=True, exist_ok=True)
                if entry.info.is_dir():
                    path.mkdir(exist_ok=True)
                    continue
                data, problem = _content(archive, entry)
                if problem:
                    self.problems[path] = problem
                path.write_bytes(data)
                seconds = _seconds(entry.info.date_time)
                if seconds:
                    os.utime(path, (seconds, seconds))


class _Entry:
    """An entry of a zip: its ZipInfo, its path's parts, whether it is wanted, and how many bytes unpacking it may take."""

    def __init__(self, info):
        self.info, name = info, _utf8(info)
        self.parts = [_short(part) for part in re.split(r"[/\\]", name) if part not in ("", ".")]
        outside = ".." in self.parts or name.startswith(("/", "\\")) or ":" in re.split(r"[/\\]", name)[0]
        link = stat.S_ISLNK(info.external_attr >> 16)
        self.checkpoint = CHECKPOINTS in self.parts
        hidden = any(ours(part) for part in self.parts if part != CHECKPOINTS) or bool({*self.parts[:-1]} & {*SKIPPED})
        self.wanted = bool(self.parts) and not (outside or link or hidden)
        last = self.parts[-1].lower() if self.parts else ""
        self.zip = last.endswith(".zip") and not self.checkpoint
        self.notebook = not self.zip and not self.checkpoint and may_be_notebook(last)

    def bytes(self, whole_class):
        """What unpacking it costs: of one student's all is read; on the disk, which counts for a class, there is less."""
        most = MAX_FILE if self.zip else MAX_BYTES
        return min(self.info.file_size, most) if whole_class else self.info.file_size


def _wanted(archive, budget):
    """The entries that are unpacked: all that may be notebooks, and as many others as it takes to say what they are."""
    entries = [entry for entry in map(_Entry, archive.infolist()) if entry.wanted]
    if budget.whole_class:
        return entries
    work = [entry for entry in entries if entry.zip or entry.notebook]
    return work + [entry for entry in entries if not (entry.zip or entry.notebook or entry.info.is_dir())][:OTHERS]


def _problem(entries, budget):
    """Why a zip is refused before any of it is unpacked, or None; what it takes is taken from `budget`."""
    counted = entries if budget.whole_class else [entry for entry in entries if entry.zip or entry.notebook]
    together = "" if budget.whole_class else " (of all zips of one student together)"
    if len(counted) > budget.entries:
        return f"the zip has {len(counted)} entries; at most {budget.entries} are read{together}"
    total = sum(entry.bytes(budget.whole_class) for entry in counted if entry.zip or entry.notebook)
    if total > budget.bytes:
        return f"the zip would unpack to {total / 1e6:.0f} MB; at most {budget.bytes / 1e6:.0f} are read{together}"
    budget.entries -= len(counted)
    budget.bytes -= total
    return None


def list_problem(path):
    """Why a zip's list of entries is not even read, or None: reading it costs memory."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 65_557))
        tail = file.read(65_557)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22:
        return None  # no zip: said by who reads it
    length = struct.unpack_from("<L", tail, place + 12)[0]
    if length == 0xFFFFFFFF:  # zip64: the length stands in its own record
        record = tail.rfind(b"PK\x06\x06", 0, place)
        length = struct.unpack_from("<Q", tail, record + 40)[0] if record >= 0 else size
    return f"the zip's list of entries has {length / 1e6:.0f} MB: too many to read" if length > DIRECTORY_BYTES else None


def _content(archive, entry):
    """(the bytes to write for an entry, why they are not what it holds or None)."""
    if entry.checkpoint:
        return b"", None
    if (entry.notebook or entry.zip) and entry.info.file_size > MAX_FILE:
        return b"", too_large(entry.info.file_size)
    try:
        with archive.open(entry.info) as source:
            data = source.read(MAX_FILE if entry.notebook or entry.zip else BEGINNING)
        return (reduced(data) if entry.notebook and len(data) > MAX_BYTES else data), None
    except Unreadable as problem:
        return b"", str(problem)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        return b"", f"{DAMAGED} ({' '.join(str(error).split())[:100]})"


def _utf8(info):
    """An entry's name. Some programs write UTF-8 without saying so, which reads as another code page."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _short(part):
    """A name that a file system takes: at most 255 bytes, without characters that none has; another for another name."""
    part = part.replace("\0", "")
    if len(part.encode("utf-8", "replace")) <= 200:
        return part
    stem, suffix = os.path.splitext(part)
    digest = hashlib.sha256(part.encode("utf-8", "replace")).hexdigest()[:8]
    return stem.encode("utf-8", "replace")[:150].decode("utf-8", "ignore") + f"-{digest}{suffix[:20]}"


def _free(path, is_folder):
    """`path`, or where another entry has it already one beside it; None for a folder that is there."""
    if is_folder:
        return None if path.is_dir() else path
    free, number = path, 2
    while os.path.lexists(free):
        free, number = path.with_name(f"{path.stem} ({number}){path.suffix}"), number + 1
    return free


def _seconds(date_time):
    try:
        return time.mktime((*date_time, 0, 0, -1))
    except (ValueError, OverflowError):
        return None
