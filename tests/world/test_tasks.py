"""Tasks: the right response scores 1, every wrong one less; the same for the second domain."""

import random

import pytest

from ftlab.errors import UsageError
from ftlab.world import oracle, tasks
from ftlab.world.families import CONSTRAINED
from ftlab.world.grammar import Story, get_world

SIZES = ("rich", "small", "harbour")


@pytest.fixture(scope="module", params=SIZES)
def world(request):
    return get_world(request.param)


@pytest.fixture(scope="module", params=tasks.FAMILIES)
def family(request):
    return request.param


def test_the_reference_response_scores_one(world, family):
    for split in ("train", "test"):
        for task in tasks.make(world, family, 40, 1, split):
            assert tasks.score(task, task.response) == 1.0
            assert tasks.score(task, f" \n{task.response}\n") == 1.0
            assert tasks.explain(task, task.response) == []
            assert world.split_of(task.facts) == split
            assert task.world == world.name and (task.input == "") == (family == "write")


def test_short_answers_are_exact(world):
    for family in ("answer", "extract", "classify"):
        for task in tasks.make(world, family, 80, 2):
            ((role, value),) = task.constraints.items()
            assert task.response == value == getattr(task.facts, role)
            assert tasks.score(task, value.upper() + ".") == 1.0
            wrong = [v for v in task.facts.as_dict().values() if v != value]
            for output in [*wrong, "", "the " + value, f"{value} {value}", task.input, value + "s", "happy or sad"]:
                assert tasks.score(task, output) == 0.0, output
                assert tasks.explain(task, output)


def test_written_stories_must_meet_every_constraint(world):
    rng = random.Random(0)
    for number, task in enumerate(tasks.make(world, "write", 80, 3)):
        assert 2 <= len(task.constraints) <= 4
        for role, value in task.constraints.items():
            if role != "ending":  # (the ending by its own words)
                assert value in task.instruction
            other = _with_other_word(world, task, role, rng)
            share = (len(task.constraints) - 1) / len(task.constraints)
            assert tasks.score(task, other) <= share, (task, other)
            assert tasks.explain(task, other)
        kind = rng.choice(sorted(tasks.CORRUPTIONS))
        assert tasks.score(task, tasks.corrupt(Story(task.response, task.facts, 0.0), kind, number, world)) <= 0.9


def _with_other_word(world, task, role, rng):
    """The task's story with another word in one role, all else the same and every rule kept (an ending: retold)."""
    story = Story(task.response, task.facts, 0.0)
    if role == "ending":
        return tasks.other_ending(world, story, rng)
    (_, templates, _), *_ = world.derivations(story.text)
    words = {r: getattr(story.facts, r) for t in templates for r in t.roles}
    choices = world.objects_of[story.facts.plot] if role == "object" else world._choices(role, None)
    words[role] = rng.choice([word for word in choices if word not in words.values()])
    text = world.tell_words(words, templates)
    assert oracle.judge(text, world).every_rule
    return text


def test_a_valid_story_that_ignores_the_instruction_scores_little():
    world = get_world("rich")
    made, told = tasks.make(world, "write", 300, 4), world.sample(300, 5)
    assert sum(tasks.score(t, s.text) for t, s in zip(made, told, strict=True)) / 300 < 0.3


def test_rewriting_changes_the_ending_and_nothing_else(world):
    for number, task in enumerate(tasks.make(world, "rewrite", 25, 6)):
        wanted = task.constraints["ending"]
        assert wanted != task.facts.ending and wanted in task.instruction
        assert tasks.score(task, task.input) == 0.0
        assert tasks.score(task, "") == 0.0
        told = Story(task.response, oracle.judge(task.response, world).facts, 0.0)
        for kind in ("hero_renamed", "object_swapped", "sentence_dropped", "sentence_doubled", "word_doubled",
                     "other_plot", "wrong_ending", "second_story"):  # fmt: skip
            broken = tasks.corrupt(told, kind, number, world)
            assert tasks.score(task, broken) < 1.0, (kind, broken)
            assert tasks.explain(task, broken)
        another = next(s for s in world.sample(50, number, "all") if s.facts.ending == wanted)
        assert 0 < tasks.score(task, another.text) < 1.0


def test_rewritten_story_keeps_all_before_the_resolution(world):
    for task in tasks.make(world, "rewrite", 40, 7):
        before = [s for s, slot in oracle.judge(task.input, world).sentences
                  if world.slots.index(slot) < world.slots.index("resolution")]  # fmt: skip
        assert task.response.startswith(world.joiner.join(before))


def test_every_question_and_constraint_comes_up(world):
    assert {r for t in tasks.make(world, "answer", 200, 1) for r in t.constraints} >= {
        "hero", "kind", "object", "colour", "place", "helper", "helper_kind"}  # fmt: skip
    assert {r for t in tasks.make(world, "write", 100, 1) for r in t.constraints} == set(CONSTRAINED)
    assert len({t.instruction.split(" ")[0] for t in tasks.make(world, "write", 100, 1)}) > 1


def test_instructions_read_as_english():
    world = get_world("rich")
    for task in tasks.make(world, "write", 500, 8):
        words = task.instruction.replace(".", " ").replace(",", " ").split()
        for article, word in zip(words, words[1:], strict=False):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou" or word == "honest"), task.instruction
        assert "{" not in task.instruction and task.instruction.endswith(".")


def test_same_seed_same_tasks(world, family):
    assert tasks.make(world, family, 12, 3) == tasks.make(world, family, 12, 3)
    assert tasks.make(world, family, 12, 3) != tasks.make(world, family, 12, 4)


def test_the_second_domain_shares_neither_names_nor_form():
    rich, harbour = get_world("rich"), get_world("harbour")
    for name in rich.classes:
        assert not set(rich.classes[name]) & set(harbour.classes[name])
    for story in harbour.sample(100, 1):
        assert "\n" in story.text and not oracle.judge(story.text, rich).hero_and_object


def test_unknown_family_and_corruption_are_refused():
    world = get_world("small")
    with pytest.raises(UsageError, match="write, answer, extract, rewrite, classify"):
        tasks.make(world, "sing", 1)
    with pytest.raises(UsageError, match="hero_renamed"):
        tasks.corrupt(world.sample(1)[0], "sing", world=world)


def test_retold_stories_keep_facts_and_rules(world):
    rng = random.Random(1)
    for story in world.sample(100, 2):
        for style in (None, "plain", "vivid"):
            text = tasks.retell(world, story, rng, style)
            verdict = oracle.judge(text, world)
            assert verdict.every_rule, text
            for role in ("hero", "kind", "object", "colour", "place", "helper", "plot", "ending"):
                assert getattr(verdict.facts, role) == getattr(story.facts, role)
        plain, vivid = (tasks.retell(world, story, rng, style) for style in ("plain", "vivid"))
        assert len(plain) < len(vivid) or world.name == "small"
