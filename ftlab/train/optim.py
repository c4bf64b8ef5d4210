"""Optimizers: AdamW from PyTorch, and a Muon whose orthogonalisation runs in float32.

`torch.optim.Muon` orthogonalises in bfloat16, which is some 170 times slower than float32 on a CPU without bfloat16
units; the steps here are the same in float32.
"""

import torch

from ftlab.numbers import check_known, check_real

KNOWN = ("adamw", "muon")


@torch.no_grad()
def orthogonalize(matrices, steps=5):
    """Nearest semi-orthogonal matrices, roughly, of a stack (N, rows, columns): all singular values near 1.

    Newton–Schulz iteration with the quintic coefficients of Jordan et al. 2024 (Muon), which trade exactness
    (values end between about 0.7 and 1.2) for speed.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT  # the short side squared, so the products are as small as can be
        # a·x + (b·gram + c·gram²)·x, each sum taken up by the product beside it
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest orthogonal matrix, for the hidden weight matrices (Jordan et al. 2024).

    Matrices of one shape are stacked, so that a model costs few products. The update is scaled by
    sqrt(max(1, rows / columns)), which keeps its effect on outputs alike over shapes. Not for embeddings, norms, heads.
    """

    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for shape, params in by_shape.items():
                self._update(group, shape, params)

    def _update(self, group, shape, params):
        momenta = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
        for p, momentum in zip(params, momenta):
            momentum.lerp_(p.grad, 1 - group["momentum"])
        grads = torch.stack([p.grad for p in params])
        # Nesterov: look ahead along the momentum
        updates = orthogonalize(grads.lerp_(torch.stack(momenta), group["momentum"]))
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        for p, update in zip(params, updates):
            if group["weight_decay"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"] * scale)


def hidden_matrices(model):
    """The parameters Muon is made for: matrices inside the layers (no embedding, no head, no norm)."""
    return [p for name, p in model.named_parameters() if p.ndim == 2 and p.requires_grad and "layers." in name]


def make(model, name, lr, muon_lr=0.02, weight_decay=0.0, betas=(0.9, 0.95)):
    """A list of optimizers for `model`: "adamw" one for all, "muon" Muon for hidden matrices and AdamW for the rest.

    lr is AdamW's peak rate, muon_lr Muon's. Weight decay falls on matrices only, as is usual.
    """
    check_known("optimizer", name, KNOWN)
    for what, value in (("lr", lr), ("muon_lr", muon_lr), ("weight_decay", weight_decay)):
        check_real(what, value, least=0)
    params = [p for p in model.parameters() if p.requires_grad]
    if name == "adamw":
        return [_adamw(params, lr, weight_decay, betas)]
    hidden = hidden_matrices(model)
    chosen = {id(p) for p in hidden}
    rest = [p for p in params if id(p) not in chosen]
    return [Muon(hidden, lr=muon_lr, weight_decay=weight_decay), _adamw(rest, lr, weight_decay, betas)]


def _adamw(params, lr, weight_decay, betas):
    groups = [{"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
              {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)
