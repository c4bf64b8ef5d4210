"""Who is who in a folder of submissions: what is nobody's, which folder is no student's but several people's, who is alike.

A layout one level off the documented ones (sections, tutorials, attempts, labs) would give grades to the wrong number of
people. So a folder whose notebooks of one lab lie in folders that are called as people is no student's.
"""

import collections
import pathlib
import re
import unicodedata
import zipfile

from ftlab.course import catalogue
from ftlab.grade import lms
from ftlab.grade.archives import BEGINNING, list_problem

CLASS = "a download of a whole class inside the submissions' folder: grade it by itself, ftlab grade THE.zip"
NOBODYS = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".md", ".rst", ".cfg", ".ini", ".toml", ".yml", ".yaml", ".db", ".log",
           ".sh", ".lock")  # fmt: skip
_NOBODYS_NAME = re.compile(r"index\.html?|(readme|license|licence|makefile|timestamp|notes|instructions)\b.*", re.I)
# Words of names that students give their folders and files: of work, of copies and attempts. Numbers and single letters, too.
_WORK = frozenset("""
    lab labs lora ftlab week woche work working solution solutions solved src source notebook notebooks code python home hw
    homework homeworks course coursework class kurs assignment assignments exercise exercises submission submissions submitted
    submit abgabe abgaben final finale last latest first second third old new alt neu newer backup backups bak copy copies of
    kopie von copia version rev attempt attempts try tries versuch versuche poging draft drafts temp tmp test tests data doc
    docs document documents out output outputs result results download downloads desktop misc archive archives untitled folder
    ordner part parts teil task tasks aufgabe aufgaben repo main master colab jupyter drive my mine own the with to for and up
    do done complete completed corrected correction fixed fix update updated resubmit resubmission late extra unused ignore
    project projekt material materials handout release released original clean good bad wip current save saved export exported
    file files ipynb checkpoint checkpoints git github zip uni ml ai nlp llm llms fine tuning finetuning deep learning model
    models script scripts lib examples example attachment
    attachments dropbox um am pm st nd rd th jan feb mar apr may jun jul aug sep oct nov dec""".split())
_SECTION = re.compile(
    r"\b(sections?|tutorials?|tutori(?:um|en)|seminars?|classes|groups?|gruppen?|übungsgruppe|sektion|team|cohort|"
    r"monday|tuesday|wednesday|thursday|friday|montag|dienstag|mittwoch|donnerstag|freitag|morning|afternoon|"
    r"attempts?|versuche?|submissions?|submitted|abgaben?|students?|on[ _-]?time|late|week|woche|lab|assignment)\b"
    r"|^(?:sec|tut|grp?)[ _-]?\w{1,3}$", re.I)  # fmt: skip
_ATTEMPT = re.compile(r"(?:[ _-]*\b(?:attempt|try|versuch|poging|resubmission|resubmitted|resubmit|late|final|copy|kopie|new|v)"
                      r"[ _-]*\d*|[ _-]*\(\d+\)|-copy\d+)$", re.I)  # fmt: skip
