"""Muon against a slow version of its definition, AdamW against PyTorch's."""

import pytest
import torch

from ftlab.model import ModelConfig, Transformer
from ftlab.train import optim


def slow_orthogonalize(matrix, steps=5):
    """Muon's iteration on the singular values themselves: each goes through the same odd quintic."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / (matrix.double().norm() + 1e-7)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vt


@pytest.mark.parametrize("shape", [(16, 16), (40, 16), (16, 40), (1, 9), (128, 344)])
def test_orthogonalize_is_the_quintic_on_singular_values(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    got = optim.orthogonalize(matrices)
    assert got.dtype == torch.float32 and got.shape == matrices.shape
    for matrix, result in zip(matrices, got, strict=True):
        torch.testing.assert_close(result.double(), slow_orthogonalize(matrix), atol=2e-4, rtol=0)


def test_singular_values_end_near_one():
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((32, 32), (32, 80), (80, 32)):
        left, right = torch.randn(rows, rows, generator=generator), torch.randn(columns, columns, generator=generator)
        u, v = torch.linalg.qr(left).Q, torch.linalg.qr(right).Q
        # Singular values over a factor of 30, as gradients have them.
        values = torch.logspace(0, -1.5, 32)
        matrix = u[:, :32] @ torch.diag(values) @ v[:, :32].T
        ends = torch.linalg.svdvals(optim.orthogonalize(matrix[None])[0])
        assert 0.65 < ends.min() and ends.max() < 1.25
    scaled = optim.orthogonalize(torch.stack([matrix, 1000 * matrix]))
    torch.testing.assert_close(scaled[0], scaled[1], atol=1e-5, rtol=0)


def slow_muon(weights, gradients, lr, momentum=0.95, weight_decay=0.0):
    """Jordan's algorithm for one matrix over several gradients, in float64."""
    w, buffer = weights.double(), torch.zeros_like(weights, dtype=torch.double)
    for g in gradients:
        g = g.double()
        buffer = momentum * buffer + (1 - momentum) * g
        update = slow_orthogonalize(momentum * buffer + (1 - momentum) * g)
        w = w * (1 - lr * weight_decay) - lr * max(1, w.shape[0] / w.shape[1]) ** 0.5 * update
    return w


def test_muon_step_by_step():
    generator = torch.Generator().manual_seed(2)
    shapes = [(8, 8), (8, 8), (20, 8), (8, 20)]
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    begin = [p.detach().clone() for p in params]
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(4)]
    optimizer = optim.Muon(params, lr=0.1, weight_decay=0.3)
    for step in gradients:
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    for i, p in enumerate(params):
        assert p.dtype == torch.float32
        expected = slow_muon(begin[i], [step[i] for step in gradients], 0.1, weight_decay=0.3)
        torch.testing.assert_close(p.detach().double(), expected, atol=1e-3, rtol=0)


def test_muon_agrees_with_pytorchs():
    """torch.optim.Muon runs its products in bfloat16, hence the wide tolerance."""
    generator = torch.Generator().manual_seed(3)
    ours, theirs = (torch.nn.Parameter(torch.ones(24, 16)) for _ in range(2))
    one = optim.Muon([ours], lr=0.05)
    other = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.0, momentum=0.95, nesterov=True)
    for _ in range(3):
        ours.grad = torch.randn(24, 16, generator=generator)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    moved, expected = (ours - 1).detach().flatten(), (theirs - 1).detach().flatten()
    assert torch.cosine_similarity(moved, expected, dim=0) > 0.999
    assert moved.norm().item() == pytest.approx(expected.norm().item(), rel=0.03)


def test_muon_leaves_parameters_without_gradient_alone():
    p, q = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4, 4))
    q.grad = torch.eye(4)
    optim.Muon([p, q]).step()
    assert torch.equal(p.detach(), torch.ones(4, 4)) and not torch.equal(q.detach(), torch.ones(4, 4))


@pytest.mark.parametrize("tied", [True, False])
def test_who_gets_which_optimizer(tied):
    model = Transformer(ModelConfig(vocab_size=24, hidden_size=16, num_heads=2, intermediate_size=20,
                                    tie_word_embeddings=tied))
    muon, adamw = optim.make(model, "muon", lr=1e-3, muon_lr=0.02, weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adamw = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert len(by_muon) == 2 * 7 and all(name.startswith("layers.") and "proj" in name for name in by_muon)
    assert by_muon.isdisjoint(by_adamw) and len(by_adamw) == len(set(by_adamw))
    assert by_muon | set(by_adamw) == set(names.values())
    for group in adamw.param_groups:
        for p in group["params"]:
            assert group["weight_decay"] == (0.1 if p.ndim == 2 else 0.0)
    # What is frozen is nobody's.
    model.layers[0].requires_grad_(False)
    assert sum(len(g["params"]) for g in optim.make(model, "muon", 1e-3)[0].param_groups) == 7
    with pytest.raises(ValueError, match="known: adamw, muon"):
        optim.make(model, "sgd", 1e-3)
