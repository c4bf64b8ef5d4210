"""The range test: what it does to rates, where it ends, and that nothing else notices it."""

import itertools
import random

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.train import TrainConfig, range_test, train
from ftlab.train.rates import running_mean, suggest

CONFIG = TrainConfig(steps=10, lr=1e-2, optimizer="muon", muon_lr=0.03)


def test_rates_rise_evenly_on_a_log_axis(tiny_model, batches):
    found = range_test(tiny_model(), batches, CONFIG, low=1e-5, high=1e-3, steps=21)
    assert found.rates[0] == pytest.approx(1e-5) and found.rates[-1] == pytest.approx(1e-3)
    ratios = [b / a for a, b in itertools.pairwise(found.rates)]
    assert ratios == pytest.approx([100 ** (1 / 20)] * 20)
    assert len(found.losses) == len(found.smoothed) == 21 and found.diverged_at is None


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_is_the_training_it_precedes(tiny_model, batches, optimizer):
    """Each step is the loop's own step at that rate: the same losses as a run by hand with the same optimizers."""
    from ftlab.train import optim

    config = TrainConfig(steps=10, lr=1e-2, optimizer=optimizer, muon_lr=0.03, clip=0.5)
    found = range_test(tiny_model(), batches, config, low=1e-3, high=1e-1, steps=9)
    model = tiny_model()
    optimizers, losses = optim.make(model, optimizer, 0.1, 0.3), []
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    for step in range(9):
        for o, group_peaks in zip(optimizers, peaks, strict=True):
            o.zero_grad()
            for group, peak in zip(o.param_groups, group_peaks, strict=True):
                group["lr"] = peak * 100 ** (step / 8 - 1)
        loss = model.loss(batches(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for o in optimizers:
            o.step()
        losses.append(loss.item())
    assert found.losses == pytest.approx(losses, rel=1e-4)


def test_model_random_state_and_later_runs_do_not_notice_it(tiny_model, batches):
    model, untouched = tiny_model(), tiny_model()
    torch.manual_seed(8)
    random.seed(8)
    range_test(model, batches, CONFIG, steps=12, high=10.0)
    drawn = torch.rand(3), random.random()
    torch.manual_seed(8)
    random.seed(8)
    assert torch.equal(drawn[0], torch.rand(3)) and drawn[1] == random.random()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), untouched.parameters(), strict=True))
    assert train(model, batches, CONFIG).losses == train(untouched, batches, CONFIG).losses


def test_it_ends_at_divergence(tiny_model, batches):
    found = range_test(tiny_model(), batches, TrainConfig(steps=1, clip=None), low=1e-3, high=1e3, steps=120)
    assert len(found.losses) < 120 and found.diverged_at is not None
    assert found.rates[-1] <= found.diverged_at <= found.rates[-1] * (1e6 ** (1 / 119)) * 1.001
    assert found.suggestion < found.diverged_at / 3


def test_the_suggestion_trains(tiny_model, batches):
    found = range_test(tiny_model(), batches, CONFIG, low=1e-4, high=10.0, steps=60)
    config = found.apply(TrainConfig(steps=40, lr=1e-2, optimizer="muon", muon_lr=0.03))
    assert config.lr == found.suggestion and config.muon_lr == pytest.approx(3 * found.suggestion)
    losses = train(tiny_model(), batches, config).losses
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]


def test_running_mean_and_suggestion():
    assert running_mean([2.0, 2.0, 2.0], 0.9) == pytest.approx([2.0, 2.0, 2.0])
    assert running_mean([1.0, 3.0], 0.5) == pytest.approx([1.0, (0.25 * 1 + 0.5 * 3) / 0.75])
    assert suggest([0.1, 0.3, 0.9, 2.7], [4.0, 3.0, 2.0, 5.0]) == pytest.approx(0.3)


@pytest.mark.parametrize("wrong", [{"low": 0.0}, {"low": 1.0, "high": 0.1}, {"steps": 1}])
def test_what_is_no_range_is_said(tiny_model, batches, wrong):
    with pytest.raises(UsageError, match="low < high"):
        range_test(tiny_model(), batches, CONFIG, **wrong)


def test_pretraining_can_begin_with_it(tmp_path):
    from ftlab.train.pretrain import pretrain_from_text

    texts = [f"Ada has {n} red kites and {n + 1} caps." for n in range(60)]
    plain, tested = (pretrain_from_text(texts, tmp_path / name, steps=3, size="tiny", find_rate=find)
                     for name, find in (("plain", False), ("tested", True)))
    assert plain["lr"] == 5e-3 and tested["lr"] != 5e-3 and tested["recoveries"] == 0
    assert tested["train_loss"] != plain["train_loss"]
