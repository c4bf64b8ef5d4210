"""The task families on the micro-world, each with an exact score.

Families: "write" a story under two to four constraints, "answer" a question about a story, "extract" one fact of it,
"rewrite" it with the other ending, "classify" its ending. `score` needs no reference text: the oracle reads the output.
"""

import random
from dataclasses import dataclass, field

from ftlab.errors import UsageError
from ftlab.world import oracle, phrases
from ftlab.world.grammar import Facts, article, get_world, split_sentences
from ftlab.world.mix import other_ending
from ftlab.world.oracle import met

FAMILIES = ("write", "answer", "extract", "rewrite", "classify")
CONSTRAINED = ("kind", "trait", "object", "colour", "place", "ending", "helper")


@dataclass(frozen=True)
class Task:
    """One instruction with its input (may be empty), a right response, and what `score` checks.

    `constraints`: for "write" and "rewrite" the facts that the output must have; for the others the one fact that is
    the answer. `facts` are those of the story that the task was made from, `world` is the world's name.
    """

    family: str
    instruction: str
    input: str
    response: str
    facts: Facts
    constraints: dict = field(default_factory=dict)
    world: str = "rich"


def make(world, family, n, seed=0, split="train"):
    """`n` tasks of a family about stories of a split, the same for the same seed."""
    if family not in FAMILIES:
        raise UsageError(f"no task family is called {family!r}; choose one of {', '.join(FAMILIES)}")
    rng = random.Random(f"tasks/{world.name}/{family}/{seed}/{split}")
    makers = {"write": _write, "answer": _answer, "extract": _extract, "rewrite": _rewrite, "classify": _classify}
    words = phrases.of(world.name)
    return [makers[family](world, words, story, rng) for story in world.sample(n, f"{family}/{seed}", split)]


def _write(world, words, story, rng):
    roles = rng.sample(CONSTRAINED, rng.randint(2, 4))
    constraints = {role: getattr(story.facts, role) for role in CONSTRAINED if role in roles}
    instruction = write_instruction(world, constraints, rng)
    return Task("write", instruction, "", story.text, story.facts, constraints, world.name)


def write_instruction(world, constraints, rng=None):
    """An instruction that asks for a story with the constraints ({"kind": "fox", …}), in one of several phrasings."""
    rng = rng or random.Random(0)
    words = phrases.of(world.name)
    opener = rng.choice(words.openers)
    if rng.random() < 0.5:
        items = [_with_articles(words.item[role], {role: value}) for role, value in constraints.items()]
        rng.shuffle(items)
        listed = ", ".join(items[:-1]) + (" and " if len(items) > 1 else "") + items[-1]
        return rng.choice(words.lists).format(opener=opener, items=listed)
    hero = _noun_phrase(words, constraints, "trait", "kind")
    thing = _noun_phrase(words, constraints, "colour", "object")
    thing = words.whole.format(object=thing) if thing else ""
    text = words.about.format(opener=opener, hero=hero or words.nobody, object=thing)
    for role in ("place", "ending", "helper"):
        if role in constraints:
            text += rng.choice(words.clause[role]).format(**constraints)
    return text


def _noun_phrase(words, constraints, adjective, noun):
    """"a brave fox", "a fox", "somebody brave" or "", as the constraints have it."""
    known = {role: constraints[role] for role in (adjective, noun) if role in constraints}
    if len(known) == 2 and words.item[noun].startswith("a "):
        return _with_articles(f"a {{{adjective}}} {{{noun}}}", known)
    if len(known) == 2:  # the second domain: "salt in sacks"
        return f"{known[noun]} in {known[adjective]}"
    return _with_articles(words.item[next(iter(known))], known) if known else ""


def _with_articles(pattern, values):
    for role, value in values.items():
        if pattern.startswith("a {" + role):
            pattern = article(value) + pattern[1:]
    return pattern.format(**values)


def _answer(world, words, story, rng):
    role = rng.choice(sorted(words.question))
    question = rng.choice(words.question[role]).format(**story.facts.as_dict())
    value = getattr(story.facts, role)
    instruction = rng.choice(words.answer).format(question=question)
    return Task("answer", instruction, story.text, value, story.facts, {role: value}, world.name)


def _extract(world, words, story, rng):
    role = rng.choice(sorted(words.extract))
    value = getattr(story.facts, role)
    instruction = rng.choice(words.extract[role])
    return Task("extract", instruction, story.text, value, story.facts, {role: value}, world.name)


def _rewrite(world, words, story, rng):
    wanted = "sad" if story.facts.ending == "happy" else "happy"
    response = other_ending(world, story, rng)
    instruction = rng.choice(words.rewrite).format(ending=wanted)
    return Task("rewrite", instruction, story.text, response, story.facts, {"ending": wanted}, world.name)


def _classify(world, words, story, rng):
    ending = story.facts.ending
    return Task("classify", rng.choice(words.classify), story.text, ending, story.facts, {"ending": ending}, world.name)


# -- scores ----------------------------------------------------------------------------------------------------------

def score(task, output):
    """How well `output` (any string) does what the task asks, from 0 to 1; a right response has exactly 1.

    answer, extract, classify: 1 when the output is the answer, else 0; outer white space, case and one final period do
    not count.
    write: the share of constraints met (see `met`), less a tenth of it unless every rule of the world holds.
    rewrite: 0 unless the ending is the wanted one and kept; then 0.25, plus 0.25 if every rule holds, plus 0.5 times
    the share of sentences before the resolution that are as in the input (none added, none lost).
    """
    if task.family in ("answer", "extract", "classify"):
        return float(_normal(output) == _normal(task.response))
    verdict = oracle.judge(output, task.world)
    if task.family == "write":
        holds = met(task.constraints, verdict)
        return sum(holds.values()) / len(holds) * (1.0 if verdict.every_rule else 0.9)
    if verdict.ending != task.constraints["ending"] or not verdict.ending_kept:
        return 0.0
    return 0.25 + 0.25 * verdict.every_rule + 0.5 * _kept_share(task, verdict)


def explain(task, output):
    """What is wrong with an output, in words; an empty list when its score is 1."""
    if task.family in ("answer", "extract", "classify"):
        right = _normal(output) == _normal(task.response)
        return [] if right else [f"the answer is {task.response!r}, not {output.strip()[:80]!r}"]
    verdict = oracle.judge(output, task.world)
    lines = []
    for role, holds in met(task.constraints, verdict).items():
        if not holds:
            found = getattr(verdict.facts, role)
            what = "is not kept throughout" if found == task.constraints[role] else f"is {found or 'not to be read'}"
            lines.append(f"{role} should be {task.constraints[role]}, but {what}")
    if task.family == "rewrite" and _kept_share(task, verdict) < 1:
        lines.append("the sentences before the resolution are not those of the input")
    return lines + verdict.problems


def _normal(text):
    return text.strip().removesuffix(".").strip().casefold()


def _kept_share(task, verdict):
    """Share of the sentences before the resolution that input and output have in common, place by place."""
    world = get_world(task.world)
    first = world.slots.index("resolution")
    slot_of = {sentence: slot for sentence, slot in oracle.judge(task.input, world).sentences}
    wanted = [s for s in split_sentences(task.input) if world.slots.index(slot_of[s]) < first]
    found = []
    for sentence, slot in verdict.sentences:
        if slot is not None and world.slots.index(slot) >= first:
            break
        found.append(sentence)
    same = sum(a == b for a, b in zip(wanted, found, strict=False))
    return same / max(len(wanted), len(found))

