"""The learning-rate range test (Smith 2017): one short run whose rate rises until it diverges, on a copy of the model.

Left out: falling rates (Smith's cycles), and a test for each layer.
"""

import copy
import dataclasses
import random

import torch

from ftlab.errors import UsageError
from ftlab.numbers import finite, whole
from ftlab.train.loop import NonFiniteLoss, TrainConfig, train
from ftlab.train.recovery import Diverged, StopOnDivergence

SMOOTH = 0.8  # weight of the past in the running mean of the losses


@dataclasses.dataclass
class RangeTest:
    """What a range test found. One entry a step in rates, losses and smoothed.

    suggestion: a peak rate to begin with, see `suggest`. diverged_at: the rate at which the run had diverged, or None.
    """

    rates: list
    losses: list
    smoothed: list
    suggestion: float
    diverged_at: float | None = None

    def apply(self, config):
        """`config` with the suggested peak rate; Muon's rate keeps its proportion to it."""
        return at_rate(config, self.suggestion)


def at_rate(config, lr):
    """`config` with the peak rate `lr`, and Muon's rate in the same proportion to it as before."""
    return dataclasses.replace(config, lr=lr, muon_lr=config.muon_lr * lr / config.lr)


@dataclasses.dataclass
class _Rising(TrainConfig):
    """A config whose rate rises geometrically from `low` at the first step to `lr` at the last."""

    low: float = 0.0

    def lr_factor(self, step):
        """Factor on the highest rates at `step`."""
        return (self.low / self.lr) ** (1 - step / max(1, self.steps - 1))


def range_test(model, batches, config, low=1e-5, high=1.0, steps=100, smooth=SMOOTH, loss=None, callbacks=()):
    """Train a copy of `model` for at most `steps` steps, the rate rising from `low` to `high`; returns a RangeTest.

    `model`, the random state and a later run are as they would be without it. batches, loss and callbacks are those of
    `train`; of `config` all but steps, schedule and warmup counts. Rates are those of `config.lr`; Muon's keeps its
    proportion to it. The test ends where `recovery.divergence` would find one.
    """
    if not (finite(low) and finite(high) and 0 < low < high and whole(steps, 2)):
        raise UsageError(f"a range test needs 0 < low < high and at least 2 steps, not {low!r}, {high!r} and {steps!r}")
    rising = _Rising(**dataclasses.asdict(dataclasses.replace(at_rate(config, high), steps=steps)), low=low)
    rising.save_every = rising.eval_every = None
    seen, diverged_at = [], None
    states = torch.get_rng_state(), random.getstate()
    try:
        train(copy.deepcopy(model), batches, rising, loss=loss, callbacks=[seen.append, *callbacks, StopOnDivergence()])
    except (Diverged, NonFiniteLoss):
        diverged_at = rising.lr * rising.lr_factor(sum(e["kind"] == "step" for e in seen))
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
    events = [event for event in seen if event["kind"] == "step"]
    rates, losses = [event["lr"] for event in events], [event["loss"] for event in events]
    smoothed = running_mean(losses, smooth)
    return RangeTest(rates, losses, smoothed, suggest(rates, smoothed), diverged_at)


def running_mean(values, smooth=SMOOTH):
    """Running mean with weight `smooth` on the past, corrected for its start at 0 as Adam's is: a list."""
    if not (finite(smooth) and 0 <= smooth < 1):
        raise UsageError(f"smooth is {smooth!r}; it is the weight of the past, at least 0 and below 1")
    mean, out = 0.0, []
    for count, value in enumerate(values, 1):
        mean = smooth * mean + (1 - smooth) * value
        out.append(mean / (1 - smooth**count))
    return out


def suggest(rates, smoothed):
    """A peak rate to begin with, from a range test's smoothed losses: a third of the rate at which they are lowest.

    Before its lowest point the loss still falls, so such rates do serve; but it was reached at rates that rose all the
    time, and just behind it they do harm.
    """
    return rates[min(range(len(rates)), key=smoothed.__getitem__)] / 3
