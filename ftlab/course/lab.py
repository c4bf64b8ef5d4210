"""`lab = ftlab.lab("01_autoregression")`: what a student's notebook talks to."""

import contextlib
import html
import sys

from ftlab import profile
from ftlab.course import catalogue, cells
from ftlab.errors import UsageError
from ftlab.files import read_json
from ftlab.teach import display
from ftlab.teach.check import NOT_ATTEMPTED, RIGHT, run_check
from ftlab.teach.probe import probe_seed, to_json
from ftlab.teach.state import State

WILL_MISS = ("Missing when this is graded; put it into the exercise's own cell (imports of installed packages, functions, "
             "classes and constants are taken along from other cells):")  # fmt: skip


def open_lab(name):
    """The Lab called `name`. Raises UsageError, naming the labs, when there is none."""
    name = catalogue.find_labs([name])[0]
    if name not in catalogue.ANY_BASE and profile.base():
        others = ", ".join(lab[:2] for lab in catalogue.ANY_BASE)
        print(f"This lab runs on the shipped models, on the CPU. {profile.base()} is the base of Labs {others}.")
    return Lab(name)


class Lab:
    """Exercises, hints, predictions, claims and probes of one lab, bound to one student's record.

    `results`, `probes`, `claims_shown` hold what was last found, by id, for programs.
    """

    def __init__(self, name):
        self.name = name
        self.exercises = catalogue.exercises(name)
        self.state = State(name)
        self.results, self.probes, self.claims_shown = {}, {}, {}
        self._solved_here = set()
        if shell := display.shell_or_none():
            cells.watch(shell)

    def __repr__(self):
        return f"<lab {self.name}: {len(self.exercises)} exercises>"

    # Exercises

    def check(self, id, *objects):
        """Judge what the student wrote for exercise `id`, show what was found, return the points. Never raises."""
        try:
            exercise = self._exercise(id)
        except UsageError as error:
            display.show_box("error", "", str(error))
            return display.Points(0, 0)
        result = run_check(exercise, objects)
        self.results[id] = result
        message = result.message
        if result.status == RIGHT and id in self._solved_here:
            message = "With our solution: zero points."
        earned = exercise.points if result.status == RIGHT and id not in self._solved_here else 0
        self.state.update(id, status=result.status, solution_used=id in self._solved_here)
        display.show_box(result.status, exercise.title, message, result.as_json(), display.CHECK_MIME)
        if result.status != NOT_ATTEMPTED and id not in self._solved_here:
            self._warn_of_missing(id)
        return display.Points(earned, exercise.points)

    def _warn_of_missing(self, id):
        """Show what the exercise's cell reads of other cells and will not be there when it is graded."""
        shell, warning = display.shell_or_none(), ""
        with contextlib.suppress(Exception):  # a check is shown whatever a program does to the history of cells
            warning = cells.graded_with(self.name, id, shell).warning() if shell else ""
        if warning:
            display.show_box("note", "", f"{WILL_MISS}\n{warning}")

    def hint(self, id):
        """Show the next hint for exercise `id`: the first is a nudge, the last is nearly the answer."""
        exercise = self._exercise(id)
        seen = min(self.state.exercise(id)["hints"], len(exercise.hints) - 1)
        self.state.update(id, hints=seen + 1)
        left = len(exercise.hints) - seen - 1
        more = f"{left} more: call it again." if left else f'That was the last; lab.use_solution("{id}") gives up.'
        title = f"{exercise.title} ({seen + 1} of {len(exercise.hints)})"
        display.show_box("hint", title, f"{exercise.hints[seen]}\n{more}")

    def use_solution(self, id, namespace=None):
        """Run and show our solution of exercise `id`, for zero points, so that what follows can go on.

        namespace: where to run it; default the notebook's.
        """
        exercise = self._exercise(id)
        code = self._answer(id, "solution")
        if namespace is None:
            shell = display.shell_or_none()
            namespace = shell.user_ns if shell else sys._getframe(1).f_globals
        exec(compile(code, f"<our solution of {id}>", "exec"), namespace)
        self._solved_here.add(id)
        self.state.update(id, solution_used=True)
        display.publish({
            "text/plain": f"Our solution of {exercise.title!r}, for zero points:\n\n{code}",
            "text/html": f"<b>Our solution of {html.escape(exercise.title)}</b>, for zero points:"
                         f"<pre style='overflow-x:auto'>{html.escape(code)}</pre>",
        })  # fmt: skip

    def reset(self, id):
        """Give back the gap of exercise `id` in a new cell, to begin anew (in a terminal: print it)."""
        self._exercise(id)
        stub = self._answer(id, "stub")
        self._solved_here.discard(id)
        self.state.update(id, status="not attempted", hints=0, solution_used=False)
        shell = display.shell_or_none()
        if shell is None or not hasattr(shell, "kernel"):
            print(stub)
        else:
            shell.set_next_input(stub, replace=False)
            display.show_box("note", "", "The empty exercise stands in the next cell.")

    def progress(self):
        """Show a table of the exercises: status, points, hints seen."""
        rows, earned = [], 0
        for id, exercise in self.exercises.items():
            record = self.state.exercise(id)
            symbol, word, _ = display.MARKS[record["status"]]
            used = record["solution_used"]
            points = exercise.points if record["status"] == RIGHT and not used else 0
            earned += points
            rows.append([
                exercise.title, f"{symbol} {word}" + (" (our solution)" if used else ""),
                f"{points:g} of {exercise.points:g}", f"{record['hints']} of {len(exercise.hints)}",
            ])  # fmt: skip
        rows.append(["Together", "", f"{earned:g} of {sum(e.points for e in self.exercises.values()):g}", ""])
        plain, table = display.table(["Exercise", "Status", "Points", "Hints seen"], rows)
        display.publish({"text/plain": plain, "text/html": table})

    # Predictions

    def predict(self, id, question, low=0.0, high=1.0, unit="", kind="number", options=None, percent=False):
        """Ask for a prediction before an experiment; the committed answer is kept, shown later, never graded.

        kind: "number" (from low to high, in `unit`; a share in [0, 1] where `percent`) or "choice" (one of `options`).
        """
        if kind not in ("number", "choice") or (kind == "choice") != bool(options):
            raise UsageError('predict: kind is "number", or "choice" with options=[...]')
        if display.shell_or_none() is None:
            display.publish({"text/plain": f"Your prediction: {question}"})
            return
        from ftlab.show import widgets

        def commit(value):
            self.state.data["predictions"][id] = value
            self.state.save()

        widgets.prediction(
            question, low=low, high=high, unit=unit, choices=options, percent=percent,
            on_commit=commit, committed=self.prediction(id),
        ).show()  # fmt: skip

    def prediction(self, id):
        """The committed prediction `id`, or None."""
        return self.state.data["predictions"].get(id)

    # Claims and probes

    def claim(self, id, value, **data):
        """Show claim `id`: this run's `value`, the threshold, and what the committed study over seeds found."""
        from ftlab.measure.claims import format_value, live_result
        from ftlab.profile import fast

        claim = self._claim(id)
        record = live_result(claim, value, data, catalogue.STUDIES, fast())
        self.claims_shown[id] = record
        lines = [claim.statement, f"This run: {format_value(record['value'], claim.unit)} ({claim.metric})"]
        if claim.threshold_text():
            lines.append(f"Asked for: {claim.threshold_text()}")
        lines.append(record["study_text"])
        if fast():
            lines.append("FTLAB_FAST=1: few steps, so this run's value is not judged.")
        display.show_box(record["mark"], id, "\n".join(lines), record["json"], display.CLAIM_MIME)

    def study(self, id):
        """The committed runs of claim `id`: list of dict(seed, value, seconds, data), in the order of the seeds."""
        from ftlab.measure.claims import load_study

        return load_study(self._claim(id), catalogue.STUDIES)["runs"]

    def probe_seed(self, id):
        """The seed for the probe of exercise `id`; the inputs must be drawn from it and nothing else."""
        return probe_seed(id)

    def probe(self, id, value):
        """Display `value` (data: numbers, text, lists, dicts, arrays, tensors) as the probe result of exercise `id`."""
        self._exercise(id)
        record = {"id": id, "seed": probe_seed(id), "value": to_json(value)}
        self.probes[id] = record
        text = str(record["value"])
        short = text if len(text) <= 200 else text[:196] + " ..."
        display.publish({"text/plain": f"probe {id}: {short}", display.PROBE_MIME: record})

    def _exercise(self, id):
        if id not in self.exercises:
            raise UsageError(f"lab {self.name} has no exercise {id!r}; it has {', '.join(self.exercises)}")
        return self.exercises[id]

    def _claim(self, id):
        known = {claim.id: claim for claim in catalogue.claims(self.name)}
        if id not in known:
            raise UsageError(f"lab {self.name} has no claim {id!r}; it has {', '.join(known) or 'none'}")
        return known[id]

    def _answer(self, id, part):
        try:
            return read_json(catalogue.ANSWERS / f"{self.name}.json")[id][part]
        except (OSError, KeyError):
            raise UsageError("the answers are not part of this release of the course") from None
