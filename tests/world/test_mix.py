"""The pretraining mix: many forms, none of the evaluation's, yet every word of those."""

import hashlib
import random
import re

import pytest

from ftlab.text import template
from ftlab.world import mix, oracle, tasks
from ftlab.world.grammar import count_tokens, get_world, split_sentences

# The pre-tokens of GPT-2 (words with the space before them, runs of marks), without its contractions.
PRETOKEN = re.compile(r" ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+")
N = 2500


@pytest.fixture(scope="module")
def world():
    return get_world("rich")


@pytest.fixture(scope="module")
def documents(world):
    return list(tasks.pretraining_mix(world, N, 0))


def test_documents_are_of_the_stated_length(documents):
    lengths = [count_tokens(document) for document in documents]
    assert max(lengths) <= 360 and sum(length >= 256 for length in lengths) > N / 50
    assert 90 < sum(lengths) / N < 160


def test_a_quarter_is_bare_stories(documents):
    bare = sum(oracle.judge(document).every_rule for document in documents[:1200])
    assert 0.18 < bare / 1200 < 0.30


@pytest.mark.parametrize("name", sorted(mix.FORMS))
def test_every_form_holds_a_whole_story_of_the_training_split(world, name):
    rng, stories = random.Random(name), mix._Stream(world, "test")
    for _ in range(15):
        form = mix.FORMS[name]
        document = form(rng, stories) if form in mix.SHORT_FORMS else form(rng, stories, mix.MAX_TOKENS)
        assert "{" not in document.replace('{"', "") and "None" not in document
        found = [line for line in document.splitlines() if len(split_sentences(line)) >= 7]
        assert found
        for line in found:
            start = re.search(r"(?:[A-Z]\w+ was an? |There once|Once upon|In a small house|Everyone knew|This is the "
                              r"story of|Far away, behind)", line)  # fmt: skip
            verdict = oracle.judge(line[start.start() :].removesuffix("}"))
            assert verdict.every_rule, line
            assert world.split_of(verdict.facts) == "train"


def test_every_token_of_the_templates_and_tasks_occurs(world, documents):
    seen = set()
    for document in documents:
        seen.update(PRETOKEN.findall(document))
    needed = set()
    for family in tasks.FAMILIES:
        for task in tasks.make(world, family, 80, 3):
            needed.update(PRETOKEN.findall(template.alpaca(task.instruction, task.input)))
            needed.update(PRETOKEN.findall(template.alpaca_response(task.response)))
            needed.update(PRETOKEN.findall(template.chat([{"role": "user", "content": task.instruction}])))
    assert needed - seen == set()


def test_no_document_is_in_a_form_of_the_evaluation(world, documents):
    instructions = {t.instruction for f in tasks.FAMILIES for t in tasks.make(world, f, 100, 5)}
    for document in documents:
        assert not re.search(r"### Instruction:\n(?!Instruction\n)", document)
        assert not re.search(r"<\|user\|>\n", document)
        assert not any(line in instructions for line in document.splitlines())


def test_documents_have_not_changed(documents):
    """The shipped base-small is trained on these very texts: a change here means to train it anew."""
    assert hashlib.sha256("\0".join(documents).encode()).hexdigest()[:16] == "a0e305383383fe8a"


@pytest.mark.parametrize("size", ["rich", "small"])
def test_question_series_tell_what_they_ask(size):
    world = get_world(size)
    instructions = {t.instruction for f in tasks.FAMILIES for t in tasks.make(world, f, 100, 5)}
    for (passage, behind), story in zip(tasks.question_series(world, 400, 3), world.sample(400, "questions/3"), strict=True):
        text = passage + behind
        assert passage.endswith("\n\n") and behind and "{" not in text and "None" not in text
        sentences = split_sentences(story.text)
        assert any(sentence in passage for sentence in sentences)
        for role in ("kind", "trait", "place", "helper_kind", "colour"):  # those that no question names
            value = getattr(story.facts, role)
            assert not re.search(rf"\b{value}\b", behind) or re.search(rf"\b{value}\b", passage)
        assert not any(line in instructions for line in text.splitlines()) and "Instruction" not in text


def test_question_series_put_some_questions_before_and_their_answers_first():
    world = get_world("rich")
    whole = [(p, b) for p, b in tasks.question_series(world, 600, 4) if not oracle.judge(p.strip()).every_rule]
    asked = [(p, b) for p, b in whole if re.match(r"Question: .*\?\n\n(?!Question)", p)]
    assert asked and all(re.match(r"Answer: \w+(\n|$)", behind) for _, behind in asked)


@pytest.mark.parametrize("size", ["rich", "small"])
def test_retold_series_tell_the_same_story_with_the_other_ending(size):
    world = get_world(size)
    stories = world.sample(100, "retold/3")
    for (told, again), story in zip(tasks.retold_series(world, 100, 3), stories, strict=True):
        assert told.endswith("\n\n") and story.text in told
        start = again.index(story.text[: story.text.index(".")])
        verdict = oracle.judge(again[start:], world)
        assert verdict.every_rule and verdict.ending != story.facts.ending
        assert len(again[:start]) < 30


def test_repeated_series_say_the_same_sentences_again(world):
    told = set()
    for before, again in tasks.repeated_series(world, 60, 3):
        text = before.removesuffix("\n\n")
        assert again.endswith(text) and len(again) - len(text) < 10
        told.add(len(split_sentences(text)))
    assert len(told) > 4 and 2 in told and max(told) <= 10


def test_some_passages_only_tell_which_animal_is_whose(world):
    pairs = 0
    for story in world.sample(300, 8):
        facts = story.facts
        passage, roles = mix._passage(random.Random(facts.hero + facts.place), story)
        if roles == ["kind", "helper_kind"] and len(split_sentences(passage)) == 2:
            assert {facts.hero, facts.kind, facts.helper, facts.helper_kind} <= mix._words(passage)
            pairs += 1
    assert pairs > 15


def test_other_ending_is_a_right_story_with_the_same_start(world):
    rng = random.Random(0)
    for size in ("rich", "small", "harbour"):
        world = get_world(size)
        for story in world.sample(150, 3):
            verdict = oracle.judge(mix.other_ending(world, story, rng), world)
            assert verdict.every_rule and verdict.ending != story.facts.ending
            for role in ("hero", "object", "place", "helper", "plot"):
                assert getattr(verdict.facts, role) == getattr(story.facts, role)


def test_mix_of_the_other_worlds():
    for size in ("small", "harbour"):
        assert len(set(tasks.pretraining_mix(get_world(size), 200, 2))) == 200
