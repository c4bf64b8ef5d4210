"""The instructor's page: how the class did, what hurt, which mistakes were made, what to look at by hand."""

import statistics

from ftlab.course import catalogue
from ftlab.files import atomic_write_text
from ftlab.grade.page import page, table, text

BINS = 10
MOST_FLAGS = 500
# Flags that call for a look, in their order; all others only inform.
SERIOUS = ("check_without_probe", "withheld_import", "pasted_source", "patches_machinery", "nbval_marker", "edited_check",
           "metadata_changed", "late_by_lms", "conflict_markers", "several_files")  # fmt: skip


class Report:
    """Counts what is graded, entry by entry; keeps numbers and flags, no code and no messages to students."""

    def __init__(self):
        self.students = set()
        self.totals = {}  # {student: [points, full points]}
        self.exercises = {}  # {(lab, exercise): dict(title, shares, statuses, max_points)}
        self.mistakes = {}  # {(lab, exercise, mistake): count}
        self.flags, self.more_flags, self.malformed, self.slowest = [], 0, [], []

    def add(self, entry):
        """Take one entry, as `ftlab.grade.batch` makes it."""
        result, final = entry["result"], entry["final"]
        student, lab = result["student"], result["lab"]
        self.students.add(student)
        if result["status"] != "graded":
            self.malformed.append((student, lab or entry["file"], result["message"]))
        if final["points"] is not None:
            total = self.totals.setdefault(student, [0.0, 0.0])
            total[0], total[1] = total[0] + final["points"], total[1] + result["max_points"]
        if result["status"] == "graded":
            self._exercises(lab, result["exercises"])
            self.slowest = sorted([*self.slowest, (result["seconds"], student, lab)], reverse=True)[:5]
        for flag in result["flags"]:
            if flag["kind"] == "malformed":
                continue
            if len(self.flags) < MOST_FLAGS:
                self.flags.append((flag["kind"], student, lab, flag["exercise"] or "", flag["message"], entry["page"]))
            else:
                self.more_flags += 1

    def _exercises(self, lab, rows):
        for row in rows:
            found = self.exercises.setdefault((lab, row["exercise"]), {"title": row["title"], "shares": [], "statuses": {}})
            found["shares"].append(row["points"] / row["max_points"])
            found["statuses"][row["status"]] = found["statuses"].get(row["status"], 0) + 1
            if row["visible"]["mistake"]:
                key = (lab, row["exercise"], row["visible"]["mistake"])
                self.mistakes[key] = self.mistakes.get(key, 0) + 1

    def write(self, path, run):
        """Write the page. run: what run.json holds."""
        atomic_write_text(path, self.render(run))

    def render(self, run):
        """The page's HTML."""
        parts = [*self._head(run), *self._review(), *self._notices(run), *self._distribution(), *self._hurt(),
                 *self._mistakes(), *self._flagged(), *self._time(run)]  # fmt: skip
        return page("Grading report", "\n".join(parts))

    def _head(self, run):
        counts = run["counts"]
        yield "<h1>Grading report</h1>"
        labs = ", ".join(sorted({lab for lab, _ in self.exercises})) or "no lab"
        people = run["people"]
        yield f'<p class="faint">{counts["submissions"]} submissions of {people["all"]} students: {text(labs)}</p>'
        yield f'<p>{people["graded"]} graded, {people["malformed"]} with nothing that could be graded.</p>'
        if not run["finished"]:
            yield ('<p class="note">The run was stopped: this page tells of what was graded until then. The same command goes '
                   "on from there.</p>")  # fmt: skip
        if run["flags"].get("mode") == "unsafe":
            yield '<p class="note">Graded without a sandbox (--unsafe): what a submission did could reach its own grade.</p>'

    def _notices(self, run):
        if run["notices"]:
            yield "<h2>About the folder</h2>"
            yield f"<ul>{''.join(f'<li>{text(line)}</li>' for line in run['notices'])}</ul>"

    def _review(self):
        if self.malformed:
            yield f"<h2>To look at by hand: {len(self.malformed)} could not be graded</h2>"
            yield "<p>They have no points yet. Set some in overrides.csv, or ask for the file again.</p>"
            yield table(["Student", "Lab or file", "Why"], [list(map(text, row)) for row in sorted(self.malformed)])

    def _distribution(self):
        shares = [points / full for points, full in self.totals.values() if full]
        if shares:
            yield "<h2>Totals</h2>"
            yield (f"<p>Share of the points of what each student handed in: mean {statistics.mean(shares):.0%}, median "
                   f"{statistics.median(shares):.0%}, from {min(shares):.0%} to {max(shares):.0%}.</p>")  # fmt: skip
            yield histogram(shares)

    def _hurt(self):
        if not self.exercises:
            return
        yield "<h2>Exercises, the hardest first</h2>"
        rows = []
        for (lab, id), found in sorted(self.exercises.items(), key=lambda item: statistics.mean(item[1]["shares"])):
            count, statuses = len(found["shares"]), found["statuses"]
            others = sorted(((n, status) for status, n in statuses.items() if status != "full"), reverse=True)
            rows.append([f'{text(found["title"])}<br><span class="faint">{text(lab)} · {text(id)}</span>',
                         f"{statuses.get('full', 0) / count:.0%}", f"{statistics.mean(found['shares']):.0%}",
                         text(", ".join(f"{n} {status.replace('_', ' ')}" for n, status in others))])  # fmt: skip
        yield table(["Exercise", "Right", "Mean", "Others"], rows, numbers=(1, 2))

    def _mistakes(self):
        if not self.mistakes:
            return
        yield "<h2>Mistakes, the most frequent first</h2>"
        rows = []
        for (lab, id, name), count in sorted(self.mistakes.items(), key=lambda item: (-item[1], item[0])):
            exercise = catalogue.exercises(lab).get(id)
            line = exercise.mistakes.get(name, name) if exercise else name
            rows.append([str(count), text(line), f"{text(lab)}<br>{text(id)}"])
        yield table(["Times", "Mistake", "Where"], rows, numbers=(0,))

    def _flagged(self):
        if not self.flags:
            return
        yield "<h2>Flagged submissions</h2>"
        yield "<p>A flag is a reason to look, not a verdict; no points were taken off for one.</p>"
        rank = {kind: place for place, kind in enumerate(SERIOUS)}
        rows = [
            [text(kind.replace("_", " ")), f'<a href="{text(page_)}">{text(student)}</a>',
             text(" · ".join(filter(None, (lab, id)))), text(message, 600)]
            for kind, student, lab, id, message, page_ in sorted(self.flags, key=lambda f: (rank.get(f[0], len(rank)), f))
        ]  # fmt: skip
        yield table(["Flag", "Student", "Where", "Why"], rows)
        if self.more_flags:
            yield f"<p>{self.more_flags} more flags are not shown.</p>"

    def _time(self, run):
        counts = run["counts"]
        yield "<h2>Time</h2>"
        yield (f"<p>{run['seconds']:.0f} s for this run: {counts['graded']} graded, {counts['reused']} known from before, "
               f"{counts['identical']} the same as another, {counts['failed']} that the grader failed on.</p>")  # fmt: skip
        if self.slowest:
            rows = [[text(student), text(lab), f"{seconds:.1f}"] for seconds, student, lab in self.slowest]
            yield table(["Slowest", "Lab", "Seconds"], rows, numbers=(2,))
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        yield f'<p class="faint">{text(versions)}</p>'


