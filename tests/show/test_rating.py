"""The widget to rate pairs without a browser: buttons, keys, undo, resuming, and what is told when."""

import pytest
from show.test_live import Clock

from ftlab.align.preferences import read_preferences
from ftlab.align.ratings import Ratings
from ftlab.show import rating, widgets
from ftlab.world.preference import Pair

PAIRS = [Pair(f"<Prompt> {i}", f"a good & long text {i}", f"bad {i}", 0.0 if i == 3 else 0.5) for i in range(5)]


@pytest.fixture
def make(tmp_path):
    def view(pairs=PAIRS, utility="margin", name="r.jsonl"):
        made = rating.RatingView(pairs, Ratings(tmp_path / name), utility, Clock())
        made.widget  # noqa: B018
        made.clock.now += 5
        return made

    return view


def press(view, keys, after=5.0):
    """Type into the field as a person would: each letter after the ones before."""
    for key in keys:
        view.field.value += key
        view.clock.now += after


def better(view):
    """The side on which the chosen text stands now."""
    return "left" if view.ratings.sides(view.pair)[0] == view.pair.chosen else "right"


def test_the_prompt_and_both_texts_are_shown_escaped(make):
    view = make()
    html = view.texts.value
    assert "&lt;Prompt&gt; 0" in html and "a good &amp; long text 0" in html and "bad 0" in html and "<Prompt>" not in html
    left, right = (text.replace("&", "&amp;") for text in view.ratings.sides(PAIRS[0]))
    assert html.index("left: key q") < html.index(left) < html.index("right: key p") < html.index(right)
    assert "0 of 5 rated" in view.line.value and "r.jsonl" in view.line.value
    assert "q: left, p: right, t: tie, s: skip, u: undo" in view.line.value


def test_buttons_and_keys_rate(make):
    view = make()
    view.buttons["left"].click()
    view.clock.now += 5
    press(view, "pTxs")
    assert [r["rating"] for r in view.ratings.records] == ["left", "right", "tie", "skip"]
    assert [r["seconds"] for r in view.ratings.records] == [5.0, 5.0, 5.0, 10.0]  # nothing happens at x
    for record, pair in zip(view.ratings.records, PAIRS, strict=False):
        assert (record["a"], record["b"]) == view.ratings.sides(pair) and record["prompt"] == pair.prompt
    assert "<b>4 of 5 rated, 1 tie, 1 skipped</b>" in view.line.value and "bad 4" in view.texts.value
    assert view.status.value == ""


def test_the_end_and_what_was_decided_are_read_back(make):
    view = make()
    press(view, "qpqts")
    assert view.pair is None and "All 5 pairs are rated" in view.texts.value
    assert view.buttons["left"].disabled and not view.buttons["undo"].disabled
    press(view, "q")
    view.slider.value = 1
    assert len(view.ratings.records) == 5 and view.slider.value == 0
    assert read_preferences(view.ratings.path) == view.ratings.pairs()
    assert [p.prompt for p in view.ratings.pairs()] == [p.prompt for p in PAIRS[:3]]


def test_undo_shows_the_last_pair_again(make):
    view = make()
    press(view, "qpu")
    assert view.pair == PAIRS[1] and "1 of 5 rated" in view.line.value and "Taken back" in view.line.value
    view.buttons["undo"].click()
    view.clock.now += 5
    assert view.pair == PAIRS[0]
    press(view, "u")
    assert "nothing to take back" in view.line.value
    press(view, "t")
    assert view.pair == PAIRS[1] and view.counts() == {"tie": 1}
    press(view, "ssssu")
    assert view.pair == PAIRS[4] and not view.buttons["left"].disabled


def test_a_restart_goes_on_where_one_stopped(make):
    first = make()
    press(first, "qp")
    second = make()
    assert second.pair == PAIRS[2] and "2 of 5 rated" in second.line.value
    press(second, "u")
    assert second.pair == PAIRS[1]
    with (first.ratings.path).open("ab") as file:
        file.write(b'{"prompt": "<Pro')
    third = make()
    assert third.pair == PAIRS[1] and "cut off" in third.line.value and "1 of 5 rated" in third.line.value


