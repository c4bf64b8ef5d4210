"""The cost calculator without a browser: what is edited, what is drawn, what is never paid back."""

import re

import pytest

from ftlab.show import costs, widgets


def look(upfront, prompt, tuned):
    pays = -(-upfront // (prompt - tuned)) if tuned < prompt else None
    return {"ways": {"<prompt>": (0.0, prompt), "tuned": (upfront, tuned)}, "tuned": "tuned",
            "break_even": {"<prompt>": None if pays is None else int(pays)}}  # fmt: skip


@pytest.fixture
def view():
    made = widgets.cost_calculator(look, {"upfront": 100.0, "prompt": 2.0, "tuned": 1.0}, "s", {"upfront": "tuning takes"})
    assert made.widget is made.widget
    return made


def test_an_edited_number_moves_the_break_even(view):
    assert view.boxes["upfront"].description == "tuning takes" and view.boxes["tuned"].description == "tuned"
    assert "pays from call 100 on against: &lt;prompt&gt;" in view.caption.value
    before = view.drawing.value
    view.boxes["upfront"].value = 5000
    assert "from call 5,000 on" in view.caption.value and view.drawing.value != before
    assert view.drawing.value.count("<circle") == 1 and view.drawing.value.count("<polyline") == 2


def test_the_circle_lies_where_the_lines_cross(view):
    [(cx, cy)] = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', view.drawing.value)
    x, y = view._axes(view.curves())
    assert float(cx) == pytest.approx(x(100), abs=0.1) and float(cy) == pytest.approx(y(200), abs=0.1)


def test_never_is_said(view):
    view.boxes["tuned"].value = 2.5
    assert "never pays" in view.caption.value and "<circle" not in view.drawing.value and "nan" not in view.drawing.value


def test_what_is_below_zero_is_refused_and_the_last_good_numbers_stay(view):
    view.boxes["prompt"].value = -1
    assert "must be 0 or more" in view.status.value and view.settings["prompt"] == 2.0
    view.boxes["prompt"].value = 3
    assert view.status.value == "" and "from call 50 on" in view.caption.value


@pytest.mark.parametrize("numbers", [(0.0, 2.0, 1.0), (0.0, 0.0, 0.0), (1e9, 1e-6, 0.0), (1.0, 1.0, 1.0), (3.0, 4.0, 0.0)])
def test_extremes_draw(numbers):
    made = widgets.cost_calculator(look, dict(zip(("upfront", "prompt", "tuned"), numbers)))
    made.widget  # noqa: B018
    assert made.status.value == "" and "nan" not in made.drawing.value
    assert len(made.picture().png()) > 3000


def test_names_at_the_ends_stand_apart():
    assert costs._apart([10.0, 12.0, 100.0, 11.0]) == [10.0, 38.0, 100.0, 24.0]


def test_the_picture_says_where_it_breaks_even(view):
    assert "from call 100 on" in view.picture().axes[0].get_title(loc="left")
