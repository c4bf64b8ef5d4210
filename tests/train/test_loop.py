"""The loop: the same as a plain one, reproducible, honest about numbers that are none."""

import dataclasses
import math
import random

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.text.batching import IGNORE, Batch, RowBatches, collate
from ftlab.train import NonFiniteLoss, TrainConfig, train
from ftlab.train import loop as loop_module


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_adamw_is_the_plain_loop(tiny_model, batches):
    config = TrainConfig(steps=12, lr=3e-3, schedule="linear", warmup=3, weight_decay=0.1, clip=0.5)
    ours, plain = tiny_model(), tiny_model()
    history = train(ours, batches, config)
    decay = [p for p in plain.parameters() if p.ndim == 2]
    rest = [p for p in plain.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=1.0,
                                  betas=(0.9, 0.95), weight_decay=0.1)
    losses, rates = [], []
    for step in range(12):
        rate = 3e-3 * ((step + 1) / 3 if step < 3 else 1 - (step - 3) / 9)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = plain.loss(batches(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
        rates.append(rate)
    assert history.losses == pytest.approx(losses, rel=1e-5) and history.lrs == pytest.approx(rates)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0)
    assert history.steps == list(range(1, 13))
    assert history.tokens == sum(batches(step).num_tokens() for step in range(12)) and history.seconds > 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns(tiny_model, batches, optimizer):
    history = train(tiny_model(), batches, TrainConfig(steps=80, lr=1e-2, optimizer=optimizer))
    assert history.losses[0] == pytest.approx(math.log(24), rel=0.05)
    assert sum(history.losses[-5:]) / 5 < 0.6 * history.losses[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_accumulation_equals_the_big_batch(tiny_model, tiny_rows, optimizer):
    """Also with micro-batches of quite unequal numbers of tokens, one of them without any label."""
    rows = tiny_rows(12)
    labels = [list(row) for row in rows]
    for label in labels[:3]:
        label[:] = [IGNORE] * len(label)
    labels[5][:4] = [IGNORE] * 4
    parts = [range(0, 3), range(3, 4), range(4, 12)]
    small = [collate([rows[i] for i in part], 0, [labels[i] for i in part]) for part in parts]
    assert len({batch.num_tokens() for batch in small}) == 3 and small[0].num_tokens() == 0
    settings = {"lr": 1e-2, "optimizer": optimizer, "warmup": 0}
    one, other = tiny_model(), tiny_model()
    a = train(one, lambda step: collate(rows, 0, labels), TrainConfig(steps=5, **settings))
    b = train(other, lambda step: small[step % 3], TrainConfig(steps=5, accumulate=3, **settings))
    assert a.losses == pytest.approx(b.losses, rel=1e-4) and a.tokens == b.tokens
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=0)


def test_accumulation_asks_for_each_batch_once(tiny_model, batches):
    asked = []

    def source(step):
        asked.append(step)
        return batches(step)

    train(tiny_model(), source, TrainConfig(steps=4, accumulate=3))
    assert asked == list(range(12))


def test_clipping_bounds_the_gradient(tiny_model, batches, monkeypatch):
    norms = []

    class Plain(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(torch.nn.utils.get_total_norm(grads).item())
            return super().step(closure)

    monkeypatch.setattr(loop_module.optim, "make", lambda model, *rest: [Plain(model.parameters(), lr=0.1)])
    train(tiny_model(), batches, TrainConfig(steps=5, clip=0.01))
    assert norms == pytest.approx([0.01] * 5, rel=1e-3)
    norms.clear()
    train(tiny_model(), batches, TrainConfig(steps=5, clip=None))
    assert min(norms) > 0.02


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_same_seed_same_result(tiny_model, tiny_rows, optimizer):
    config = TrainConfig(steps=10, optimizer=optimizer, seed=3)

    def noisy(model, batch):  # a loss that draws, as dropout or sampling would
        return model.loss(batch) * (1 + 0.1 * torch.rand(()) + 0.1 * random.random())

    runs = []
    for seed in (3, 3, 4):
        model = tiny_model()
        history = train(model, RowBatches(tiny_rows(), 60), dataclasses.replace(config, seed=seed), loss=noisy)
        runs.append((model, history.losses))
    assert runs[0][1] == runs[1][1] and same_weights(runs[0][0], runs[1][0])
    assert runs[0][1] != runs[2][1]


def test_events_and_evaluations(tiny_model, batches):
    events, model = [], tiny_model()

    def evaluate(model, step):
        assert not model.training
        return {"loss": 1.0 / step}

    history = train(model, batches, TrainConfig(steps=7, eval_every=3), evaluate=evaluate, callbacks=[events.append])
    kinds = [(e["kind"], e["step"]) for e in events]
    assert kinds == [("start", 0), ("step", 1), ("step", 2), ("step", 3), ("eval", 3), ("step", 4), ("step", 5),
                     ("step", 6), ("eval", 6), ("step", 7), ("eval", 7), ("end", 7)]  # fmt: skip
    assert history.evals == [{"step": s, "loss": 1.0 / s} for s in (3, 6, 7)]
    assert history.metric("loss") == ([3, 6, 7], [1 / 3, 1 / 6, 1 / 7]) and history.metric("else") == ([], [])
    for event in events:
        assert event["steps"] == 7
        if event["kind"] == "step":
            assert event["tokens_per_second"] > 0 and event["eta_seconds"] >= 0
            assert event["loss"] == history.losses[event["step"] - 1]
    assert not model.training


def test_stop_ends_the_run_after_an_evaluation(tiny_model, batches, tmp_path):
    steps = []

    def run():
        return train(tiny_model(), batches, TrainConfig(steps=20, eval_every=2, save_every=2), out=tmp_path,
                     evaluate=lambda model, step: {"reached": step}, stop=lambda metrics: metrics["reached"] >= 6,
                     callbacks=[lambda e: steps.append(e["step"]) if e["kind"] == "step" else None])

    assert run().steps == list(range(1, 7)) and len(steps) == 6
    # Started again it is still at its end.
    assert run().steps == list(range(1, 7)) and len(steps) == 6


def poisoned(batches, at):
    """The batches, but from step `at` on the loss is multiplied by infinity."""
    calls = []

    def loss(model, batch):
        calls.append(1)
        return model.loss(batch) * (math.inf if len(calls) > at else 1.0)

    return loss


def test_a_loss_that_is_no_number_stops_the_run(tiny_model, batches):
    model, kinds = tiny_model(), []
    with pytest.raises(NonFiniteLoss) as caught:
        train(model, batches, TrainConfig(steps=10), loss=poisoned(batches, 4), callbacks=[lambda e: kinds.append(e["kind"])])
    message = str(caught.value)
    assert "step 5" in message and "learning rate" in message and "try" in message and "\n" not in message
    assert isinstance(caught.value, UsageError)
    assert all(torch.isfinite(p).all() for p in model.parameters()), "the update went into the weights"
    assert kinds == ["start"] + ["step"] * 4 + ["end"]


def test_a_batch_without_labels_is_said(tiny_model):
    batch = Batch(torch.tensor([[1, 5, 6]]), torch.full((1, 3), IGNORE))
    with pytest.raises(NonFiniteLoss, match="rows without any label"):
        train(tiny_model(), lambda step: batch, TrainConfig(steps=2))


def test_an_infinite_gradient_stops_the_run(tiny_model, batches):
    model = tiny_model()

    def loss(model, batch):  # finite itself, but its slope at 0 is not
        return model.loss(batch) + (model.norm.weight[0] - model.norm.weight[0].detach()).abs().sqrt()

    with pytest.raises(NonFiniteLoss, match="gradient.*step 1"):
        train(model, batches, TrainConfig(steps=2), loss=loss)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_too_high_a_rate_blows_up_with_a_message(tiny_model, batches):
    with pytest.raises(NonFiniteLoss, match="try a third of the learning rate"):
        train(tiny_model(), batches, TrainConfig(steps=60, lr=1e30, clip=None, warmup=0, schedule="constant"))
