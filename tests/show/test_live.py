"""The live plot and the text progress, on a clock of our own."""

import io
import itertools
import math
import re
import types

import pytest

from ftlab.show import live, terminal


class Clock:
    """A clock that moves when told to, and by `cost` whenever somebody draws."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Target:
    """Takes what a plot draws; drawing costs `cost` seconds of the clock."""

    def __init__(self, clock, cost=0.001):
        self.clock, self.cost, self.drawn, self.pictures = clock, cost, [], []

    def html(self, text):
        self.clock.now += self.cost
        self.drawn.append((self.clock.now, text))

    def picture(self, figure, caption):
        self.pictures.append(figure)


def host(target):
    return types.SimpleNamespace(slot=lambda: target)


def run(plot, clock, steps, seconds_per_step, eval_every=None):
    plot({"kind": "start", "step": 0, "steps": steps})
    for step in range(1, steps + 1):
        clock.now += seconds_per_step
        plot({"kind": "step", "step": step, "steps": steps, "loss": 1 + 4 / step, "lr": 0.003,
              "tokens_per_second": 5200.0, "eta_seconds": (steps - step) * seconds_per_step})
        if eval_every and step % eval_every == 0:
            plot({"kind": "eval", "step": step, "steps": steps,
                  "metrics": {"loss": 1.1 + 4 / step, "kept": step / steps}})
    plot({"kind": "end", "step": steps, "steps": steps})


@pytest.fixture
def drawn(monkeypatch):
    def make(cost=0.001, **kwargs):
        clock = Clock()
        target = Target(clock, cost)
        monkeypatch.setattr(live, "_hosts", [host(target)])
        return live.LivePlot(clock=clock, **kwargs), clock, target

    monkeypatch.delenv("FTLAB_HEADLESS", raising=False)
    return make


def test_redraws_are_at_least_the_interval_apart(drawn):
    plot, clock, target = drawn()
    run(plot, clock, 1000, 0.01)
    times = [at for at, _ in target.drawn]
    assert 10 <= len(times) <= 16
    assert min(b - a for a, b in itertools.pairwise(times)) >= live.INTERVAL


def test_dear_redraws_take_at_most_a_twentieth_of_the_time(drawn):
    plot, clock, target = drawn(cost=0.2)
    run(plot, clock, 2000, 0.01)
    assert 2 <= len(target.drawn) and len(target.drawn) * 0.2 <= 0.06 * clock.now


def test_slow_steps_are_all_drawn(drawn):
    plot, clock, target = drawn()
    run(plot, clock, 8, 2.0)
    assert len(target.drawn) == 9  # the empty frame and each step


def test_the_end_leaves_one_picture(drawn):
    plot, clock, target = drawn(floor=0.9, share=("kept", "hero and object kept"))
    run(plot, clock, 200, 0.05, eval_every=50)
    assert len(target.pictures) == 1 and len(target.pictures[0].axes) == 2
    assert plot.eval_series() == ("loss", [50, 100, 150, 200], [1.1 + 4 / s for s in (50, 100, 150, 200)])
    assert plot.share_series() == ([50, 100, 150, 200], [0.25, 0.5, 0.75, 1.0])


def test_what_is_drawn_names_floor_units_time_and_speed(drawn):
    plot, clock, target = drawn(floor=0.9, share=("kept", "hero <&> kept"))
    run(plot, clock, 400, 0.05, eval_every=50)
    html = target.drawn[-3][1]
    for text in ("entropy of the source: 0.90", "loss (nats per token)", "step", "5200 tokens/s", " left",
                 "hero &lt;&amp;&gt; kept", "held out"):
        assert text in html, text
    assert len(html) < 40_000
    assert "nan" not in html.replace("nats", "")


def test_headless_draws_nothing_before_the_end(drawn, monkeypatch):
    plot, clock, target = drawn()
    monkeypatch.setenv("FTLAB_HEADLESS", "1")
    run(plot, clock, 400, 0.05)
    assert target.drawn == [] and plot.redraws == 0
    assert plot.figure().axes[0].lines


def test_without_a_notebook_it_only_collects(monkeypatch):
    clock = Clock()
    plot = live.LivePlot(clock=clock)
    run(plot, clock, 50, 1.0)
    assert plot.redraws == 0 and len(plot.losses) == 50


def test_a_resumed_run_shows_what_came_before(drawn):
    plot, clock, _ = drawn()
    history = types.SimpleNamespace(steps=[1, 2], losses=[5.0, 4.0], evals=[{"step": 2, "loss": 4.5}])
    plot({"kind": "start", "step": 2, "steps": 4, "history": history})
    plot({"kind": "step", "step": 3, "steps": 4, "loss": 3.0})
    assert plot.steps == [1, 2, 3] and history.steps == [1, 2]
    assert plot.eval_series() == ("loss", [2], [4.5])


def test_a_second_run_starts_afresh(drawn):
    plot, clock, _ = drawn()
    run(plot, clock, 10, 0.1)
    run(plot, clock, 5, 0.1)
    assert plot.steps == [1, 2, 3, 4, 5]


def test_a_loss_that_is_no_number_does_not_break_the_drawing(drawn):
    plot, clock, target = drawn(floor=1.0)
    plot({"kind": "start", "step": 0, "steps": 4})
    for step, loss in enumerate([3.0, math.nan, math.inf, 2.0], start=1):
        clock.now += 1
        plot({"kind": "step", "step": step, "steps": 4, "loss": loss})
    points = re.findall(r'points="([^"]*)"', target.drawn[-1][1])
    assert points and "nan" not in " ".join(points) and "inf" not in " ".join(points)


def test_thinning_keeps_the_course_of_a_curve():
    xs, ys = live.thin(list(range(10_000)), [x / 10_000 for x in range(10_000)])
    assert len(xs) == len(ys) == live.POINTS
    assert all(abs(y - x / 10_000) < 0.01 for x, y in zip(xs, ys, strict=True))
    assert live.thin([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (0.93, 5.8), (0, 720), (-3, 2), (1e-4, 3e-4)):
        ticks = live._ticks(low, high)
        assert 2 <= len(ticks) <= 7 and all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_a_tenth_of_the_run():
    out, clock = io.StringIO(), Clock()
    run(terminal.TextProgress(out, floor=0.9, clock=clock), clock, 1000, 0.01)
    lines = out.getvalue().splitlines()
    assert len(lines) == 11 and "\r" not in out.getvalue()
    assert lines[1] == "step  100/1000  loss 1.040 (floor 0.900)  lr 0.003  5200 tokens/s  9 s left"
    assert lines[-1].startswith("step 1000/1000") and "left" not in lines[-1]


def test_evaluations_have_lines_of_their_own():
    out, clock = io.StringIO(), Clock()
    run(terminal.TextProgress(out, clock=clock), clock, 100, 0.01, eval_every=50)
    assert "step  50/100  loss 1.18  kept 0.5\n" in out.getvalue()


def test_silence():
    out, clock = io.StringIO(), Clock()
    run(terminal.TextProgress(out, silent=True, clock=clock), clock, 100, 0.01, eval_every=50)
    assert out.getvalue() == ""


def test_a_terminal_gets_one_line_that_updates_itself():
    out, clock = Terminal(), Clock()
    run(terminal.TextProgress(out, label="base", clock=clock), clock, 1000, 0.01)
    text = out.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert 40 <= text.count("\r") <= 60
    assert text.rstrip("\n").split("\r")[-1].rstrip().startswith("base step 1000/1000")


def test_leftovers_of_a_longer_line_are_wiped():
    out, clock = Terminal(), Clock()
    progress = terminal.TextProgress(out, clock=clock)
    progress({"kind": "start", "step": 0, "steps": 9})
    progress({"kind": "step", "step": 1, "steps": 9, "loss": 1.0, "eta_seconds": 4000.0})
    clock.now += 1
    progress({"kind": "step", "step": 2, "steps": 9, "loss": 1.0, "eta_seconds": 4.0})
    first, second = out.getvalue().split("\r")[1:]
    assert len(second) >= len(first)


def test_a_recovery_is_a_line_of_its_own():
    from ftlab.train import Recovery

    out = io.StringIO()
    progress = terminal.TextProgress(out)
    progress({"kind": "recovery", "step": 40, "steps": 90, "recovery": Recovery(47, 40, 1e-3, "it diverged", [9.0])})
    assert out.getvalue() == "diverged at step 47: back to step 40, on with learning rate 0.001\n"
