"""Examples in a prompt, and the retriever that finds those that are most like a question."""

import math

import pytest

from ftlab.text.shots import FORMS, Retriever, asked, few_shot_prompt, shown, words
from ftlab.text.template import alpaca
from ftlab.world import World, tasks


@pytest.fixture(scope="module")
def some():
    return tasks.make(World("rich"), "extract", 30, "shots")


@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_is_its_examples_and_then_the_question(some, form):
    prompt = few_shot_prompt(some[0], some[1:3], form)
    assert prompt == shown(some[1], form) + shown(some[2], form) + asked(some[0], form)
    assert few_shot_prompt(some[0], [], form) == asked(some[0], form)
    for shot in some[1:3]:
        assert shown(shot, form).startswith(asked(shot, form)) and shot.response in shown(shot, form)


def test_the_forms_as_they_stand(some):
    task = some[0]
    assert asked(task) == alpaca(task.instruction, task.input)
    assert shown(task, "plain") == f"{task.input}\n\nQuestion: {task.instruction}\nAnswer: {task.response}\n\n"
    assert shown(task, "arrow") == f"{task.input}\n-> {task.response}\n\n"
    assert task.instruction not in asked(task, "arrow")


def test_a_task_is_most_like_itself_and_stands_last(some):
    library = Retriever(some)
    for task in some[:5]:
        assert library.find(task, 3)[-1] is task
        scores = library.scores(task)
        assert max(scores) == pytest.approx(1.0) and min(scores) >= 0
    assert len(library.find(some[0], 99)) == len(some)


def test_rare_words_count_more_than_common_ones():
    def task(text):
        return tasks.Task("extract", "", text, "", None)

    library = Retriever([task("the fox and the kite"), task("the fox and the sled"), task("the fox and the boat")])
    assert library.weight["the"] == 0 and library.weight["kite"] == pytest.approx(math.log(3))
    assert library.find(task("THE SLED and the the fox!"), 1)[0].input == "the fox and the sled"
    assert library.scores(task("nothing known here")) == [0, 0, 0]


def test_words_are_letters_in_lower_case():
    assert words("Mira's red-brown Kite, 2!") == ["mira", "s", "red", "brown", "kite"]
