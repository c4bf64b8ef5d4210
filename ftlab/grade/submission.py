"""Find the submissions in what an LMS, nbgrader or a teacher's folder holds: which file is which student's, of which lab.

    <student>/<lab>.ipynb                              a folder a student, with folders and zips in it as they come
    <student>/<lab>/<lab>.ipynb                        nbgrader's submitted/ (or collected) folder
    a download of Canvas, Moodle, Blackboard or Brightspace, flat or in folders: lms.py has their names

or a zip of any of these, or a folder with a zip a student. Who handed in anything, or has a folder, comes out: what cannot be
graded becomes a Submission with a `problem`, and the others go on. What lies around and is nobody's is told as a notice. A
folder that holds several people is no student: it is refused. Links are not followed, and zips are unpacked within limits
(archives.py): students' files are not to be trusted.
"""

import collections
import dataclasses
import pathlib
import re
import unicodedata
import zipfile

from ftlab.course import catalogue
from ftlab.errors import UsageError
from ftlab.grade import lms, people
from ftlab.grade.archives import CHECKPOINTS, SKIPPED, Budget, Scratch, class_budget, may_be_notebook, ours
from ftlab.grade.notebook_file import Unreadable, parsed, read_bytes

DEPTH = 12  # folders in a student's own
COPY = re.compile(r"(?P<backup>-Copy|[-_ ]|\s*\()(?P<number>\d+)\)?$")  # "-1", " (2)", "-Copy3"
NO_FILE = "it is no file but a link, a pipe or a device, which is not read"
LAYOUTS = ("<student>/<lab>.ipynb, <student>/<lab>/<lab>.ipynb (nbgrader), a download of Canvas, Moodle, Blackboard or "
           "Brightspace, or a zip of one of these")  # fmt: skip


