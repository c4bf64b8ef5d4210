"""Divergence is seen, said, and mended from the last checkpoint; what does not diverge runs as it always did."""

import json
import math
import random

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.train import Diverged, NonFiniteLoss, StopOnDivergence, TrainConfig, divergence, train, train_safely
from ftlab.train.loop import default_loss

# A rate at which the tiny model's loss explodes at once, and a third of which is still too high.
HOT = TrainConfig(steps=60, lr=3.0, schedule="constant", warmup=0, clip=None, save_every=5)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([], None),
        ([3.0], None),
        ([3.0] * 30, None),
        ([3.0, 2.0, 1.0, math.nan, 1.0], 4),
        ([math.inf], 1),
        ([3.0, 2.5, 4.2, 2.0, 2.0, 2.0], None),  # one odd batch
        ([3.0, 2.0, 1.0, 1.0, 2.5, 2.9, 2.9], None),  # worse than it was, but below its start
        ([3.0, 2.0, 3.5, 3.5, 3.5, 3.5], 5),
        ([3.0, 3.2, 3.2, 3.2, 3.2, 3.2], None),  # within the margin
    ],
)
def test_divergence(losses, step):
    assert divergence(losses, window=3, margin=0.25) == step


def test_the_callback_sees_what_the_function_sees(tiny_model, batches):
    watch = StopOnDivergence(window=4)
    with pytest.raises(Diverged) as caught:
        train(tiny_model(), batches, HOT, callbacks=[watch])
    assert divergence(watch.losses, window=4) == len(watch.losses)
    assert f"step {len(watch.losses)}" in str(caught.value) and "try a third" in str(caught.value)
    assert "\n" not in str(caught.value) and isinstance(caught.value, UsageError)


def test_a_run_that_does_not_diverge_is_the_same_run(tiny_model, batches):
    config = TrainConfig(steps=20, lr=3e-3, optimizer="muon")
    plain, safe = tiny_model(), tiny_model()
    a = train(plain, batches, config)
    b, recoveries = train_safely(safe, batches, config)
    assert a.losses == b.losses and recoveries == [] and same_weights(plain, safe)


class Blast:
    """A loss that is multiplied by `factor` from call `at` on, `length` calls long, as a run gone wrong."""

    def __init__(self, at, length=1, factor=20.0):
        self.calls, self.at, self.length, self.factor = 0, at, length, factor

    def __call__(self, model, batch):
        self.calls += 1
        return default_loss(model, batch) * (self.factor if self.at < self.calls <= self.at + self.length else 1.0)


@pytest.mark.parametrize("factor", [20.0, math.inf])
def test_it_goes_back_to_the_last_checkpoint_with_lower_rates(tiny_model, batches, tmp_path, factor):
    config = TrainConfig(steps=30, lr=3e-3, optimizer="muon", muon_lr=0.02, warmup=0, schedule="constant", save_every=8)
    whole, model, events = tiny_model(), tiny_model(), []
    before = train(whole, batches, config).losses
    history, [recovery] = train_safely(model, batches, config, tmp_path, window=3, loss=Blast(17, factor=factor),
                                       callbacks=[events.append])
    assert recovery.back_to == 16 and recovery.lr == pytest.approx(1e-3)
    assert recovery.step == 18 and recovery.losses[0] == before[16]
    assert history.losses[:16] == before[:16] and history.steps == list(range(1, 31))
    assert history.lrs[:16] == [3e-3] * 16 and history.lrs[16:] == pytest.approx([1e-3] * 14)
    assert [e["step"] for e in events if e["kind"] == "recovery"] == [16]
    starts = [e["step"] for e in events if e["kind"] == "start"]
    assert starts == [0, 16]


def test_it_lowers_the_rate_until_it_holds(tiny_model, batches):
    history, recoveries = train_safely(tiny_model(), batches, HOT, lower=0.1, window=4)
    assert recoveries
    assert [r.lr for r in recoveries] == pytest.approx([3.0 * 0.1 ** (i + 1) for i in range(len(recoveries))])
    assert history.steps == list(range(1, 61)) and divergence(history.losses, window=4) is None
    assert sum(history.losses[-5:]) / 5 < history.losses[0]


def test_it_gives_up_after_so_many_attempts(tiny_model, batches, tmp_path):
    attempts = []

    def broken(model, batch):
        return model.loss(batch) * math.nan

    with pytest.raises(NonFiniteLoss):
        train_safely(tiny_model(), batches, HOT, tmp_path, attempts=2, loss=broken,
                     callbacks=[lambda e: attempts.append(e["step"]) if e["kind"] == "start" else None])
    assert attempts == [0, 0, 0] and len(json.loads((tmp_path / "recoveries.json").read_text())) == 2


def test_a_checkpoint_from_which_it_diverged_twice_is_given_up(tiny_model, batches, tmp_path):
    starts, calls = [], []

    def cursed(model, batch):  # diverges after step 8, whatever the rate, until the run begins anew
        calls.append(1)
        return default_loss(model, batch) * (50.0 if len(starts) < 3 and starts[-1] + len(calls) > 9 else 1.0)

    def heard(event):
        if event["kind"] == "start":
            starts.append(event["step"])
            calls.clear()

    config = TrainConfig(steps=16, lr=1e-3, save_every=8)
    history, recoveries = train_safely(tiny_model(), batches, config, tmp_path, window=3, loss=cursed,
                                       callbacks=[heard])
    assert starts == [0, 8, 0] and [r.back_to for r in recoveries] == [8, 0] and len(history.losses) == 16


def test_a_killed_run_goes_on_with_the_rate_it_had(tiny_model, batches, tmp_path):
    """Stopped after a recovery, it resumes; the result is that of the run that was not stopped."""
    config = TrainConfig(steps=30, lr=3e-3, warmup=0, schedule="constant", save_every=5)
    whole, model = tiny_model(), tiny_model()
    expected, _ = train_safely(whole, batches, config, tmp_path / "whole", window=3, loss=Blast(11))

    class PowerCut(Exception):
        pass

    def cut(event):
        if event["kind"] == "step" and event["step"] == 22 and event["lr"] < 2e-3:
            raise PowerCut

    with pytest.raises(PowerCut):
        train_safely(model, batches, config, tmp_path / "cut", window=3, loss=Blast(11), callbacks=[cut])
    resumed = tiny_model(seed=5)
    history, recoveries = train_safely(resumed, batches, config, tmp_path / "cut", window=3)
    assert len(recoveries) == 1 and history.losses == expected.losses and history.lrs == expected.lrs
    assert same_weights(whole, resumed)


def test_the_factor_must_lower(tiny_model, batches):
    with pytest.raises(UsageError, match="between 0 and 1"):
        train_safely(tiny_model(), batches, HOT, lower=1.0)


def test_random_state_is_a_matter_of_the_seed(tiny_model, batches):
    random.seed(4)
    a, _ = train_safely(tiny_model(), batches, TrainConfig(steps=4))
    random.seed(5)
    b, _ = train_safely(tiny_model(), batches, TrainConfig(steps=4))
    assert a.losses == b.losses
