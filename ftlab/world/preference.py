"""Simulated annotators: what they value, how they err, and the pairs of texts that they compare.

Simplification: an annotator's judgement depends on the text alone (no order effects, no learning), and errs as
Bradley and Terry (1952) have it: P(a over b) = sigmoid((u(a) - u(b)) / noise).
"""

import math
import random
from dataclasses import dataclass

from ftlab.errors import UsageError
from ftlab.world import families, oracle
from ftlab.world.corrupt import CORRUPTIONS, corrupt, retell
from ftlab.world.grammar import Story, count_tokens, split_sentences
from ftlab.world.oracle import met

RULE_COST = 2.0  # for each broken rule and each constraint that is not met; more than all style together earns
STYLE = {"dialogue": 0.4, "second dialogue": 0.4, "happy": 0.4, "vivid": 0.2}


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt as an annotator ranked them. `margin` is u(chosen) - u(rejected) by the true
    utility: negative where noise or bias made the annotator prefer the worse text."""

    prompt: str
    chosen: str
    rejected: str
    margin: float = 0.0


def true_utility(text, world=None, constraints=None):
    """What a text is worth: -2 for each rule that the oracle finds broken and each constraint that is not met, plus
    its style (0 to 1.4): 0.4 for each of up to two sentences of direct speech, 0.4 for a happy ending, 0.2 for a
    sentence that speaks of the hero's trait again. Style is counted in sentences of the grammar only, each slot once.

    `constraints`: {"kind": "fox", …} as in a "write" task.
    """
    verdict = oracle.judge(text, world)
    cost = sum(not holds for holds in verdict.rules.values())
    cost += sum(not holds for holds in met(constraints or {}, verdict).values())
    told = {slot: sentence for sentence, slot in reversed(verdict.sentences) if slot}
    speeches = sum('"' in sentence for sentence in told.values())
    style = STYLE["dialogue"] * (speeches >= 1) + STYLE["second dialogue"] * (speeches >= 2)
    style += STYLE["happy"] * (verdict.ending == "happy" and verdict.ending_kept)
    trait = verdict.facts.trait
    style += STYLE["vivid"] * any(f" {trait} " in told[slot] for slot in told if slot != "introduction")
    return style - RULE_COST * cost


def form_utility(text):
    """A preference of form alone, whatever the text says: short and in points. 2 times the share of lines that begin
    with "- ", less one for every 40 words and marks."""
    lines = [line for line in text.splitlines() if line.strip()]
    points = sum(line.startswith("- ") for line in lines) / len(lines) if lines else 0.0
    return 2.0 * points - count_tokens(text) / 40


def as_points(text):
    """The text with each sentence as a point of its own: what `form_utility` likes."""
    return "\n".join(f"- {sentence}" for sentence in split_sentences(text.strip()) if sentence)


def preference_probability(difference, noise):
    """P(a preferred) for a difference of utility u(a) - u(b): Bradley-Terry with temperature `noise`; at noise 0 the
    better one wins always, and a tie is an even chance."""
    if noise < 0:
        raise UsageError(f"noise must be 0 or more, not {noise}")
    if noise == 0 or difference == 0:
        return 0.5 if difference == 0 else float(difference > 0)
    return 0.5 * (1 + math.tanh(difference / noise / 2))


def annotate(texts_a, texts_b, utility, noise=0.0, length_bias=0.0, seed=0):
    """For each pair 1 where the annotator prefers a, 0 where b.

    utility: function from a text to its worth. noise: temperature of Bradley-Terry (0: none; 1: utilities are
    logits). length_bias: what ten more words and marks are worth to this annotator, in units of the utility.
    """
    if len(texts_a) != len(texts_b):
        raise UsageError(f"there must be as many texts a as b, not {len(texts_a)} and {len(texts_b)}")
    differences = [utility(a) - utility(b) for a, b in zip(texts_a, texts_b, strict=True)]
    return _choices(texts_a, texts_b, differences, noise, length_bias, seed)


def _choices(texts_a, texts_b, differences, noise, length_bias, seed):
    rng = random.Random(f"annotate/{seed}")
    chosen = []
    for a, b, difference in zip(texts_a, texts_b, differences, strict=True):
        if length_bias:
            difference += length_bias * (count_tokens(a) - count_tokens(b)) / 10
        chosen.append(int(rng.random() < preference_probability(difference, noise)))
    return chosen


def preference_pairs(world, n, seed=0, split="train", noise=0.0, length_bias=0.0, utility="true"):
    """`n` pairs that a simulated annotator ranked; the prompts are instructions of "write" tasks.

    utility "true": by `true_utility` with the task's constraints. Each text is, by chance: the task's own story as it
    is, or retold as the generator would, plainly or vividly; the story broken in one way of `CORRUPTIONS`; or another
    story, which meets the constraints by luck only.
    utility "form": by `form_utility`. Each text is a right story, as it is or retold, flowing or in points.
    """
    if utility not in ("true", "form"):
        raise UsageError(f"no utility is called {utility!r}; choose 'true' or 'form'")
    rng = random.Random(f"pairs/{world.name}/{utility}/{seed}/{split}")
    made = families.make(world, "write", n, f"pairs/{seed}", split)
    others = world.sample(n, f"others/{seed}", split)
    texts_a, texts_b, margins = [], [], []
    for task, other in zip(made, others, strict=True):
        if utility == "true":
            a = _candidate(world, task, other, rng)
            b = _candidate(world, task, other, rng, unlike=a)
            margins.append(true_utility(a, world, task.constraints) - true_utility(b, world, task.constraints))
        else:
            a = _form_candidate(world, task, rng)
            b = _form_candidate(world, task, rng, unlike=a)
            margins.append(form_utility(a) - form_utility(b))
        texts_a.append(a)
        texts_b.append(b)
    prefers_a = _choices(texts_a, texts_b, margins, noise, length_bias, seed)
    return [
        Pair(task.instruction, a, b, margin) if first else Pair(task.instruction, b, a, -margin)
        for task, a, b, margin, first in zip(made, texts_a, texts_b, margins, prefers_a, strict=True)
    ]


_KINDS = tuple(kind for kind in CORRUPTIONS if kind not in ("empty", "only_names", "lower_case"))


def _candidate(world, task, other, rng, unlike=None):
    """One response of a random quality to a task; never the text `unlike`."""
    story = Story(task.response, task.facts, 0.0)
    while True:
        draw = rng.random()
        if draw < 0.3:
            text = story.text
        elif draw < 0.6:
            text = retell(world, story, rng, rng.choice((None, "plain", "vivid")))
        elif draw < 0.85:
            text = corrupt(story, rng.choice(_KINDS), rng.randrange(1 << 30), world)
        else:
            text = other.text
        if text != unlike:
            return text



def _form_candidate(world, task, rng, unlike=None):
    """A right story in one of several forms; never the text `unlike`."""
    story = Story(task.response, task.facts, 0.0)
    while True:
        text = story.text if rng.random() < 0.4 else retell(world, story, rng, rng.choice((None, "plain", "vivid")))
        text = as_points(text) if rng.random() < 0.5 else text
        if text != unlike:
            return text
