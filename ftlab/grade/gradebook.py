"""From results to tables: lateness, the instructor's own points, and the files that other systems read.

Which points stand where:
- `grades.csv`, a row an exercise: what the grader gave, or what the instructor set in its place (`overrides.csv`);
- `gradebook.csv`, `canvas.csv`, `moodle*.csv`, a column a lab: the sum of these after the late rule. An override is applied
  last: what the instructor set is not reduced for lateness.
A lab that was not handed in, or that could not be read, has an empty cell: the instructor decides what it is worth.
"""

import csv
import dataclasses
import datetime
import io
import math
import pathlib
import re

from ftlab.course import catalogue
from ftlab.errors import UsageError
from ftlab.files import atomic_write_text

GRADES = ("student", "lab", "exercise", "points", "max_points", "status", "message")
OVERRIDES = ("student", "lab", "exercise", "points", "reason")
SECONDS = {"day": 86400, "hour": 3600}


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is done to the points after grading.

    deadline: an aware datetime, or None. penalty: the share of a lab's full points that each started `per` ("day" or
    "hour") of lateness costs. keep_best: of what a student handed in over time, the best counts.
    overrides: {(student, lab): {exercise id, or "" for the lab's total: (points, reason)}}.
    """

    deadline: datetime.datetime | None = None
    penalty: float = 0.0
    per: str = "day"
    keep_best: bool = False
    overrides: dict = dataclasses.field(default_factory=dict)

    def late(self, modified, lms=None, lms_late=None):
        """dict(seconds, periods, share) of a file handed in at `modified` (seconds since 1970), None when it was in time.

        The deadline's own second counts as in time. share: what is taken off, of the lab's full points. lms: one whose
        download gives every file the time of the download and whose names tell none ("moodle", "canvas"): there only
        `lms_late` counts, what the LMS itself says (None: nothing). So `seconds` is None and nothing is taken off.
        """
        if self.deadline is None:
            return None
        if lms:
            return {"seconds": None, "periods": 0, "share": 0.0} if lms_late else None
        seconds = math.floor(modified) - self.deadline.timestamp()
        if seconds <= 0:
            return None
        periods = math.ceil(seconds / SECONDS[self.per])
        return {"seconds": round(seconds), "periods": periods, "share": min(1.0, round(periods * self.penalty, 6))}

    def apply(self, result, late):
        """dict(points, taken, overrides, graded) for a result: the lab's final points, and what came off for lateness."""
        overrides = self.overrides.get((result["student"], result["lab"]), {})
        taken = min(result["points"], (late or {}).get("share", 0.0) * result["max_points"])
        points = result["points"] - taken
        for row in result["exercises"]:
            if row["exercise"] in overrides:
                points += overrides[row["exercise"]][0] - row["points"]
        if "" in overrides:
            points = overrides[""][0]
        # A submission that could not be read has no points yet, unless the instructor gave it some.
        judged = result["status"] == "graded" or bool(overrides)
        return {"points": round(max(0.0, points), 4) if judged else None, "taken": round(taken, 4), "graded": result["points"],
                "overrides": {id: {"points": value, "reason": why} for id, (value, why) in overrides.items()}}  # fmt: skip


def parse_deadline(text):
    """An aware datetime from "2026-12-01T23:59", in the machine's time zone where it names none. Raises UsageError."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--deadline {text!r} is no date: write it as 2026-12-01T23:59, or 2026-12-01T23:59+01:00") from None
    day, _, time = re.sub(r"(?:Z|[+-]\d\d(?::?\d\d)?)$", "", text.strip()).replace("T", " ").partition(" ")
    if not time:  # a day without a time means its end
        when = when.replace(hour=23, minute=59, second=59)
    elif re.fullmatch(r"\d\d:?\d\d", time):  # a minute without seconds includes that minute
        when = when.replace(second=59)
    return when.astimezone()


def parse_penalty(text):
    """(share of the full points, "day" or "hour") from "10%/day". Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*/\s*(day|hour)\s*", text)
    if not match or not 0 < float(match[1]) <= 100:
        raise UsageError(f"--late-penalty {text!r} is none: write it as 10%/day or 2.5%/hour (of a lab's full points)")
    return float(match[1]) / 100, match[2]


def read_overrides(path, known):
    """{(student, lab): {exercise or "": (points, reason)}} from a CSV file with the columns of OVERRIDES.

    known: {(student, lab)} of the submissions. Raises UsageError that names the line which does not fit.
    """
    path = pathlib.Path(path)
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = {}
    for number, row in enumerate(rows, 2):
        problem = _override_problem(row, known)
        if problem:
            raise UsageError(f"{path}, line {number}: {problem}")
        student, lab, exercise, points, reason = (_plain(row[name].strip()) for name in OVERRIDES)
        found.setdefault((student, lab), {})[exercise] = (float(points), reason)
    return found


def _override_problem(row, known):
    if set(row) != set(OVERRIDES) or None in row.values():
        return f"the columns must be {','.join(OVERRIDES)}"
    student, lab, exercise = (_plain(row[name].strip()) for name in OVERRIDES[:3])
    if (student, lab) not in known:
        return f"there is no submission of {student!r} for {lab!r}"
    if exercise and exercise not in catalogue.exercises(lab):
        return f"lab {lab} has no exercise {exercise!r}; leave it empty to set the lab's total"
    try:
        points = float(row["points"])
    except ValueError:
        points = math.nan
    return None if math.isfinite(points) and points >= 0 else f"{row['points']!r} is no number of points"


# Tables


class Grades:
    """Collects what was graded, lab by lab, and writes the tables. Holds one number for each student and lab, no results."""

    def __init__(self):
        self.grades, self._csv = _table(GRADES)
        self.points = {}  # {student: {lab: final points or None}}
        self.max_points = {}  # {lab: full points}
        self.lms = {}  # {student: dict(kind, id, name)}
        self.remarks = {}  # {(student, lab): one line}

    def add(self, entry):
        """Take one entry: dict(result, final, late, lms, ...), as `ftlab.grade.batch` makes it."""
        result, final = entry["result"], entry["final"]
        student, lab = result["student"], result["lab"]
        for row in result["exercises"] or [_whole(result)]:
            override = final["overrides"].get(row["exercise"]) if row["exercise"] else None
            points, message = row["points"], row["message"]
            if override:
                points = override["points"]
                message = f"Set by your instructor: {override['reason']}" + (f" (before: {message})" if message else "")
            self._csv.writerow([text_cell(student), lab, row["exercise"], number(points), number(row["max_points"]),
                                row["status"], text_cell(message)])  # fmt: skip
        if lab:
            self.points.setdefault(student, {})[lab] = final["points"]
            self.max_points[lab] = max(self.max_points.get(lab, 0), result["max_points"])
            self.remarks[student, lab] = _remark(result, final, entry["late"])
        else:
            self.points.setdefault(student, {})
        if entry["lms"]:
            self.lms[student] = entry["lms"]

    def write(self, out):
        """Write grades.csv, gradebook.csv, canvas.csv, moodle.csv and a moodle-<lab>.csv where Moodle's numbers are known."""
        out, labs = pathlib.Path(out), sorted(self.max_points)
        files = {"grades.csv": self.grades.getvalue(), "gradebook.csv": self._gradebook(labs), "canvas.csv": self._canvas(labs),
                 "moodle.csv": self._moodle(labs)}  # fmt: skip
        if any(lms["kind"] == "moodle" for lms in self.lms.values()):
            files |= {f"moodle-{lab}.csv": self._worksheet(lab) for lab in labs}
        for name, text in files.items():
            atomic_write_text(out / name, text)
        for path in out.glob("moodle-*.csv"):  # of an earlier run, with other labs
            if path.name not in files:
                path.unlink()

    def _gradebook(self, labs):
        text, rows = _table(["student", *labs, "total"])
        for student, points in sorted(self.points.items()):
            given = [points.get(lab) for lab in labs]
            rows.writerow([text_cell(student), *map(number, given), number(sum(value or 0 for value in given))])
        return text.getvalue()

    def _canvas(self, labs):
        """Canvas's gradebook import: it finds a student by ID, else by SIS Login ID, else by the name."""
        text, rows = _table(["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *labs])
        rows.writerow(["    Points Possible", "", "", "", "", *(number(self.max_points[lab]) for lab in labs)])
        for student, points in sorted(self.points.items()):
            lms = self.lms.get(student, {})
            ours = lms.get("kind") == "canvas"
            # A student of an anonymous assignment has no number of Canvas's, only a sign that it gave.
            known = ours and lms["id"].isdigit()
            who = [lms["name"] if known else student, lms["id"] if known else "", "", "" if ours else student]
            rows.writerow([*map(text_cell, who), "", *(number(points.get(lab)) for lab in labs)])
        return text.getvalue()

    def _moodle(self, labs):
        """For Moodle's "Grades, import, CSV file": map `username` to the user, each lab to its grade item."""
        text, rows = _table(["username", *labs])
        for student, points in sorted(self.points.items()):
            lms = self.lms.get(student)
            if lms is None or lms["kind"] != "moodle":
                rows.writerow([text_cell(student), *(number(points.get(lab)) for lab in labs)])
        return text.getvalue()

    def _worksheet(self, lab):
        """For an assignment's "Upload grading worksheet", which knows a student as "Participant <number>"."""
        text, rows = _table(["Identifier", "Full name", "Grade", "Maximum grade", "Last modified (grade)", "Feedback comments"])
        for student, lms in sorted(self.lms.items()):
            points = self.points.get(student, {}).get(lab)
            if lms["kind"] == "moodle" and points is not None:
                rows.writerow([f"Participant {lms['id']}" if lms["id"] else "", text_cell(lms["name"]), number(points),
                               number(self.max_points[lab]), "-", text_cell(self.remarks[student, lab])])  # fmt: skip
        return text.getvalue()


def text_cell(text):
    """A text from outside as a cell: one line, and no formula for a spreadsheet that opens the file."""
    text = " / ".join(part for part in re.split(r"[\r\n\v\f\x85\u2028\u2029]+", str(text)) if part.strip())
    text = re.sub(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]", "", text.replace("\t", " ")).strip()
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "|", "%") else text


def _plain(cell):
    """The text in a cell that `text_cell` may have guarded: a name can be copied from grades.csv as it stands there."""
    return cell[1:] if re.match(r"'[=+\-@|%]", cell) else cell


def number(value):
    """Points as a cell: at most four decimals, no needless zeros; "" for None."""
    return "" if value is None else f"{round(float(value), 4):.10g}"


def _whole(result):
    """The row of a submission of which no exercise is known."""
    return {"exercise": "", "points": 0.0, "max_points": 0.0, "status": "malformed", "message": result["message"]}


def _remark(result, final, late):
    """One line for a student in an LMS."""
    full = sum(row["status"] == "full" for row in result["exercises"])
    line = f"{full} of {len(result['exercises'])} exercises right"
    if final["taken"]:
        line += f"; {number(final['taken'])} points off for lateness"
    reasons = [override["reason"] for override in final["overrides"].values()]
    return line + (f"; set by your instructor: {'; '.join(reasons)}" if reasons else "")


def _table(header):
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(header)
    return text, rows
