"""The explorer of committed runs: what it looks up, what a slider moves, what it draws of runs that diverged."""

import itertools
import re

import pytest

from ftlab.show import widgets

BASE = {"schedule": "cosine", "batch": 256}
FACTORS = {"schedule": ["constant", "cosine"], "batch": [64, 256, 1024]}
RATES = [0.001, 0.004, 0.016, 0.064]


def run(rate, schedule, batch):
    """A made-up run: best at 0.016, later at larger batches; at 0.064 and a batch of 64 it is gone."""
    place = RATES.index(rate) - (2 if batch == 256 else 1)
    gone = rate == 0.064 and batch == 64
    return {"rate": rate, "schedule": schedule, "batch": batch, "steps": 320, "start": 6.0,
            "losses": [6.0, 4.0] if gone else [6.0, 3.0, 1.5, 1.0 + 0.3 * place**2],
            "final": None if gone else 0.9 + 0.3 * place**2 + (schedule == "constant") * 0.1,
            "diverged_at": 20 if gone else None}  # fmt: skip


@pytest.fixture
def explorer():
    others = [(name, value) for name, values in FACTORS.items() for value in values if value != BASE[name]]
    ways = [BASE, *(BASE | {name: value} for name, value in others)]
    runs = [run(rate, **way) for way, rate in itertools.product(ways, RATES)]
    data = {"base": BASE, "rates": RATES, "factors": FACTORS, "floor": 0.4, "runs": runs}
    made = widgets.sweep_explorer(data, labels={"batch": lambda tokens: f"{tokens} tokens"})
    assert made.widget is made.widget
    return made


def test_it_begins_with_the_best_run(explorer):
    assert explorer.rate == 0.016 and explorer.way == BASE
    assert "ends <b>0.500</b> nats above the floor after 320 steps" in explorer.caption.value


def test_a_slider_of_the_rate_shows_another_run(explorer):
    before = explorer.drawing.value
    explorer.sliders["rate"].value = 0.004
    assert explorer.run()["rate"] == 0.004 and explorer.drawing.value != before
    assert "Rate 0.004" in explorer.caption.value and "<b>0.800</b>" in explorer.caption.value


def test_a_second_factor_puts_the_first_back(explorer):
    explorer.sliders["schedule"].value = "constant"
    assert explorer.way == {"schedule": "constant", "batch": 256}
    explorer.sliders["batch"].value = 1024
    assert explorer.way == {"schedule": "cosine", "batch": 1024}
    assert explorer.sliders["schedule"].value == "cosine" and explorer.status.value == ""
    explorer.sliders["batch"].value = 256
    assert explorer.way == BASE


def test_a_move_draws_once(explorer):
    explorer.sliders["schedule"].value = "constant"
    before = explorer.redraws
    explorer.sliders["batch"].value = 64
    assert explorer.redraws == before + 1


def test_every_position_of_every_slider_has_its_run(explorer):
    for name, values in FACTORS.items():
        for value in values:
            explorer.sliders[name].value = value
            for rate in RATES:
                explorer.sliders["rate"].value = rate
                shown = explorer.run()
                assert (shown["rate"], shown[name]) == (rate, value) and explorer.status.value == ""
                assert "nan" not in explorer.drawing.value and "inf" not in explorer.drawing.value


def test_a_run_that_diverged_is_said_and_marked(explorer):
    explorer.sliders["batch"].value = 64
    explorer.sliders["rate"].value = 0.064
    assert "became no number at step 20" in explorer.caption.value
    assert "×" in explorer.drawing.value and ">diverged<" in explorer.drawing.value
    explorer.sliders["batch"].value = 256
    assert "×" not in explorer.drawing.value


def test_a_curve_that_broke_off_ends_where_it_did(explorer):
    def last_x():
        first = re.findall(r'<polyline points="([^"]*)"', explorer.drawing.value)[1]  # the second line is the run's
        return float(first.split()[-1].split(",")[0])

    whole = last_x()
    explorer.sliders["batch"].value = 64
    explorer.sliders["rate"].value = 0.064
    assert last_x() < whole - 100


def test_a_redraw_makes_no_widget(explorer):
    children = explorer.widget.children
    explorer.sliders["rate"].value = 0.001
    assert explorer.widget.children is children


def test_the_picture_has_a_panel_a_factor(explorer):
    picture = explorer.picture()
    assert [axes.get_title(loc="left") for axes in picture.axes] == ["schedule", "batch"]
    labels = [text.get_text() for text in picture.axes[1].get_legend().get_texts()]
    assert labels == ["64 tokens", "256 tokens (base)", "1024 tokens"]
    assert len(picture.png()) > 5000