_ARCHIVES = (".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".tbz", ".zst")
_KINDS = {  # suffixes: what such a file is, for who asks why there is no notebook
    _ARCHIVES: "an archive of a kind that is not read: ask for the notebook, or a zip",
    (".lnk", ".url", ".webloc", ".desktop", ".gdoc", ".gslides", ".gsheet", ".alias"): "a shortcut to a file, not the file",
    (".html", ".htm", ".mhtml"): "a page, not the notebook", (".pdf",): "a printed page, not the notebook",
    (".py",): "a script, not the notebook", (".doc", ".docx", ".odt", ".rtf", ".pages"): "a text document",
    (".png", ".jpg", ".jpeg", ".heic", ".gif", ".webp"): "a picture", (".crdownload", ".part"): "a download that did not end",
}  # fmt: skip


def some(names, most=4):
    """ "a, b, c, d and 3 more"."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def is_nobodys(path):
    """Whether a file beside students' folders is the instructor's or the LMS's own: a list of grades, an index."""
    return path.is_file() and not path.is_symlink() and (
        path.suffix.lower() in NOBODYS or bool(_NOBODYS_NAME.fullmatch(path.name)))  # fmt: skip


def of_a_download(path):
    """{(kind, student)} of an LMS's download of several people in the zip at `path`, else an empty set.

    It is not unpacked as one: a student could have made it. A student's own file may be called as an LMS calls one; two of
    two people are not.
    """
    if path.is_symlink() or not path.is_file():
        return set()
    try:
        if list_problem(path):
            return set()
        with zipfile.ZipFile(path) as archive:
            tops = {name.strip("/").partition("/")[0] for name in archive.namelist()[:50_000]}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return set()
    found = {(told.kind, told.student) for name in tops if (told := lms.told(name))}
    return found if len(found) > 1 or any(kind == "moodle" for kind, _ in found) else set()


def inside(person):
    """The names of the people whose work lies in what should be one student's, sorted; empty where it is one student's."""
    if not person.plain:
        return []
    if len(person.told) > 1:
        return sorted({student for _, student in person.told})
    by_lab, root = collections.defaultdict(set), person.base.path.name
    for one in person.found:
        if one.lab and len(one.where) > 1:
            by_lab[one.lab].add(one.where[1:])
    section = bool(_SECTION.search(root.replace("_", " "))) or _is_lab(root)
    for paths in by_lab.values():
        names = _differing(paths, root)
        # One level of folders that are called as people; loose files are copies of one, unless the folder says otherwise.
        if len(names["folders"]) > 1 or (section and len(names["folders"]) == 1 and len(paths) == 1):
            return sorted(name for name in names["folders"])
        if len(names["files"]) > (1 if section else 2):
            return sorted(names["files"])
    return []


def only_inside(person):
    """The name of the one folder, called as a person, in which all notebooks of `person` lie; "" where there is none."""
    if len(person.told) == 1:
        return next(student for _, student in person.told)
    tops = {one.where[1] for one in person.found if len(one.where) > 2}
    if not person.plain or len(tops) != 1 or any(len(one.where) == 2 for one in person.found):
        return ""
    return "" if is_work_name(min(tops), person.base.path.name) else min(tops)


def whose(names):
    """ "several people's notebooks (anna/, ben/)", of the names in `inside`."""
    shown = some(name if pathlib.PurePath(name).suffix else f"{name}/" for name in names)
    return f"{'several people' if len(names) > 1 else 'a person'}'s notebooks ({shown})"


def _differing(paths, root):
    """{"folders", "files"}: of the paths of notebooks of one lab, where they differ, the names that are called as people."""
    paths, common = sorted(paths), 0
    while len(paths) > 1 and all(len(path) > common + 1 for path in paths) and len({path[common] for path in paths}) == 1:
        common += 1
    while len(paths) == 1 and len(paths[0]) > common + 1 and is_work_name(paths[0][common], root):
        common += 1
    found = {"folders": set(), "files": set()}
    for path in paths:
        folder = next((part for part in path[common:-1] if not is_work_name(part, root)), None)
        if folder:
            found["folders"].add(folder)
        elif len(path) == common + 1 and not is_work_name(pathlib.PurePath(path[common]).stem, root):
            found["files"].add(path[common])
    return found


def is_work_name(name, root=""):
    """Whether a folder or file is called as students call their own ("labs", "06_lora final"), and not as a person.

    root: the student's own name, of which nothing counts.
    """
    return not _rest(name, root)


def _rest(name, root):
    """The words of a name that are neither of a lab, of work and attempts, nor of `root`."""
    text = unicodedata.normalize("NFC", name).lower()
    text = re.sub(r"\.(ipynb|zip|txt|json)\b", " ", text)
    for lab in catalogue.lab_names():
        text = text.replace(lab, " ")
    known = {word for lab in catalogue.lab_names() for word in lab.split("_")} | set(_words(root.lower()))
    return [word for word in _words(text) if word not in known and word not in _WORK and not word.isdecimal() and len(word) > 1]


def _words(text):
    return [part for word in re.split(r"[\W_]+", text) for part in re.split(r"(?<=\D)(?=\d)|(?<=\d)(?=\D)", word) if part]


def _is_lab(name):
    return any(lab in re.sub(r"[\s-]+", "_", name.lower()) for lab in catalogue.lab_names())


def alike(bases):
    """Lines for the instructor about students who may be one person: names that differ in case, spaces or an attempt."""
    groups = collections.defaultdict(list)
    for base in bases:
        name = base.lms["name"] if base.lms else base.student
        folded = re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
        groups[base.lms and base.lms["kind"], _ATTEMPT.sub("", folded).strip() or folded].append(base)
    groups.pop(("canvas", "anon"), None)
    return [f"one person, or {len(group)}? {', '.join(sorted(base.student for base in group))}: each was taken for one"
            for group in groups.values() if len(group) > 1]  # fmt: skip


def deeper(persons):
    """A line where each folder holds its notebooks in just one folder that is called as a person: a level too many?"""
    named = [f"{person.base.path.name}/{name}" for person in persons if (name := only_inside(person))]
    if len(named) < max(2, len(persons)):
        return []
    return [f"are these the students' folders? Each holds its notebook one folder deeper ({', '.join(named[:3])}, ...): the "
            "outer folder's name was taken for the student"]  # fmt: skip


def instead(person):
    """One line that says what a person handed in who handed in no notebook."""
    # Blackboard's text file is there for each attempt, whether or not anything was entered.
    others = [(name, path) for name, path in person.others if not name.endswith(".txt") or not lms.told(name)] or person.others
    if others:
        shown = ", ".join(_what(name, path) for name, path in others[:3])
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        return f"no notebook in it: {shown}{more}"
    if person.checkpoints:
        return (f"no notebook in it but JupyterLab's checkpoint ({person.checkpoints[0]}), which may be older: ask for the "
                "notebook itself")  # fmt: skip
    kind = "zip" if person.base.path.suffix.lower() == ".zip" else "folder"
    return f"the {kind} is empty: nothing was handed in"


def _what(name, path):
    """A file's name, and in brackets what it is."""
    told, lower = lms.told(path.name), name.lower()
    entered = told.entered if told else ""
    if entered == "link":
        return f"{name} (a link was handed in, no file{_link(path)})"
    if entered == "text" or lower == "onlinetext.html":
        return f"{name} (a text that was entered in the LMS, no file)"
    for suffixes, what in _KINDS.items():
        if lower.endswith(suffixes):
            return f"{name} ({what}{_link(path) if 'shortcut' in what else ''})"
    try:
        return f"{name} (empty)" if path.is_file() and not path.is_symlink() and path.stat().st_size == 0 else name
    except OSError:
        return name


def _link(path):
    """ ": https://...", the first address in a small file, or ""."""
    try:
        if path.is_symlink() or not path.is_file():
            return ""
        with open(path, "rb") as file:
            found = re.search(rb"https?://[^\s\"'<>\x00-\x1f\x7f-\xff]{1,200}", file.read(BEGINNING))
    except OSError:
        return ""
    return f": {found[0].decode('ascii')}" if found else ""
