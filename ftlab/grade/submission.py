"""Find the submissions in what an LMS, nbgrader or a teacher's folder holds: which file is which student's, of which lab.

    <student>/<lab>.ipynb                              a folder a student
    <student>/<lab>/<lab>.ipynb                        nbgrader's submitted/ (or collected) folder
    Full Name_12345_assignsubmission_file_/x.ipynb     Moodle, "download in folders"; or flat: ..._file_x.ipynb
    lastfirst_12345_67890_06_lora.ipynb                Canvas; lastfirst_LATE_12345_67890_06_lora-1.ipynb: late, second attempt

or a zip of any of these, or a folder with a zip a student. A file that cannot be graded becomes a Submission with a `problem`;
the others go on. Links are not followed, and a zip is unpacked within limits: student's files are not to be trusted.
"""

import atexit
import dataclasses
import os
import pathlib
import re
import shutil
import stat
import tempfile
import time
import zipfile

from ftlab.course import catalogue
from ftlab.errors import UsageError
from ftlab.files import read_json
from ftlab.grade.rebuild import MAX_BYTES, read_cells

# Of a zip, (entries, bytes unpacked): a student's own is small; a class's holds what each student put in, of which no entry is
# unpacked beyond what is read, so that one student's bomb costs the others nothing.
STUDENT_ZIP, CLASS_ZIP = (1000, 200_000_000), (50_000, 20_000_000_000)
DEPTH = 3  # folders below a student's own
MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)_?(?P<file>.*)", re.S)
CANVAS = re.compile(r"(?P<name>[^_]+?)(?P<late>_LATE)?_(?P<id>\d+)_(?P<submission>\d+)_(?P<file>.+)", re.S)
COPY = re.compile(r"(?:-Copy|[-_ ]|\s*\()(\d+)\)?$")  # "-1", " (2)", "-Copy3"
_CLASS = "a download of a whole class inside the submissions' folder: grade it by itself, ftlab grade THE.zip"
LAYOUTS = ("<student>/<lab>.ipynb, <student>/<lab>/<lab>.ipynb (nbgrader), a download of Moodle's or Canvas's, or a zip of "
           "one of these")  # fmt: skip


@dataclasses.dataclass
class Submission:
    """One student's file for one lab.

    student: name (with the LMS's number where it gives one); lab: "06_lora", or "" where the file does not tell; path: the
    notebook. problem: one line, where it cannot be graded. late: what the LMS's name says, None where it says nothing.
    modified: the file's time (seconds since 1970). lms: dict(kind, id, name), or None. flags: as in a result.
    """

    student: str
    lab: str
    path: pathlib.Path
    problem: str | None = None
    late: bool | None = None
    modified: float = 0.0
    attempt: int = 0
    lms: dict | None = None
    flags: list = dataclasses.field(default_factory=list)


def collect(folder, scratch=None):
    """The Submissions in `folder` (a folder or a zip file), sorted by student and lab, one for each student and lab.

    scratch: where zips are unpacked (default: a temporary folder that goes when this process ends). Raises UsageError when
    nothing there looks like a submission.
    """
    folder = asked = pathlib.Path(folder)
    if not folder.exists():
        raise UsageError(f"no folder or zip at {folder}")
    if folder.is_file() and not zipfile.is_zipfile(folder):
        raise UsageError(f"{folder} is neither a folder nor a zip; submissions are {LAYOUTS}")
    scratch = _Scratch(scratch)
    if folder.is_file():
        unpacked, problem = scratch.unpack(folder, CLASS_ZIP)
        if problem:
            raise UsageError(f"{folder}: {problem}")
        folder = _inside(unpacked)
    found = []
    for path in sorted(folder.iterdir()):
        if not _is_ours(path):
            found += _entry(path, scratch)
    if not found:
        raise UsageError(f"no submissions in {asked}: they are {LAYOUTS}")
    return _newest(found)


def _is_ours(path):
    """Files that systems put beside submissions."""
    return path.name.startswith((".", "__MACOSX")) or path.name in ("Thumbs.db", "desktop.ini")


