"""A page for each submission, for the student: their code, what the checks said, the hint that fits, the points.

It holds nothing of what the hidden inputs gave, and no flag: these are for the instructor.
"""

import contextlib
import hashlib
import pathlib
import re

from ftlab.course import catalogue
from ftlab.files import atomic_write_text
from ftlab.grade.gradebook import number
from ftlab.grade.page import page, text

WORDS = {  # status: (symbol, word, class)
    "full": ("✔", "Right", "good"),
    "partial": ("◐", "Partly right", "warn"),
    "wrong": ("✘", "Not right yet", "bad"),
    "not_attempted": ("○", "Not attempted", "faint"),
    "error": ("⚠", "Your code stopped with an error", "bad"),
    "timeout": ("⚠", "Your code did not end in time", "bad"),
    "kernel_died": ("⚠", "Your code ended the kernel", "bad"),
    "oom": ("⚠", "Your code needed more memory than there is", "bad"),
    "not_run": ("○", "Not run", "faint"),
    "malformed": ("⚠", "Could not be read", "warn"),
}
LONGEST_CODE = 20_000


class Pages:
    """Writes `out`/feedback/<student>/<lab>.html."""

    def __init__(self, out):
        self.out, self.written = pathlib.Path(out), set()

    def write(self, entry):
        """Write the page of one entry (see batch.py); returns its path relative to `out`."""
        result = entry["result"]
        folder, stem = safe_name(result["student"]), safe_name(result["lab"] or f"unread-{entry['file']}")
        path = f"feedback/{folder}/{stem}.html"
        count = 2
        while path.lower() in self.written:  # two unread files of one name
            path, count = f"feedback/{folder}/{stem}-{count}.html", count + 1
        self.written.add(path.lower())
        atomic_write_text(self.out / path, render(entry))
        return path

    def remove_others(self):
        """Remove pages of earlier runs that have no submission any more."""
        for path in (self.out / "feedback").glob("*/*.html"):
            if path.relative_to(self.out).as_posix().lower() not in self.written:
                path.unlink()
                with contextlib.suppress(OSError):
                    path.parent.rmdir()


def safe_name(name):
    """A file name that stands for `name`, stays in its folder and is another for another name.

    A name of plain lower-case characters stays as it is; any other gets a piece of its hash.
    """
    plain = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).lstrip(".-")[:60].rstrip(".")
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain)
    if plain and plain == name and name == name.lower() and not reserved:
        return name
    return f"{plain or 'student'}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def render(entry):
    """The page's HTML."""
    result, final = entry["result"], entry["final"]
    exercises = catalogue.exercises(result["lab"]) if result["lab"] in catalogue.lab_names() else {}
    heading = result["lab"] or "A file that could not be read"
    body = [f"<h1>{text(heading)}</h1>", f'<p class="faint">{text(result["student"])}</p>']
    body += _total(entry)
    for row in result["exercises"]:
        if result["status"] == "graded" or row["exercise"] in final["overrides"]:
            body.append(_section(row, exercises.get(row["exercise"]), final["overrides"].get(row["exercise"])))
    if result["status"] == "graded" and any(row["status"] not in ("full", "not_attempted") for row in result["exercises"]):
        body.append('<p class="faint">Your code was also run on other inputs than those of the checks in the notebook: '
                    "most points of an exercise hang on these.</p>")  # fmt: skip
    return page(f"{result['lab'] or 'Submission'}: {result['student']}", "\n".join(body))


def _total(entry):
    """The lines above the exercises: points, lateness, the instructor's own decisions."""
    result, final, late = entry["result"], entry["final"], entry["late"]
    if result["status"] != "graded":
        yield f'<p class="note">This submission could not be graded: {text(result["message"])}</p>'
        yield "<p>Your instructor will look at it.</p>"
    if final["points"] is not None:
        yield f'<p class="total">{number(final["points"])} of {number(result["max_points"])} points</p>'
    if late and late["seconds"]:
        off = f"{number(final['taken'])} points were taken off" if final["taken"] else "no points were taken off"
        yield f"<p>Handed in {_long(late['seconds'])} after the deadline; {off}.</p>"
    if entry["kept"]:
        yield "<p>An earlier submission of yours had more points; it is the one that counts, and is shown here.</p>"
    if "" in final["overrides"]:
        yield f'<p class="note">Your instructor set the points of this lab: {text(final["overrides"][""]["reason"])}</p>'


def _section(row, exercise, override):
    symbol, word, kind = WORDS.get(row["status"], ("?", row["status"], "faint"))
    points = override["points"] if override else row["points"]
    parts = [f'<h2><span>{text(row["title"])}</span><span class="points">{number(points)} of {number(row["max_points"])}'
             f'</span></h2><p class="{kind}"><b>{symbol} {text(word)}</b></p>']  # fmt: skip
    if override:
        parts.append(f'<p class="note">Set by your instructor: {text(override["reason"])}</p>')
    said, visible = row["message"], row["visible"]["message"]
    mistake = exercise.mistakes.get(row["visible"]["mistake"]) if exercise and row["status"] != "full" else None
    if mistake and mistake not in said and mistake not in visible:
        said = f"{mistake}\n{said}"
    if said:
        parts.append(f'<p class="said">{text(said)}</p>')
    judged = row["status"] != "full" and row["visible"]["status"] != "not_run"  # why it was not run is the grader's own word
    if visible and judged and visible not in said:
        parts.append(f'<p class="said"><span class="faint">The check in the notebook said:</span>\n{text(visible)}</p>')
    if exercise and (hint := hint_for(exercise, row)):
        parts.append(f'<p class="note"><b>Hint.</b> {text(hint)}</p>')
    if row.get("taken") and row["status"] != "not_attempted":
        parts.append('<p class="faint">Taken along from other cells of your notebook, since your code reads them:</p>'
                     f"<pre><code>{text(chr(10).join(row['taken']), LONGEST_CODE)}</code></pre>")  # fmt: skip
    if row["code"].strip() and row["status"] != "not_attempted":
        parts.append(f"<pre><code>{text(row['code'], LONGEST_CODE)}</code></pre>")
    return f"<section>{''.join(parts)}</section>"


def hint_for(exercise, row):
    """The hint that fits: a nudge for a gap that is empty, the next one for code that is wrong, None for what is right.

    Code with a known mistake is told its mistake, so it gets the nudge only. What is partly right does what was asked.
    """
    if row["status"] in ("full", "partial", "not_run", "malformed"):
        return None
    begun = row["status"] in ("wrong", "error", "timeout", "kernel_died", "oom")
    known = row["visible"]["mistake"] in exercise.mistakes
    return exercise.hints[1 if begun and not known else 0]


def _long(seconds):
    """A span of time in words: "3 days", "5 hours", "12 minutes"."""
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return "less than a minute"