def histogram(shares):
    """An SVG: how many of `shares` (0 to 1) fall into each tenth; the last holds 100 %, too."""
    counts = [0] * BINS
    for share in shares:
        counts[max(0, min(BINS - 1, int(share * BINS + 1e-9)))] += 1
    width, height, base, step = 640, 204, 160, 60
    unit = (base - 24) / max(counts)
    bars = []
    for place, count in enumerate(counts):
        x, tall = 20 + place * step, count * unit
        bars.append(f'<text x="{x + step / 2:g}" y="{base + 18}" text-anchor="middle">{place * 10}–{place * 10 + 10}</text>')
        if count:
            bars.append(f'<rect x="{x + 4}" y="{base - tall:.1f}" width="{step - 8}" height="{tall:.1f}" rx="2" '
                        f'style="fill:var(--bar)"/><text x="{x + step / 2:g}" y="{base - tall - 6:.1f}" '
                        f'text-anchor="middle">{count}</text>')  # fmt: skip
    label = ", ".join(f"{place * 10} to {place * 10 + 10} %: {count}" for place, count in enumerate(counts))
    return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Students by share of points. {label}">'
            f'<line x1="20" x2="{width - 20}" y1="{base}" y2="{base}" style="stroke:var(--line)"/>{"".join(bars)}'
            f'<text x="{width - 20}" y="{height - 6}" text-anchor="end">share of points, %</text></svg>')  # fmt: skip
