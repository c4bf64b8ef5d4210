"""The widgets of adapters and prefixes without a browser: what they show, what they ask, what stands in their place."""

import pytest

from ftlab.profile import headless
from ftlab.show import widgets

TOKENS = ["<s>", " fox", "<b>"]
# two layers of two heads; a prefix of two: rows of 2 + 3
HALF = [[0.25, 0.25, 0.5, 0.0, 0.0], [0.1, 0.1, 0.4, 0.4, 0.0], [0.0, 0.0, 0.2, 0.3, 0.5]]
ALL = [[1.0, 0.0, 0.0, 0.0, 0.0]] * 3
ONE = [[1.0, 0.0, 0.0, 0.0], [0.5, 0.2, 0.3, 0.0], [0.25, 0.25, 0.25, 0.25]]


@pytest.fixture
def attention():
    view = widgets.prefix_attention_view(TOKENS, {"text": (["Once", " <i>"], [[HALF, ALL], [ALL, HALF]]),
                                                  "one": (["‹1›"], [[ONE, ONE]] * 2)})
    view.widget  # noqa: B018
    return view


def test_shares_for_the_prefix_are_sums_of_its_columns(attention):
    assert attention.share() == pytest.approx([0.5, 0.2, 0.0])
    assert "token 3 gives the prefix 0 % of its attention; on average 23" in attention.output.value
    attention.controls["position"].value = 1
    assert "token 1 gives the prefix 50 %" in attention.output.value
    attention.controls["head"].value = 2
    assert attention.share() == [1.0, 1.0, 1.0] and "token 1 gives the prefix 100 %" in attention.output.value


def test_layer_and_head_choose_the_map(attention):
    attention.controls["layer"].value = 2
    assert attention.share() == [1.0, 1.0, 1.0]
    attention.controls["head"].value = 2
    assert attention.share() == pytest.approx([0.5, 0.2, 0.0])


def test_another_prefix_has_its_own_labels_and_markup_is_escaped(attention):
    assert "&lt;i&gt;" in attention.output.value and "&lt;b&gt;" in attention.output.value
    assert "<i>" not in attention.output.value and "<b>" not in attention.output.value
    attention.controls["chosen"].value = "one"
    assert "‹1›" in attention.output.value and "token 3 gives the prefix 25 %" in attention.output.value


def test_the_ringed_token_is_the_one_that_reads(attention):
    before = attention.output.value
    assert before.count("outline:2px") == 1
    attention.controls["position"].value = 2
    assert attention.output.value != before and attention.output.value.count("outline:2px") == 1


@pytest.fixture
def swap():
    asked = []

    def answer(prompt, name):
        asked.append((prompt, name))
        return f"<{name}> {prompt}"

    view = widgets.swap_view(["base", "fox"], answer, ["Say a.", "Say\nb."], lambda prompt, text: f"{len(text)} letters")
    view.widget  # noqa: B018
    view.asked = asked
    return view


def test_only_what_is_clicked_is_asked(swap):
    assert swap.asked == [] and swap.output.value.count("not asked yet") == 2
    swap.buttons["fox"].click()
    assert swap.asked == [("Say a.", "fox")] and swap.output.value.count("not asked yet") == 1
    assert "&lt;fox&gt; Say a." in swap.output.value and "12 letters" in swap.output.value
    swap.buttons["all of them"].click()
    assert swap.asked[1:] == [("Say a.", "base"), ("Say a.", "fox")] and "not asked yet" not in swap.output.value


def test_another_prompt_clears_the_answers(swap):
    swap.buttons["all of them"].click()
    swap.list.value = 1
    assert swap.area.value == "Say\nb." and swap.output.value.count("not asked yet") == 2
    swap.area.value = "Mine."
    swap.buttons["base"].click()
    assert swap.asked[-1] == ("Mine.", "base") and "&lt;base&gt; Mine." in swap.output.value


def test_an_error_of_the_model_is_shown(swap):
    def fails(prompt, name):
        raise ValueError("too long")

    swap.answer = fails
    swap.buttons["base"].click()
    assert "too long" in swap.status.value


def test_pictures_and_headless(attention, swap, monkeypatch):
    for view in (attention, swap):
        assert view.picture().png().startswith(b"\x89PNG")
    assert "prefix of 2" in attention.picture().alt and "Say a." in swap.picture().alt
    monkeypatch.setenv("FTLAB_HEADLESS", "1")
    assert headless()
    view = widgets.swap_view(["base"], lambda prompt, name: "x", ["a"])
    view._ipython_display_()
    assert view._widget is None
