"""The widgets of fine-tuning without a browser: what they show, what they escape, what stands in their place."""

import pytest

from ftlab.profile import headless
from ftlab.show import plots, widgets

PAIRS = [("<s>", False), ("### Response:\n", False), ("<b>", True), (" fox", True), ("</s>", True)]


@pytest.fixture
def mask():
    view = widgets.loss_mask_view({"response": PAIRS, "all": [(p, True) for p, _ in PAIRS]})
    view.widget  # noqa: B018
    return view


def test_seen_tokens_are_told_from_others_without_colour(mask):
    assert "3 of 5 tokens carry a loss (60 %)" in mask.output.value
    assert mask.output.value.count("border-bottom:3px solid") == 3 + 1  # and the key
    assert "&lt;b&gt;" in mask.output.value and "<b>" not in mask.output.value


def test_choosing_another_example_shows_it(mask):
    mask.control.value = "all"
    assert "5 of 5 tokens carry a loss" in mask.output.value and mask.chosen == "all"
    assert "5 of 5" in mask.picture().alt


def test_an_empty_example_and_a_long_one_are_shown():
    assert "0 of 0" in widgets.loss_mask_view({"none": []}).html()
    long = widgets.loss_mask_view({"long": [(" a", True)] * 1000})
    assert "600 more" in long.html() and long.html().count("border-bottom:3px") == 401
    assert long.picture().png()


@pytest.fixture
def answers():
    view = widgets.answers_view(["Say fox.", "Say <owl>."], ["before", "step 10", "step 20"],
                                [["", "cat", "fox"], ["x", "y", "owl"]], [["0", "0", "1"], ["0", "0", "1"]])
    view.widget  # noqa: B018
    return view


def test_the_slider_and_the_list_choose_the_answer(answers):
    assert "(nothing)" in answers.output.value and "Say fox." in answers.output.value
    answers.controls["stage"].value = 2
    assert "answered (step 20)" in answers.output.value and ">fox<" in answers.output.value
    answers.controls["prompt"].value = 1
    assert "Say &lt;owl&gt;." in answers.output.value and ">owl<" in answers.output.value


def test_a_picture_stands_for_each_widget(mask, answers):
    for view in (mask, answers):
        assert view.picture().png().startswith(b"\x89PNG")
    assert "Say fox." in answers.picture().alt


def test_a_long_prompt_is_cut_in_the_picture():
    assert len(plots._wrapped("word " * 2000)) == 12
    assert widgets.answers_view(["a\nb"], ["now"], [["$x$ 🙂"]]).picture().png()


def test_headless_they_make_no_widget(mask, monkeypatch):
    monkeypatch.setenv("FTLAB_HEADLESS", "1")
    assert headless()
    view = widgets.loss_mask_view({"response": PAIRS})
    view._ipython_display_()
    assert view._widget is None
