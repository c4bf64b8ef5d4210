"""The dashboard of alignment: panels by metrics, redraws on a clock of our own, lines in a terminal, a picture at the end."""

import io
import itertools
import math
import re
import types

import numpy as np
import pytest
from show.test_live import Clock, Target, host

from ftlab.show import live
from ftlab.show.widgets import AlignPlot, Panel

METRICS = {"reward": 1.5, "kl": 4.0, "valid": 0.9, "length": 61.0, "entropy": 1.25}


class Final(Target):
    """Keeps the captions under the pictures, too."""

    def picture(self, figure, caption):
        self.pictures.append((figure, caption))


@pytest.fixture
def drawn(monkeypatch):
    def make(cost=0.001, **kwargs):
        clock = Clock()
        target = Final(clock, cost)
        monkeypatch.setattr(live, "_hosts", [host(target)])
        return AlignPlot(clock=clock, **kwargs), clock, target

    monkeypatch.delenv("FTLAB_HEADLESS", raising=False)
    return make


def run(plot, clock, steps, seconds=1.0, sample="Ada <b> had a kite.", metrics=None):
    plot({"kind": "start", "step": 0, "steps": steps})
    for step in range(1, steps + 1):
        clock.now += seconds
        extra = {"utility": step / steps} if step % 5 == 0 else {}
        plot({"kind": "step", "step": step, "steps": steps, "eta_seconds": (steps - step) * seconds,
              "metrics": {**(metrics or METRICS), **extra}, "sample": sample})
    plot({"kind": "end", "step": steps, "steps": steps})


def headings(html):
    return re.findall(r'aria-label="([^"]*)"', html)


def test_panels_follow_from_the_metrics(drawn):
    plot, clock, target = drawn()
    run(plot, clock, 20)
    assert headings(target.drawn[-1][1]) == ["reward (the proxy)", "true utility", "KL to the reference (nats per story)",
                                             "valid stories", "length (tokens)"]
    assert "entropy 1.25" in target.drawn[-1][1]  # in the line below, without a panel
    plot, clock, target = drawn()
    run(plot, clock, 4, metrics={"loss": 0.6, "accuracy": 0.7, "margin": 0.2})
    assert headings(target.drawn[-1][1]) == ["pairs ranked rightly", "margin of the implicit rewards", "loss"]
    plot, clock, target = drawn(panels=(Panel("entropy", "entropy (nats)"),))
    run(plot, clock, 4)
    assert headings(target.drawn[-1][1]) == ["entropy (nats)"]


def test_redraws_are_at_least_the_interval_apart_and_cheap(drawn):
    plot, clock, target = drawn(cost=0.05)
    run(plot, clock, 2000, seconds=0.01)
    times = [at for at, _ in target.drawn]
    assert len(times) >= 10 and min(b - a for a, b in itertools.pairwise(times)) >= live.INTERVAL
    assert len(times) * 0.05 <= 0.06 * clock.now
    assert max(len(html) for _, html in target.drawn) < 60_000


def test_metrics_at_some_steps_only_are_drawn_there(drawn):
    plot, clock, _ = drawn()
    run(plot, clock, 12)
    assert plot.series["utility"] == ([5, 10], [5 / 12, 10 / 12])
    assert len(plot.series["reward"][0]) == 12


def test_an_evaluation_adds_to_its_step(drawn):
    plot, clock, _ = drawn()
    plot({"kind": "start", "step": 0, "steps": 2})
    plot({"kind": "step", "step": 1, "steps": 2, "metrics": {"kl": 1.0, "loss": 3.0}})
    plot({"kind": "eval", "step": 1, "steps": 2, "metrics": {"kl": 1.5, "utility": 0.5}, "sample": "later"})
    assert plot.series == {"kl": ([1], [1.5]), "loss": ([1], [3.0]), "utility": ([1], [0.5])} and plot.sample == "later"


def test_the_sample_and_the_time_left_are_shown(drawn):
    plot, clock, target = drawn(title="PPO <x>", marks={"utility": (0.25, "SFT & so on")})
    run(plot, clock, 20)
    html = target.drawn[-2][1]
    for text in ("Ada &lt;b&gt; had a kite.", "step 19 of 20", " left", "PPO &lt;x&gt;", "SFT &amp; so on", "90 %"):
        assert text in html, text
    assert "<b>" not in html and "nan" not in html


def test_the_end_leaves_a_picture_with_the_sample(drawn):
    plot, clock, target = drawn(marks={"utility": (0.25, "SFT")})
    run(plot, clock, 20)
    (figure, caption), = target.pictures
    assert figure.png().startswith(b"\x89PNG") and "true utility" in figure.alt and "done" in caption
    assert any("had a kite" in text.get_text() for axes in figure.axes for text in axes.texts)


def test_numbers_that_are_none_do_not_break_it(drawn):
    plot, clock, target = drawn()
    run(plot, clock, 4, metrics={"reward": math.nan, "kl": math.inf, "valid": None, "length": "long", "loss": True})
    assert plot.series == {} and "reward" not in target.drawn[-1][1]
    assert target.pictures == []
    run(plot, clock, 4, metrics={"reward": 2.0})
    assert plot.series["reward"] == ([1, 2, 3, 4], [2.0] * 4) and len(target.pictures) == 1


def test_numbers_of_numpy_are_numbers(drawn):
    plot, clock, _ = drawn()
    run(plot, clock, 2, metrics={"kl": np.float32(0.5), "length": np.array(3)})
    assert plot.series == {"kl": ([1, 2], [0.5, 0.5]), "length": ([1, 2], [3, 3])}


def test_a_resumed_run_shows_what_came_before(drawn):
    plot, clock, _ = drawn()
    history = types.SimpleNamespace(evals=[{"step": 5, "kl": 1.0}])
    plot({"kind": "start", "step": 5, "steps": 9, "history": history})
    plot({"kind": "step", "step": 6, "steps": 9, "metrics": {"kl": 2.0}})
    assert plot.series["kl"] == ([5, 6], [1.0, 2.0])


def test_in_a_terminal_plain_lines():
    out, clock = io.StringIO(), Clock()
    plot = AlignPlot(stream=out, clock=clock)
    run(plot, clock, 100)
    lines = out.getvalue().splitlines()
    assert len(lines) == 11 and plot.redraws == 0
    assert lines[1] == ("step  10/100  reward 1.5  kl 4  valid 0.9  length 61  entropy 1.25  utility 0.1  1 min 30 s left")
    assert plot.figure().png().startswith(b"\x89PNG")


def test_headless_draws_nothing_before_the_end(drawn, monkeypatch):
    plot, clock, target = drawn()
    monkeypatch.setenv("FTLAB_HEADLESS", "1")
    run(plot, clock, 100)
    assert target.drawn == [] and plot.redraws == 0
