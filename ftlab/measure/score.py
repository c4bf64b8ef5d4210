"""How well a model follows instructions: its answers to tasks of the micro-world, scored by the oracle."""

import dataclasses
import statistics

from ftlab.model.ask import ask
from ftlab.world import tasks


@dataclasses.dataclass(frozen=True)
class Score:
    """mean: over all tasks, 0 to 1. by_family: {family: mean}. scores, answers: of each task, in their order."""

    mean: float
    by_family: dict
    scores: list
    answers: list


def held_out_tasks(world, per_family, seed=1, families=tasks.FAMILIES, split="test"):
    """`per_family` tasks of each family about stories of held-out combinations."""
    return [task for family in families for task in tasks.make(world, family, per_family, seed, split)]


def score_answers(tasks_, answers):
    """The Score of given answers."""
    scores = [tasks.score(task, answer) for task, answer in zip(tasks_, answers, strict=True)]
    families = dict.fromkeys(task.family for task in tasks_)
    by_family = {family: statistics.fmean(s for s, task in zip(scores, tasks_, strict=True) if task.family == family)
                 for family in families}
    return Score(statistics.fmean(scores), by_family, scores, list(answers))


def instruction_score(model, tokenizer, tasks_, template="alpaca", **options):
    """The Score of a model's greedy answers to tasks. options: those of `ftlab.model.ask.ask`."""
    return score_answers(tasks_, ask(model, tokenizer, tasks_, template, **options))