def _entry(path, scratch):
    """The Submissions of one entry of the top folder."""
    base, file = _person(path)
    if path.is_symlink():
        return [dataclasses.replace(base, problem="a link, which is not followed")]
    if path.is_dir():
        return _in_folder(path, base, scratch, DEPTH)
    if path.suffix.lower() == ".zip":
        if base.lms is None and _of_a_class(path):
            return [dataclasses.replace(base, problem=_CLASS)]
        return _in_zip(path, base, scratch)
    if path.suffix.lower() != ".ipynb":
        return []
    if base.lms is None:
        problem = "the file's name tells no student: put it into a folder that is called as the student"
        return [dataclasses.replace(_read(path, base, file), problem=problem)]
    return [_read(path, base, file)]


def _of_a_class(path):
    """Whether a zip beside students' folders is an LMS's download. It is not unpacked as one: a student could have made it."""
    try:
        with zipfile.ZipFile(path) as archive:
            tops = {name.strip("/").partition("/")[0] for name in archive.namelist()[:STUDENT_ZIP[0]]}
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    moodles, canvases = ([found for name in tops if (found := kind.fullmatch(name))] for kind in (MOODLE, CANVAS))
    # A student's own file may be called as Canvas calls one; two of two people are not.
    return bool(moodles) or len({found["id"] for found in canvases}) > 1


def _in_folder(folder, base, scratch, depth):
    found = []
    for path in sorted(folder.iterdir()):
        if _is_ours(path):
            continue
        if path.is_symlink():
            if path.suffix.lower() == ".ipynb":
                found.append(dataclasses.replace(base, lab=_lab_of(path, path.name), path=path,
                                                 problem="a link, which is not followed"))  # fmt: skip
        elif path.is_dir():
            found += _in_folder(path, base, scratch, depth - 1) if depth else []
        elif path.suffix.lower() == ".zip":
            found += _in_zip(path, base, scratch)
        elif path.suffix.lower() == ".ipynb":
            found.append(_read(path, base, path.name))
    return found


def _in_zip(path, base, scratch):
    unpacked, problem = scratch.unpack(path, STUDENT_ZIP)
    if problem:
        return [dataclasses.replace(base, lab=_lab_of(path, path.name), path=path, problem=problem)]
    return _in_folder(unpacked, base, scratch, DEPTH)


def _person(path):
    """(a Submission with what an entry's name tells of the student, the rest of the name: the student's file)."""
    name = path.name
    made = Submission(pathlib.Path(name).stem if path.is_file() else name, "", path, modified=_modified(path))
    for kind, pattern in (("moodle", MOODLE), ("canvas", CANVAS)):
        match = pattern.fullmatch(name)
        if match:
            parts = match.groupdict()
            made.student = f"{parts['name']}_{parts['id']}"
            made.lms = {"kind": kind, "id": parts["id"], "name": parts["name"]}
            if kind == "canvas":
                made.late = bool(parts["late"])
            return made, parts["file"]
    return made, name


def _read(path, base, name):
    """The Submission of a notebook file, whose student's name for it is `name`."""
    stem = re.sub(r"\.ipynb$", "", name, flags=re.I)
    copy = COPY.search(stem)
    made = dataclasses.replace(base, path=path, modified=_modified(path), flags=[],
                               attempt=int(copy.group(1)) if copy and len(copy.group(1)) < 4 else 0)  # fmt: skip
    made.problem = read_cells(path)[1]
    made.lab = _lab_of(path, name) or ("" if made.problem else _lab_inside(path))
    if not made.lab and not made.problem:
        made.problem = (f"{name} names no lab of the course, and neither does what is in it; the labs are: "
                        f"{', '.join(catalogue.lab_names())}")  # fmt: skip
    return made


def _lab_of(path, name):
    """The lab that a file's name or its folder's holds: "06_lora (1).ipynb" and "06_lora/solution.ipynb" are of 06_lora."""
    for text in (name, path.parent.name):
        found = [lab for lab in catalogue.lab_names() if lab in text.lower().replace(" ", "_")]
        if found:
            return max(found, key=len)
    return ""


def _lab_inside(path):
    """The lab that the notebook's own metadata names, or ""."""
    metadata = read_json(path).get("metadata")
    ours = metadata.get("ftlab") if isinstance(metadata, dict) else None
    lab = ours.get("lab") if isinstance(ours, dict) else None
    return lab if lab in catalogue.lab_names() else ""