def test_a_held_key_and_a_double_click_are_one_rating(make):
    view = make()
    press(view, "qqqqqqqq", after=0.03)
    view.buttons["right"].click()
    assert len(view.ratings.records) == 1 and "too quick" in view.line.value
    view.clock.now += 1
    view.field.value += "pp"  # both letters in one message: the second pair was not seen
    assert [r["rating"] for r in view.ratings.records] == ["left", "right"]


def test_arrow_keys_on_the_slider_rate_and_it_goes_back_to_the_middle(make, monkeypatch):
    view = make()
    for value in (1, -1, 1):
        view.slider.value = value
        assert view.slider.value == 0
        view.clock.now += 5
    view.clock.now -= 5
    view.slider.value = -1  # too quick
    assert [r["rating"] for r in view.ratings.records] == ["right", "left", "right"] and view.slider.value == 0
    view.clock.now += 5
    monkeypatch.setattr(view.ratings, "add", lambda *a: 1 / 0)
    view.slider.value = 1
    assert view.slider.value == 0 and "ZeroDivisionError" in view.status.value


def test_no_key_is_a_command_of_jupyterlab():
    commands = set("abcdijkmrvxyz0123456")  # of a notebook in command mode, as JupyterLab 4 has them
    assert not set(rating.KEYS) & commands


@pytest.mark.parametrize(("old", "new", "letters"), [("", "a", "a"), ("ad", "adt", "t"), ("ad", "tad", "t"), ("ad", "a", ""),
                                                     ("aa", "aaa", "a"), ("ad", "xy", "xy"), ("ad", "", ""), ("ad", "ad", "")])
def test_what_was_typed_is_found(old, new, letters):
    assert rating.inserted(old, new) == letters


def test_deleting_from_the_field_does_nothing(make):
    view = make()
    press(view, "qp")
    view.field.value = ""
    assert len(view.ratings.records) == 2 and view.pair == PAIRS[2]


def test_agreement_is_told_on_demand_and_at_the_end_only(make):
    view = make()
    for choice in ("right", "wrong"):
        side = better(view)
        press(view, {"left": "q", "right": "p"}[side] if choice == "right" else {"left": "p", "right": "q"}[side])
        assert "You agree" not in view.line.value
    view.agree.click()
    assert "on 1 of 2 pairs that you both decide (50 %)" in view.line.value
    press(view, "t")
    assert "You agree" not in view.line.value
    press(view, "q")      # the utility knows no better one here: a tie by it
    press(view, "s")
    assert "on 1 of 2 pairs" in view.line.value


def test_a_function_is_a_utility_too_and_none_is_none(make):
    view = make(utility=len)
    press(view, {"left": "q", "right": "p"}[better(view)])
    assert view.agreement() == (1, 1)
    assert not hasattr(make(utility=None, name="other.jsonl"), "agree")


def test_pairs_that_stand_twice_are_asked_once(make):
    view = make([*PAIRS, *PAIRS, Pair(PAIRS[0].prompt, PAIRS[0].rejected, PAIRS[0].chosen)])
    assert len(view.pairs) == 5
    assert "All 0 pairs" in make([]).texts.value and make([]).picture() is None
    assert make([Pair("p", "same", "same")]).pairs == []


def test_an_empty_text_is_shown_as_such(make):
    view = make([Pair("p", "a", "")])
    assert "(nothing)" in view.texts.value
    press(view, "t")
    assert view.pair is None and view.status.value == ""


def test_what_cannot_be_written_is_said_and_the_pair_stays(make, monkeypatch):
    view = make()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    view.buttons["left"].click()
    assert "No space left" in view.status.value and view.pair == PAIRS[0] and "0 of 5" in view.line.value
    monkeypatch.undo()
    view.buttons["left"].click()
    assert view.status.value == "" and view.pair == PAIRS[1]


def test_headless_a_picture_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FTLAB_HEADLESS", "1")
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **kwargs: shown.append(data))
    view = widgets.rating_view(PAIRS, Ratings(tmp_path / "r.jsonl"))
    view.show()
    assert shown[0]["image/png"].startswith(b"\x89PNG") and "Prompt" in shown[0]["text/plain"]
    assert view._widget is None and list(tmp_path.iterdir()) == []
