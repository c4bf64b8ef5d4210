"""What the names in a learning management system's download tell: whose file it is, which attempt, when it came, whether late.

    Canvas      lastfirst_12345_67890_06_lora.ipynb, lastfirst_LATE_12345_67890_..., anon_aB3xZ_67890_..., LATE_anon_aB3xZ_...;
                what was entered instead of a file: lastfirst_12345_text.html, lastfirst_12345_link.html
                (instructure/canvas-lms, lib/content_zipper.rb: name, LATE, user's number; then the file's number and name)
    Moodle      Full Name_12345_assignsubmission_file_/x.ipynb, ..._onlinetext_/onlinetext.html; or flat: ..._file_x.ipynb
                (moodle/moodle, mod/assign/classes/downloader.php; a group without a number has none)
    Blackboard  Assignment_username_attempt_2026-11-30-21-05-10_x.ipynb, with a ..._2026-11-30-21-05-10.txt for each attempt
    Brightspace 123-456 - Full Name - Nov 30, 2026 905 PM/x.ipynb, a folder an attempt; or flat: ... 905 PM - x.ipynb
    nbgrader    username+06_lora+2026-11-30 20:05:10 UTC+random/06_lora.ipynb: its exchange's inbound folder, one an attempt
"""

import dataclasses
import datetime
import os
import re

_PATTERNS = [(kind, re.compile(pattern, re.S)) for kind, pattern in (
    ("moodle", r"(?P<name>.+?)(?:_(?P<id>\d+))?_+assignsubmission_(?P<entered>[a-z]+)(?:_(?P<file>.*))?"),
    ("brightspace", r"(?P<id>\d+-\d+) - (?P<name>.+?) - (?P<when>(?:(?! - ).)*\b\d{4}\b(?:(?! - ).)*)(?: - (?P<file>.+))?"),
    ("blackboard", r"(?P<head>.+)_[^\W\d_]+_(?P<when>\d{4}(?:-\d\d){5})(?:_(?P<file>.+)|(?P<entered>\.txt))"),
    ("nbgrader", r"(?P<name>[^+]+)\+(?P<file>[^+]+)\+(?P<when>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? [^+]+(?:\+.*)?"),
    ("canvas", r"(?P<late>LATE_)?(?P<name>anon)_(?P<id>[0-9A-Za-z]+)_(?:\d+_(?P<file>.+)|(?P<entered>text|link)\.html)"),
    ("canvas", r"(?P<name>.*?)(?P<late>_LATE)?_(?P<id>[1-9]\d*)_[1-9]\d*_(?P<file>.+)"),
    ("canvas", r"(?P<name>.+?)(?P<late>_LATE)?(?:_(?P<id>\d+))?_(?P<entered>text|link)\.html"),
)]
_MONTHS = {name: number for number, names in enumerate((
    "jan ene gen", "feb fév fev", "mar mär mrt", "apr avr abr", "may mai mei mag", "jun juin giu", "jul juil lug",
    "aug aoû ago aout", "sep set", "oct okt out ott", "nov", "dec dez déc dic"), 1) for name in names.split()}
DATED = ("blackboard", "brightspace", "nbgrader")  # their names tell when a file was handed in


@dataclasses.dataclass
class Told:
    """What a name tells. file: the student's name for it, "" where the name is a folder's or of what was entered.

    late: True or False where the LMS says so, None where it says nothing. when: seconds since 1970, or None. entered: "text",
    "link" or "" for what was entered in place of a file.
    """

    kind: str
    name: str
    id: str
    file: str
    late: bool | None = None
    when: float | None = None
    entered: str = ""

    @property
    def student(self):
        return f"{self.name}_{self.id}" if self.id else self.name


def told(name):
    """The Told of a file's or folder's name, or None where no LMS gave it."""
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(name)
        if match:
            parts = {key: value or "" for key, value in match.groupdict().items()}
            entered = {"onlinetext": "text", ".txt": "text", "file": ""}.get(parts.get("entered"), parts.get("entered", ""))
            person = parts["name"] if "name" in parts else parts["head"].rpartition("_")[2]
            return Told(kind, person, parts.get("id", ""), parts.get("file", ""),
                        bool(parts["late"]) if kind == "canvas" else None, _when(kind, parts.get("when")), entered)  # fmt: skip
    return None


def told_of(paths):
    """{path: Told or None} of the entries of one download, in which Blackboard's users are told apart.

    In "06_lora_a_doe_attempt_..." it is not said where the assignment ends and the user begins. The text file of an attempt
    says it ("Name: Ann Doe (a_doe)"); without it the last part counts, or more of it where that would be two people's.
    """
    found = {path: told(path.name) for path in paths}
    heads = {path: dict(_PATTERNS)["blackboard"].fullmatch(path.name)["head"]
             for path, one in found.items() if one and one.kind == "blackboard"}  # fmt: skip
    users = {head: user for path, head in heads.items() if path.suffix == ".txt" and (user := _user(path, head))}
    for head in set(heads.values()) - set(users):
        alike = {other for other in heads.values() if other.rpartition("_")[2] == head.rpartition("_")[2]}
        users[head] = _behind_what_is_common(head, alike) if len(alike) > 1 else head.rpartition("_")[2]
    for path, head in heads.items():
        found[path].name = users[head]
    return found


def _behind_what_is_common(head, heads):
    parts = [other.split("_") for other in heads]
    common = len(os.path.commonprefix(parts))
    return "_".join(head.split("_")[common:]) or head


def _user(path, head):
    """The user that the text file of an attempt names, or None."""
    try:
        if path.is_symlink() or not path.is_file():
            return None
        with open(path, encoding="utf-8", errors="replace") as file:
            match = re.search(r"\(([^()\n]+)\)\s*$", file.readline(1000))
    except OSError:
        return None
    return match[1] if match and (head == match[1] or head.endswith(f"_{match[1]}")) else None


def _when(kind, text):
    """The time that a name tells, in seconds since 1970: nbgrader's is in UTC, the others' is taken as this machine's."""
    try:
        if not text:
            return None
        if kind == "blackboard":
            return datetime.datetime.strptime(text, "%Y-%m-%d-%H-%M-%S").timestamp()
        if kind == "nbgrader":
            return datetime.datetime.fromisoformat(f"{text}+00:00").timestamp()
        return _written_out(text)
    except (ValueError, OverflowError):
        return None


def _written_out(text):
    """Seconds of "Nov 30, 2026 905 PM", "30 November 2026 21:05" and the like: the beginning of that minute."""
    month = next((_MONTHS[word[:length]] for word in re.findall(r"[^\W\d_]+", text.lower()) for length in (4, 3)
                  if word[:length] in _MONTHS), None)  # fmt: skip
    match = re.search(r"(?P<day>\b\d{1,2}\b)?\D*\b(?P<year>\d{4})\b\D*?(?P<hour>\d{1,2})[.: h]?(?P<minute>\d\d)\b\s*"
                      r"(?P<half>[ap])?", text.lower())  # fmt: skip
    if not month or not match or not match["day"]:
        return None
    hour = int(match["hour"])
    if match["half"]:
        hour = hour % 12 + 12 * (match["half"] == "p")
    return datetime.datetime(int(match["year"]), month, int(match["day"]), hour, int(match["minute"])).timestamp()
