"""What an exercise is: its text for the student, its mistakes, and the check that judges it. Knows no lab."""

import dataclasses
import re
from collections.abc import Callable, Mapping

from ftlab.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One gap in a lab.

    id: lower-case name, also the id of its cells in the notebook ("temperature").
    title: a few words for the table of exercises.
    points, minutes, difficulty: full points, expected working time, 1 (easy) to 5 (hard).
    hints: at least two, from a nudge to nearly the answer.
    mistakes: {mistake id: one line that tells the student what they did}; at least two that newcomers really make.
    check: function of the student's objects, as `ftlab.teach.check` describes; returns when they are right.
    withheld: house modules or functions that hold a working answer ("ftlab.model.generate").
    """

    id: str
    title: str
    points: float
    minutes: int
    difficulty: int
    hints: tuple[str, ...]
    mistakes: Mapping[str, str]
    check: Callable
    withheld: tuple[str, ...] = ()

    def __post_init__(self):
        problems = []
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.id):
            problems.append("id must be lower-case letters, digits and _")
        if self.points <= 0 or self.minutes <= 0:
            problems.append("points and minutes must be positive")
        if self.difficulty not in range(1, 6):
            problems.append("difficulty must be 1 to 5")
        if isinstance(self.hints, str) or len(self.hints) < 2:
            problems.append("hints must be a tuple of at least two texts")
        if len(self.mistakes) < 2:
            problems.append("at least two mistakes must be named")
        if problems:
            raise UsageError(f"exercise {self.id!r}: {'; '.join(problems)}")

    def summary(self):
        """The line that heads the exercise's cell."""
        return (
            f"{self.title} · {self.points:g} point{'s' if self.points != 1 else ''} · about {self.minutes} min · "
            f"difficulty {self.difficulty} of 5 · stuck? lab.hint(\"{self.id}\")"
        )
