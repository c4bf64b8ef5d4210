"""Schedules by their definitions, and against transformers' where it has the same one."""

import math

import pytest
import torch

from ftlab.train import TrainConfig
from ftlab.train.schedule import factor

STEPS, WARMUP = 50, 10


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_warmup_rises_to_the_peak(name):
    values = [factor(step, STEPS, name, WARMUP) for step in range(STEPS)]
    assert values[:WARMUP] == pytest.approx([(i + 1) / WARMUP for i in range(WARMUP)])
    assert values[WARMUP] == 1.0 and all(0 < v <= 1 for v in values)
    assert all(a >= b for a, b in zip(values[WARMUP:], values[WARMUP + 1:], strict=False))


def test_by_definition():
    assert [factor(s, 4, "linear") for s in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert factor(25, 50, "cosine") == pytest.approx(0.5)
    assert factor(10, 40, "cosine", final=0.1) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert [factor(s, 10, "wsd") for s in range(10)] == pytest.approx([1] * 9 + [0.5])
    assert factor(95, 100, "wsd", final=0.2) == pytest.approx(1 - 0.8 * 0.75)
    assert {factor(s, 9, "constant") for s in range(9)} == {1.0}
    with pytest.raises(ValueError, match="known: constant"):
        factor(0, 10, "step")


@pytest.mark.parametrize("ours, theirs, more", [
    ("linear", "linear", {}), ("cosine", "cosine", {}), ("constant", "constant_with_warmup", {}),
    ("wsd", "warmup_stable_decay", {"num_decay_steps": 8, "decay_type": "linear"}),
])  # fmt: skip
def test_against_transformers(ours, theirs, more):
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(theirs, optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS,
                              scheduler_specific_kwargs=more)
    expected = []
    for _ in range(STEPS):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    got = [factor(step, STEPS, ours, WARMUP) for step in range(STEPS)]
    # Their warmup begins at 0, so its first step trains nothing; ours is one step ahead until the peak.
    assert got[:WARMUP] == pytest.approx(expected[1:WARMUP + 1])
    assert got[WARMUP:] == pytest.approx(expected[WARMUP:])


@pytest.mark.parametrize("warmup, steps", [(0, 0), (0.1, 5), (7, 7), (0.001, 0)])
def test_warmup_as_a_share_or_a_count(warmup, steps):
    config = TrainConfig(steps=50, schedule="constant", warmup=warmup)
    assert [config.lr_factor(s) for s in range(50)] == [factor(s, 50, "constant", steps) for s in range(50)]