def _newest(found):
    """One Submission for each student and lab: the last attempt, by the LMS's number, else by the file's time."""
    groups = {}
    for one in found:
        groups.setdefault((one.student, one.lab), []).append(one)
    chosen = []
    for (_, lab), group in groups.items():
        if not lab:
            chosen += group  # files of which nothing is known do not stand for each other
            continue
        readable = [one for one in group if not one.problem] or group
        last = max(readable, key=lambda one: (one.attempt, one.modified, str(one.path)))
        if len(group) > 1:
            others = ", ".join(sorted(one.path.name for one in group if one is not last))
            last.flags.append({"kind": "several_files", "exercise": None,
                               "message": f"{last.path.name} was graded; {others} was handed in, too"})  # fmt: skip
        chosen.append(last)
    return sorted(chosen, key=lambda one: (one.student, one.lab, str(one.path)))


def _modified(path):
    return path.lstat().st_mtime


# Zips


class _Scratch:
    """Unpacks zips, within limits, into folders of its own."""

    def __init__(self, folder):
        if folder is None:
            folder = tempfile.mkdtemp(prefix="ftlab-submissions-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.folder, self.count = pathlib.Path(folder), 0
        self.folder.mkdir(parents=True, exist_ok=True)

    def unpack(self, path, limits):
        """(folder with the notebooks and zips of the zip at `path`, None), or (None, why it was not unpacked)."""
        self.count += 1
        target = self.folder / f"{self.count}"
        try:
            with zipfile.ZipFile(path) as archive:
                problem = _problem(archive, *limits)
                if not problem:
                    _unpack(archive, target)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
            problem = f"the zip is damaged, encrypted or of a kind that is not read ({' '.join(str(error).split())[:100]})"
        if problem:
            shutil.rmtree(target, ignore_errors=True)
            return None, problem
        return target, None


def _problem(archive, max_entries, max_bytes):
    """Why a zip is refused before any of it is unpacked, or None."""
    entries = archive.infolist()
    if len(entries) > max_entries:
        return f"the zip has {len(entries)} entries; at most {max_entries} are read"
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        return f"the zip would unpack to {total / 1e6:.0f} MB; at most {max_bytes / 1e6:.0f} are read"
    return None


def _unpack(archive, target):
    """Write the zip's notebooks and zips under `target`: no links, nothing outside it, of no entry more than will be read."""
    target.mkdir(parents=True)
    for entry in archive.infolist():
        parts = [part for part in re.split(r"[/\\]", entry.filename) if part not in ("", ".")]
        outside = ".." in parts or entry.filename.startswith(("/", "\\")) or ":" in entry.filename.split("/")[0]
        link = stat.S_ISLNK(entry.external_attr >> 16)
        wanted = entry.filename.lower().endswith((".ipynb", ".zip"))
        if entry.is_dir() or outside or link or not wanted or parts[-1].startswith("."):
            continue
        path = target.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, open(path, "wb") as file:
            limit = MAX_BYTES if path.suffix.lower() == ".ipynb" else STUDENT_ZIP[1]
            shutil.copyfileobj(_Limited(source, limit + 1), file)
        seconds = _seconds(entry.date_time)
        if seconds:
            os.utime(path, (seconds, seconds))


def _seconds(date_time):
    try:
        return time.mktime((*date_time, 0, 0, -1))
    except (ValueError, OverflowError):
        return None


class _Limited:
    """A file that ends after so many bytes, whatever its header says."""

    def __init__(self, file, left):
        self.file, self.left = file, left

    def read(self, size=-1):
        data = self.file.read(min(size, self.left) if size >= 0 else self.left)
        self.left -= len(data)
        return data


def _inside(folder):
    """The folder that holds the submissions: below a zip's only folder, when that is not a student's."""
    children = [path for path in folder.iterdir() if not _is_ours(path)]
    while len(children) == 1 and children[0].is_dir() and not MOODLE.fullmatch(children[0].name):
        inner = [path for path in children[0].iterdir() if not _is_ours(path)]
        files = [path for path in inner if path.is_file() and not (MOODLE.fullmatch(path.name) or CANVAS.fullmatch(path.name))]
        if files or any(path.name in catalogue.lab_names() for path in inner) or not inner:
            break
        folder, children = children[0], inner
    return folder
