"""Sparsity by hand: which weights may go, which activations matter, and updates that touch few weights.

    magnitude   the smallest |w| of each matrix go                              (Han et al. 2015)
    Wanda       the smallest |w_ij| · ‖x_j‖ of each output's row go             (Sun et al. 2023, equation 1)
    2:4         of four neighbours in a row two go: what sparse tensor cores compute with  (Mishra et al. 2021)

A mask is a bool tensor in the shape of its weight W (n, k): n outputs, k inputs; True where the weight stays.
Left out: weights that make up for those that go (SparseGPT), calibrating each block behind blocks already pruned, and a
different share for each matrix.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ftlab.errors import UsageError
from ftlab.tune import lora

METHODS = ("magnitude", "wanda", "magnitude 2:4", "wanda 2:4")


# -- masks

def magnitude_mask(W, sparsity):
    """The mask of W (n, k) without its round(sparsity · n · k) entries of smallest size."""
    going = W.abs().flatten().topk(_count(sparsity, W.numel()), largest=False).indices
    mask = torch.ones(W.numel(), dtype=torch.bool, device=W.device)
    mask[going] = False
    return mask.view(W.shape)


def wanda_score(W, norms):
    """|w_ij| · ‖x_j‖₂ (n, k): what output i loses, about, without input j. norms (k,): of each input over all tokens."""
    return W.abs() * norms


def row_mask(score, sparsity):
    """The mask (n, k) without the round(sparsity · k) lowest scores of each row: every output loses as many inputs."""
    going = score.argsort(dim=1, stable=True)[:, :_count(sparsity, score.shape[1])]  # (n, going)
    return torch.ones_like(score, dtype=torch.bool).scatter(1, going, False)


def two_four_mask(score):
    """The mask (n, k) with the two highest scores of every four neighbours along a row; k a multiple of 4."""
    n, k = score.shape
    if k % 4:
        raise UsageError(f"{k} inputs are no multiple of 4: a 2:4 mask needs whole groups of four")
    groups = score.reshape(n, k // 4, 4)
    going = groups.topk(2, dim=2, largest=False).indices  # (n, k/4, 2)
    return torch.ones_like(groups, dtype=torch.bool).scatter(2, going, False).view(n, k)


def _count(sparsity, count):
    if not 0 <= sparsity < 1:
        raise UsageError(f"sparsity is {sparsity!r}; it is the share of the weights that go, at least 0 and below 1")
    return round(sparsity * count)


# -- models

def prunable(model):
    """{full name: layer} of every linear layer but the head: what is pruned, as papers do."""
    found = {name: model.get_submodule(name) for name in lora.targets(model)}
    if any(lora.is_conv1d(layer) for layer in found.values()):
        raise UsageError("GPT-2's layers hold their weights the other way round; prune a model with nn.Linear layers")
    return found


@torch.no_grad()
def input_norms(model, rows):
    """{name: ‖x_j‖₂ (k,)} of what each prunable layer reads, over all tokens of rows (lists of ids).

    The rows go through one by one, so that no padding is counted among the tokens.
    """
    squares, handles = {}, []
    for name, layer in prunable(model).items():
        def add(module, inputs, name=name):
            x = inputs[0].flatten(0, -2)  # (tokens, k)
            squares[name] = squares.get(name, 0) + x.square().sum(0)
        handles.append(layer.register_forward_pre_hook(add))
    device = next(model.parameters()).device
    try:
        for ids in rows:
            model(torch.tensor([ids], device=device))
    finally:
        for handle in handles:
            handle.remove()
    if not squares:
        raise UsageError("no rows to calibrate on: give at least one text")
    return {name: total.sqrt() for name, total in squares.items()}


def mask_of(W, method, sparsity=0.5, norms=None):
    """The mask of one weight by a method of METHODS; sparsity is not used by 2:4, norms (k,) by Wanda alone."""
    if method not in METHODS:
        raise UsageError(f"no way of pruning is called {method!r}; choose one of {', '.join(METHODS)}")
    if method.startswith("wanda") and norms is None:
        raise UsageError("Wanda needs the norms of the inputs: give `norms` (see input_norms)")
    if method == "magnitude":
        return magnitude_mask(W, sparsity)
    score = wanda_score(W, norms) if method.startswith("wanda") else W.abs()
    return two_four_mask(score) if method.endswith("2:4") else row_mask(score, sparsity)


@torch.no_grad()
def masks(model, method, sparsity=0.5, norms=None):
    """{name: mask} of every prunable layer, each with the same share; norms: those of `input_norms`, for Wanda."""
    return {name: mask_of(layer.weight, method, sparsity, None if norms is None else norms[name])
            for name, layer in prunable(model).items()}


@torch.no_grad()
def apply(model, masks):
    """Set what the masks leave out to zero, in place; returns the model."""
    for name, mask in masks.items():
        _weight(model, name).mul_(mask)
    return model


def sparsity(model):
    """The share of exact zeros among the weights of the prunable layers."""
    weights = [layer.weight for layer in prunable(model).values()]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def _weight(model, name):
    layer = model.get_submodule(name)
    return (layer.base if isinstance(layer, lora.LoRALinear) else layer).weight


# -- two of four, packed

def pack_two_four(W):
    """(values (n, k/2), places (n, k/2) in 0 … 3) of a 2:4 sparse W (n, k): what is kept, and where in its four.

    The smaller place stands first. A group with fewer than two numbers in it is filled up with zeros from its end.
    """
    n, k = W.shape
    if k % 4:
        raise UsageError(f"{k} inputs are no multiple of 4: a 2:4 mask needs whole groups of four")
    groups = W.reshape(n, k // 4, 4)
    if ((groups != 0).sum(-1) > 2).any():
        raise UsageError("some four neighbours hold more than two numbers: prune by a 2:4 mask first")
    # A number counts 4 and its place decides among zeros: the later one is taken.
    rank = (groups != 0) * 4 + torch.arange(4, device=W.device)
    places = rank.topk(2, dim=-1).indices.sort(dim=-1).values  # (n, k/4, 2)
    return groups.gather(2, places).flatten(1), places.flatten(1)


def unpack_two_four(values, places):
    """W (n, k) of `pack_two_four`."""
    n, half = values.shape
    W = values.new_zeros(n, half // 2, 4)
    return W.scatter(2, places.view(n, -1, 2), values.view(n, -1, 2)).flatten(1)


def two_four_bits(bits=16):
    """Bits for each weight of the dense matrix: half of the numbers, and two bits of place for each of them."""
    return bits / 2 + 2 / 2


# -- training what is pruned, and pruning what is trained

def keep(model, masks):
    """A callback for `train` that puts the zeros back after every step of the optimizer."""
    return lambda event: apply(model, masks) if event["kind"] == "step" else None


class MaskedLoRALinear(lora.LoRALinear):
    """LoRA that learns as it will be used: W' = W + mask ⊙ (alpha / r) B A, so merging keeps every zero of W."""

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)

    def delta(self):
        """mask ⊙ (alpha / r) B A, (n, k)."""
        return self.mask * super().delta()


