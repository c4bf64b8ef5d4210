"""The gradient written out by hand is that of autograd, or stands aside."""

import pytest
import torch
from torch import nn

from ftlab.model import backprop
from ftlab.text.batching import Batch, RowBatches
from ftlab.train import TrainConfig, train
from ftlab.train.loop import default_loss


def a_batch(seed=0, rows=5, length=17):
    """Random ids; the rows end at different places and some labels within are left out."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 60, (rows, length), generator=generator)
    labels = ids.clone()
    labels[torch.rand(ids.shape, generator=generator) < 0.2] = -100
    for row in range(rows):
        labels[row, length - 2 * row:] = -100
    return Batch(ids, labels)


def gradients(model, loss, batch):
    model.zero_grad()
    value = loss(model, batch)
    value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"causal": False}, {"tie_word_embeddings": False}, {"num_layers": 3, "num_heads": 2},
                                     {"num_layers": 1, "num_heads": 1, "rms_norm_eps": 1e-2}])
@pytest.mark.parametrize("kernel", [False, True])
def test_loss_and_gradients_are_those_of_autograd(random_model, changes, kernel, monkeypatch):
    if kernel:  # as for rows that are longer
        monkeypatch.setattr(backprop, "LONGEST_DIRECT", 0)
    model = random_model(1, **changes)
    batch = a_batch()
    assert backprop.fits(model, batch)
    want, want_grads = gradients(model, lambda model, batch: model.loss(batch), batch)
    got, got_grads = gradients(model, backprop.loss, batch)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    assert got_grads.keys() == want_grads.keys()
    for name, grad in want_grads.items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(got_grads[name], grad, rtol=1e-4, atol=1e-5 * grad.abs().max().item(), msg=name)


def test_gradients_add_up_over_micro_batches(random_model):
    model, (a, b) = random_model(0), (a_batch(1), a_batch(2))
    (backprop.loss(model, a) * 0.25).backward()
    (backprop.loss(model, b) * 0.75).backward()
    got = model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    (model.loss(a) * 0.25 + model.loss(b) * 0.75).backward()
    torch.testing.assert_close(got, model.embed_tokens.weight.grad, rtol=1e-4, atol=1e-6)


def test_a_second_backward_is_refused(random_model):
    loss = backprop.loss(random_model(0), a_batch())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_rows_longer_than_the_model_are_refused(random_model):
    with pytest.raises(ValueError, match="max_position_embeddings"):
        backprop.loss(random_model(0), a_batch(length=65, rows=1))


def test_it_stands_aside_where_it_would_not_be_the_same(random_model):
    batch = a_batch()
    packed = Batch(batch.input_ids, batch.labels, batch.input_ids * 0, batch.input_ids * 0)
    assert not backprop.fits(random_model(0), packed)
    with torch.no_grad():
        assert not backprop.fits(random_model(0), batch)
    hooked, frozen, replaced, derived, biased = (random_model(0) for _ in range(5))
    hooked.layers[0].mlp.register_forward_hook(lambda module, inputs, output: output * 2)
    frozen.layers[1].self_attn.q_proj.weight.requires_grad_(False)
    replaced.layers[0].mlp.up_proj = nn.Sequential(replaced.layers[0].mlp.up_proj)  # as a LoRA layer would replace it
    derived.__class__ = type("Other", (type(derived),), {})
    biased.layers[0].mlp.up_proj = nn.Linear(32, 48)
    for model in (hooked, frozen, replaced, derived, biased):
        assert not backprop.fits(model, batch)
        torch.testing.assert_close(default_loss(model, batch), model.loss(batch), rtol=0, atol=0)


def test_a_training_goes_the_same_way(random_model):
    rows = [torch.randint(4, 60, (length,), generator=torch.Generator().manual_seed(length)).tolist()
            for length in range(5, 25)]
    batches = RowBatches(rows, 64)
    runs = []
    for loss in (None, lambda model, batch: model.loss(batch)):
        model = random_model(3)
        history = train(model, batches, TrainConfig(12, lr=1e-2, optimizer="muon"), loss=loss)
        runs.append(history.losses)
    assert runs[0][-1] < runs[0][0] - 0.3
    assert runs[0] == pytest.approx(runs[1], rel=1e-3)
