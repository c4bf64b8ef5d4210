"""Everything one does with the micro-world: tasks with exact scores, the pretraining mix, corruptions, preferences."""

from ftlab.world.corrupt import CORRUPTIONS, corrupt, retell
from ftlab.world.families import CONSTRAINED, FAMILIES, Task, explain, make, score, write_instruction
from ftlab.world.mix import FORMS, other_ending, pretraining_mix, question_series, repeated_series, retold_series
from ftlab.world.oracle import met
from ftlab.world.preference import (
    Pair,
    annotate,
    as_points,
    form_utility,
    preference_pairs,
    preference_probability,
    true_utility,
)

__all__ = [
    "CONSTRAINED",
    "CORRUPTIONS",
    "FAMILIES",
    "FORMS",
    "Pair",
    "Task",
    "annotate",
    "as_points",
    "corrupt",
    "explain",
    "form_utility",
    "make",
    "met",
    "other_ending",
    "preference_pairs",
    "preference_probability",
    "pretraining_mix",
    "question_series",
    "repeated_series",
    "retell",
    "retold_series",
    "score",
    "true_utility",
    "write_instruction",
]