@dataclasses.dataclass
class Submission:
    """One student's file for one lab.

    student: name (with the LMS's number where it gives one); lab: "06_lora", or "" where the file does not tell; path: the
    notebook, or what is there instead. problem: one line, where it cannot be graded. late: what the LMS's name says, None
    where it says nothing. modified: the file's time, or the LMS's where it names one (seconds since 1970; `dated`).
    lms: dict(kind, id, name), or None. flags: as in a result. where: the path within what the student handed in.
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
    dated: bool = False
    where: tuple = ()


@dataclasses.dataclass
class _Person:
    """What one student handed in, entry by entry. others: [(name, path)] of what is no notebook."""

    base: Submission
    plain: bool  # whether the name is a folder's or file's own and no LMS's
    found: list = dataclasses.field(default_factory=list)
    others: list = dataclasses.field(default_factory=list)
    checkpoints: list = dataclasses.field(default_factory=list)
    told: set = dataclasses.field(default_factory=set)  # people whom an LMS names inside
    folders: list = dataclasses.field(default_factory=list)  # the first folders inside, empty ones too
    budget: Budget = dataclasses.field(default_factory=Budget)


def collect(folder, scratch=None, notices=None):
    """The Submissions in `folder` (a folder or a zip file), sorted by student and lab, one for each student and lab.

    scratch: where zips are unpacked (default: a temporary folder that goes when this process ends). notices: a list that
    takes lines for the instructor: what was passed over, who may be one person. Raises UsageError when nothing there looks
    like a submission, or when folders hold several people each.
    """
    folder = asked = pathlib.Path(folder)
    notices = [] if notices is None else notices
    if not folder.exists():
        raise UsageError(f"no folder or zip at {folder}")
    if not folder.is_dir() and not (folder.is_file() and zipfile.is_zipfile(folder)):
        raise UsageError(f"{folder} is neither a folder nor a zip; submissions are {LAYOUTS}")
    scratch = Scratch(scratch)
    if folder.is_file():
        folder, problem = scratch.unpack(folder, class_budget())
        if problem:
            raise UsageError(f"{asked}: {problem}")
    persons, passed = _people_in(folder, scratch)
    while len(persons) == 1 and (inner := _wrapper(persons[0], folder, asked)):
        if asked.is_dir():
            notices.append(f"read from {asked.name / inner.relative_to(asked)}, which holds the students' folders")
        folder = inner
        persons, passed = _people_in(folder, scratch)
    if not persons:
        there = f" (there: {people.some(passed)})" if passed else ""
        raise UsageError(f"no submissions in {asked}: they are {LAYOUTS}{there}")
    if not any(person.found or person.others or person.checkpoints for person in persons):
        raise UsageError(f"no submissions in {asked}: {people.some(person.base.path.name for person in persons)}: all empty")
    _refuse_what_holds_people(persons, asked, folder)
    notices += _notices(persons, passed)
    found = [one for person in persons for one in _rows(person)]
    return sorted(found, key=lambda one: (one.student, one.lab, str(one.path)))


# People


def _people_in(folder, scratch):
    """([_Person, ...] of a folder with submissions, [names of what is nobody's])."""
    try:
        paths = [path for path in sorted(folder.iterdir()) if not ours(path.name)]
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from None
    told, persons, loose, passed = lms.told_of(paths), {}, [], []
    for path in paths:
        if told[path] is None and people.is_nobodys(path):
            passed.append(path.name)
        elif told[path] is None and path.is_file() and not _is_work(path):
            loose.append(path)
        else:
            _enter(path, told[path], persons, scratch)
    for path in loose:  # a file that is no notebook: somebody's, where people hand in
        if persons:
            _enter(path, None, persons, scratch)
        else:
            passed.append(path.name)
    return list(persons.values()), passed


def _is_work(path):
    return path.suffix.lower() in (".ipynb", ".zip") or may_be_notebook(path.name) and _is_notebook(path)


def _enter(path, told, persons, scratch):
    """Add what one entry of the top folder holds to its person, a new one where there is none."""
    base, name = _base(path, told)
    key = (base.lms and base.lms["kind"], base.student)
    person = persons.setdefault(key, _Person(base, plain=told is None))
    if told and told.entered and not path.is_dir():
        person.others.append((path.name, path))
    elif told is None and path.suffix.lower() == ".zip" and (inside := people.of_a_download(path)):
        person.told |= inside
        person.found.append(dataclasses.replace(base, problem=people.CLASS, where=(path.name,)))
    elif told is None and path.is_file() and path.suffix.lower() != ".zip" and _is_work(path):
        problem = "the file's name tells no student: put it into a folder that is called as the student"
        person.found.append(dataclasses.replace(_read(path, base, name, (path.name,), scratch), problem=problem))
    else:
        _take(path, name, (path.name,), base, person, scratch)


def _base(path, told):
    """(a Submission with what an entry's name tells of the student, the student's own name for the file)."""
    modified = _modified(path)
    if told is None:
        name = unicodedata.normalize("NFC", path.name)
        plain = name if path.is_dir() else name.partition(".ipynb")[0] if ".ipynb" in name else pathlib.Path(name).stem
        return Submission(plain.removesuffix(".tar") or name, "", path, modified=modified), name
    student = unicodedata.normalize("NFC", told.student)
    made = Submission(student, "", path, late=told.late, modified=modified)
    if told.when is not None:
        made.modified, made.dated = told.when, True
    if told.kind != "nbgrader":  # which is no LMS: its names are those of folders
        made.lms = {"kind": told.kind, "id": told.id, "name": told.name}
    return made, told.file or path.name


def _take(path, name, where, base, person, scratch):
    """Add what is at `path` to `person`: notebooks, what is in folders and zips, and the names of all else."""
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        if name.lower().endswith(".ipynb") or len(where) == 1:
            problem = "a link, which is not followed" if path.is_symlink() else NO_FILE
            person.found.append(dataclasses.replace(base, lab=_lab_of(path, name), path=path, problem=problem, where=where))
        else:
            person.others.append((name, path))
    elif path.is_dir():
        _take_folder(path, where, base, person, scratch)
    elif path.suffix.lower() == ".zip":
        _take_zip(path, name, where, base, person, scratch)
    elif path.suffix.lower() == ".ipynb" or (may_be_notebook(name) and _is_notebook(path)) or path in scratch.problems:
        person.found.append(_read(path, base, name, where, scratch))
    else:
        person.others.append((name, path))


def _take_folder(path, where, base, person, scratch):
    try:
        children = sorted(path.iterdir())
    except OSError as error:
        problem = f"the folder {'/'.join(where)} cannot be read: {error.strerror}"
        person.found.append(dataclasses.replace(base, path=path, problem=problem, where=where))
        return
    for child in children:
        if child.name == CHECKPOINTS and child.is_dir() and not child.is_symlink():
            person.checkpoints += sorted(file.name for file in child.glob("*.ipynb"))
        elif ours(child.name) or child.name in SKIPPED:
            continue
        elif len(where) > DEPTH:
            person.others.append((f"{'/'.join(where)}/...", path))
            return
        else:
            if len(where) == 1 and child.is_dir():
                person.folders.append(child.name)
            told = lms.told(child.name)
            if told and person.plain and not (told.kind == "canvas" and not told.id):
                person.told.add((told.kind, told.student))
            _take(child, child.name, (*where, child.name), base, person, scratch)


def _take_zip(path, name, where, base, person, scratch):
    problem = scratch.problems.get(path)
    if not problem and person.budget.depth < 1:
        problem = "zips in zips in zips are not opened"
    if not problem:
        person.budget.depth -= 1
        unpacked, problem = scratch.unpack(path, person.budget)
        if not problem:
            _take_folder(unpacked, where, base, person, scratch)
        person.budget.depth += 1
    if problem:
        person.found.append(dataclasses.replace(base, lab=_lab_of(path, name), path=path, problem=problem, where=where))


def _wrapper(person, folder, asked):
    """The folder below the only one in `folder` that holds the submissions, or None: an LMS's or zip's own folder."""
    path = person.base.path
    if not person.plain or path.is_symlink() or not path.is_dir():
        return None
    if people.inside(person):
        return path
    # A zip of a folder that holds folders, of which one may be the only student's.
    inner = [child for child in path.iterdir() if not ours(child.name) and not people.is_nobodys(child)]
    if inner and all(lms.told(child.name) for child in inner):
        return path
    only_folders = inner and all(child.is_dir() for child in inner)
    named = any(people.is_work_name(child.name, path.name) for child in inner)
    return path if only_folders and not named and not asked.is_dir() else None


def _refuse_what_holds_people(persons, asked, folder):
    """Raise UsageError where folders are sections or labs and no students; a single one among students gets a problem."""
    children = {person.base.path.name for person in persons}
    if "submitted" in children and children & {"source", "release", "autograded"}:
        raise UsageError(f"{asked} is nbgrader's course folder: name its folder submitted")
    groups = [(person, names) for person in persons if (names := people.inside(person))]
    if any(person.base.path.is_dir() for person, _ in groups):  # beside a section, one with a single person in it
        others = [(person, [name]) for person in persons if not people.inside(person) and (name := people.only_inside(person))]
        groups += others if 2 * len(groups + others) > len(persons) else []
    if 2 * len(groups) > len(persons):
        groups.sort(key=lambda group: group[0].base.student)
        said = [f"{person.base.path.name} holds {people.whose(names)}" for person, names in groups]
        first = groups[0][0].base.path.relative_to(folder)
        how = ("unpack the zip and " if asked.is_file() else "") + "grade each such folder by itself, with its own --out"
        raise UsageError(f"{asked} holds no folder a student: {'; '.join(said[:4])}{'; ...' if said[4:] else ''}: {how} (ftlab "
                         f"grade {str(first if asked.is_file() else asked / first)!r} --out ...)")  # fmt: skip
    for person, names in groups:
        if not (person.found and person.found[0].problem == people.CLASS):
            problem = (f"not one student's: it holds {people.whose(names)}. Grade it by itself, or move their folders beside "
                       "the others")  # fmt: skip
            person.found = [dataclasses.replace(person.base, problem=problem)]


def _notices(persons, passed):
    lines = []
    if passed:
        lines.append(f"nobody's, and not read: {people.some(passed)}")
    return lines + people.alike([person.base for person in persons]) + people.deeper(persons)


# Rows


def _rows(person):
    """The Submissions of a person: one for each lab, and one where there is no notebook at all."""
    groups = collections.defaultdict(list)
    for one in person.found:
        groups[one.lab].append(one)
    rows = [_chosen(group) for lab, group in groups.items() if lab]
    unknown = groups.get("", [])
    if not rows and len(unknown) > 1:  # a person without any lab has one row, which says all
        problem = "; ".join(dict.fromkeys(f"{'/'.join(one.where[1:]) or one.path.name}: {one.problem}" for one in unknown[:3]))
        problem += f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        unknown = [dataclasses.replace(unknown[0], problem=problem)]
    if not rows and not unknown:
        unknown = [dataclasses.replace(person.base, problem=people.instead(person))]
    return rows + unknown


def _read(path, base, name, where, scratch):
    """The Submission of a notebook file, whose student's name for it is `name`."""
    stem = re.sub(r"\.ipynb.*$", "", name, flags=re.I)
    copy = COPY.search(stem)
    made = dataclasses.replace(base, path=path, flags=[], where=where, problem=scratch.problems.get(path))
    if copy and len(copy["number"]) < 4 and copy["backup"] != "-Copy":  # -Copy1 is JupyterLab's backup, no later attempt
        made.attempt = int(copy["number"])
    if not base.dated:
        made.modified = _modified(path)
    raw = None
    if not made.problem:
        try:
            raw = parsed(read_bytes(path))
        except Unreadable as problem:
            made.problem = str(problem)
    made.lab = _lab_of(path, name) or ("" if raw is None else _lab_inside(raw))
    if not made.lab and not made.problem:
        made.problem = (f"{name} names no lab of the course, and neither does what is in it; the labs are: "
                        f"{', '.join(catalogue.lab_names())}")  # fmt: skip
    if not made.problem and not name.lower().endswith(".ipynb"):
        made.flags.append(_flag("renamed_file", f"read as a notebook, under the name {name}"))
    return made


def _is_notebook(path):
    """Whether a file under another suffix is a notebook: JSON that begins as one."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        return start.startswith(b"{") and (b'"cells"' in start or b'"nbformat' in start) and bool(parsed(read_bytes(path)))
    except (OSError, Unreadable):
        return False


def _lab_of(path, name):
    """The lab that a file's name or its folder's holds: "06_lora (1).ipynb" and "06_lora/solution.ipynb" are of 06_lora."""
    for text in (name, path.parent.name):
        found = [lab for lab in catalogue.lab_names() if lab in re.sub(r"[\s-]+", "_", text.lower())]
        if found:
            return max(found, key=len)
    return ""


def _lab_inside(raw):
    """The lab that a notebook's own metadata or else its first cells name, or ""."""
    metadata = raw.get("metadata")
    given = metadata.get("ftlab") if isinstance(metadata, dict) else None
    lab = given.get("lab") if isinstance(given, dict) else None
    if lab in catalogue.lab_names():
        return lab
    for cell in raw["cells"][:8]:
        source = cell.get("source", "") if isinstance(cell, dict) else ""
        text = "".join(map(str, source)) if isinstance(source, list) else str(source)
        named = re.findall(rf"\b(?:{'|'.join(map(re.escape, catalogue.lab_names()))})\b", text)
        if named:
            return named[0]
    return ""


def _chosen(group):
    """The Submission that counts of one student's for one lab: of those with work in them the last.

    The last by the LMS's number of the attempt, else by time; of copies of the same minute the one with more work in it.
    """
    if len(group) == 1:
        return group[0]
    readable = [one for one in group if not one.problem] or group
    work = {id(one): _attempted(one) for one in readable} if len(readable) > 1 else {}

    def rank(one):
        done, canvas = work.get(id(one), 0), bool(one.lms) and one.lms["kind"] == "canvas"
        return done > 0, one.attempt if canvas else 0, one.modified // 60, done, one.attempt, one.modified, str(one.path)

    last = max(readable, key=rank)

    several = len({one.where[:1] for one in group}) > 1  # folders or files of the download

    def shown(one):
        text = "/".join(one.where if several else one.where[1:] or one.where) or one.path.name
        return f"{text} ({work[id(one)]} exercises attempted)" if id(one) in work else text

    others = ", ".join(sorted(shown(one) for one in group if one is not last))
    last.flags.append(_flag("several_files", f"{shown(last)} was graded; {others} was handed in, too"))
    return last


def _attempted(one):
    """How many exercises of its lab a notebook that can be read has filled."""
    from ftlab.grade.rebuild import staged

    return sum(staged(one.path, one.lab).attempted.values())


def _flag(kind, message):
    return {"kind": kind, "exercise": None, "message": message}


def _modified(path):
    return path.lstat().st_mtime