def mask_lora(model, masks):
    """Make the LoRA of a model (no dropout) respect masks; returns the model."""
    for name, layer in lora.layers(model).items():
        if not isinstance(layer.dropout, nn.Identity):
            raise UsageError("a masked LoRA has no dropout: attach it with lora_dropout=0")
        layer.register_buffer("mask", masks[name].to(layer.base.weight.dtype), persistent=False)
        layer.__class__ = MaskedLoRALinear
    return model


def top_updates(before, after, count):
    """{name: mask} of the `count` entries, over all matrices together, that moved most: where a sparse update goes.

    before, after: {name: tensor}. So Ansell et al. (2022) choose them: tune everything, look, go back, tune those.
    """
    moved = {name: (after[name] - before[name]).abs() for name in before}
    every = torch.cat([m.flatten() for m in moved.values()])
    if not 0 < count <= len(every):
        raise UsageError(f"count is {count}; there are {len(every)} entries to choose from")
    chosen = torch.zeros_like(every, dtype=torch.bool)
    chosen[every.topk(count).indices] = True
    parts = chosen.split([m.numel() for m in moved.values()])
    return {name: part.view(m.shape) for (name, m), part in zip(moved.items(), parts, strict=True)}


def learn_only(model, masks):
    """Let only the entries learn that the masks {name of the parameter: mask} choose; returns handles to `.remove()`.

    Every gradient is multiplied by its mask, or by zero where there is none. Weight decay would move the others: none.
    """
    chosen = [(p, masks.get(name, 0)) for name, p in model.named_parameters()]
    return [p.register_hook(lambda gradient, mask=mask: gradient * mask) for p, mask in chosen]


# -- activations

class SquaredReLU(nn.Module):
    """down(relu(up(x))²) (So et al. 2021, Primer): an MLP without a gate, whose activations are exact zeros or not."""

    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.relu(self.up_proj(x)).square())


def with_squared_relu(model):
    """Give a new Transformer MLPs of SquaredReLU with as many parameters as its SwiGLU had (3/2 of the inner width)."""
    for layer in model.layers:
        k, inner = layer.mlp.up_proj.in_features, layer.mlp.up_proj.out_features
        layer.mlp = SquaredReLU(k, 3 * inner // 2)
        layer.mlp.apply(model._init_weights)
    return model


@torch.no_grad()
def activations(model, rows):
    """For each layer what its `down_proj` reads, (tokens, I), over rows (lists of ids)."""
    found, handles = [[] for _ in model.layers], []
    for layer, kept in zip(model.layers, found, strict=True):
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(
            lambda module, inputs, kept=kept: kept.append(inputs[0].flatten(0, -2))))
    try:
        for ids in rows:
            model(torch.tensor([ids], device=model.embed_tokens.weight.device))
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(kept) for kept in found]


def share_of_zeros(a):
    """The share of exact zeros in a tensor."""
    return (a == 0).float().mean().item()


def share_below(a, part=0.01):
    """The share of the entries that are smaller than `part` of the largest, by size."""
    return (a.abs() < part * a.abs().max()).float().mean().item()


# -- what a picture shows

def histogram(W, mask, bins=40):
    """(edges, kept, pruned): numbers of weights by size |w|, in `bins` bins up to the 99.5th percentile, in the last all
    above. Lists; edges has one entry more."""
    sizes = W.abs().flatten()
    top = sizes.quantile(0.995).item()
    which = (sizes / top * bins).long().clamp(max=bins - 1)
    kept, pruned = (torch.bincount(which[chosen], minlength=bins).tolist() for chosen in (mask.flatten(), ~mask.flatten()))
    return [top * i / bins for i in range(bins + 1)], kept, pruned
