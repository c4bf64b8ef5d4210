"""LoRA by hand: beside a frozen weight matrix learns the product of two thin ones (Hu et al. 2021, equation 3).

    h = W x + (alpha / r) · B A x          W (n, k) frozen,  A (r, k) random,  B (n, r) zero,  r << n, k

B starts at zero, so the model starts as the base. What is learned is r (n + k) numbers instead of n k, and since
W' = W + (alpha / r) B A is a matrix like W, it can be merged: after that the model costs nothing more than the base.

For our Transformer and for causal LMs of `transformers`, `nn.Linear` and GPT-2's `Conv1D` alike. Names and files are
PEFT's. Left out: LoRA of embeddings and convolutions, biases, other scalings (rsLoRA), other starts, DoRA.
"""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn

from ftlab.errors import UsageError
from ftlab.model.transformer import Transformer

ALL_LINEAR = "all-linear"  # PEFT's word: every linear layer but the head
PREFIX = "base_model.model."  # before each key in PEFT's files
UNKNOWN = {"use_dora": False, "use_rslora": False, "bias": "none", "rank_pattern": {}, "alpha_pattern": {},
           "modules_to_save": None}  # what a file of PEFT's may ask for and this module has not  # fmt: skip


class LoRALinear(nn.Module):
    """A frozen linear layer `base` (k -> n) with a low-rank update beside it. Attributes: lora_A (r, k), lora_B (n, r),
    r, lora_alpha, scale = alpha / r, merged (whether the update stands in base.weight)."""

    def __init__(self, base, r, lora_alpha, lora_dropout=0.0):
        super().__init__()
        k, n = sizes(base)
        like = next(base.parameters(), torch.empty(0))
        kind = {"device": like.device, "dtype": like.dtype if like.is_floating_point() else torch.float32}
        self.base, self.r, self.lora_alpha, self.scale, self.merged = base, r, lora_alpha, lora_alpha / r, False
        self.lora_A = nn.Parameter(torch.empty(r, k, **kind))
        self.lora_B = nn.Parameter(torch.zeros(n, r, **kind))
        self.dropout = nn.Dropout(lora_dropout) if lora_dropout else nn.Identity()
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as nn.Linear starts

    def forward(self, x):
        if self.merged:
            return self.base(x)
        update = F.linear(self.dropout(x), self.lora_A)  # (..., r)
        return self.base(x) + F.linear(self.scale * update, self.lora_B)  # (..., n): W x + (alpha / r) B A x

    def delta(self):
        """(alpha / r) B A in the shape of base.weight: (n, k), or (k, n) in a Conv1D."""
        delta = self.scale * (self.lora_B @ self.lora_A)
        return delta.T if is_conv1d(self.base) else delta

    @property
    def weight(self):
        """W' = W + (alpha / r) B A: what the layer does to its input, dropout aside."""
        return self.base.weight if self.merged else self.base.weight + self.delta()

    @property
    def bias(self):
        """The base's bias, or None."""
        return self.base.bias

    @torch.no_grad()
    def merge(self, sign=1):
        """Add the update to base.weight; sign −1 takes it away again."""
        if self.merged != (sign < 0):
            return
        if self.base.weight.shape != self.delta().shape:
            raise UsageError("the base's weights are quantised: nothing can be added to them; load it unquantised to merge")
        self.base.weight += sign * self.delta()
        self.merged = sign > 0


def is_conv1d(module):
    """Whether this is GPT-2's linear layer, whose weight is (k, n)."""
    return type(module).__name__ == "Conv1D"


def sizes(module):
    """(k, n): inputs and outputs of a linear layer; None of any other module."""
    if is_conv1d(module):
        return tuple(module.weight.shape)
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return module.in_features, module.out_features
    return None


def matrix(module):
    """The weight of a linear layer, adapted or not, as (n, k): Conv1D's transposed."""
    weight = module.weight
    return weight.T if is_conv1d(getattr(module, "base", module)) else weight


def num_parameters(r, k, n):
    """r (n + k): what LoRA of rank r learns beside a layer of k inputs and n outputs."""
    return r * (n + k)


# -- attaching

def attach_lora(model, r=8, lora_alpha=16, lora_dropout=0.0, target_modules=ALL_LINEAR):
    """Freeze `model` and put LoRA beside the chosen linear layers; returns the model, changed in place.

    target_modules: "all-linear" (all but the head), or a list of names such as ["q_proj", "v_proj"]: each chooses every
    layer of which it is the last part of the full name. A starts at random (torch's seed), B at zero. Raises UsageError.
    """
    if not (isinstance(r, int) and r >= 1):
        raise UsageError(f"r is {r!r}; a rank is a whole number, at least 1")
    if not lora_alpha > 0:
        raise UsageError(f"lora_alpha is {lora_alpha!r}; it must be above 0")
    if not 0 <= lora_dropout < 1:
        raise UsageError(f"lora_dropout is {lora_dropout!r}; it is a share, at least 0 and below 1")
    if layers(model):
        raise UsageError("this model has a LoRA already: merge it or detach it first")
    return _insert(model, targets(model, target_modules), lora_alpha, lora_dropout, r)


def targets(model, target_modules=ALL_LINEAR):
    """The full names of the linear layers that `target_modules` chooses, in the model's order. UsageError names those
    that there are where one of them chooses nothing."""
    linear = [name for name, module in model.named_modules() if sizes(module)]
    head = _head(model)
    if target_modules == ALL_LINEAR:
        return [name for name in linear if name != head]
    wanted = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    known = ", ".join(dict.fromkeys(name.split(".")[-1] for name in linear if name != head))
    for one in wanted:
        if not any(_chooses(one, name) for name in linear):
            raise UsageError(f"no linear layer is called {one!r}; this model has {known}, or choose {ALL_LINEAR}")
    chosen = [name for name in linear if any(_chooses(one, name) for one in wanted)]
    if not chosen:
        raise UsageError(f"target_modules is empty; this model has {known}, or choose {ALL_LINEAR}")
    if head in chosen and _tied(model, head):
        raise UsageError(f"{head} shares its weights with the embedding, and a LoRA beside it would part them: leave it out")
    return chosen


def _chooses(one, name):
    return name == one or name.endswith("." + one)


def _head(model):
    """The full name of the layer that makes the logits."""
    head = model.lm_head if isinstance(model, Transformer) else model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def _tied(model, head):
    weight = model.get_submodule(head).weight
    return any(module.weight is weight for module in model.modules() if isinstance(module, nn.Embedding))


def _insert(model, names, lora_alpha, lora_dropout, r):
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # forgetting this trains everything
    for name in names:
        _replace(model, name, LoRALinear(model.get_submodule(name), r, lora_alpha, lora_dropout))
    return model


def _replace(model, name, module):
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def layers(model):
    """{full name: LoRALinear} of a model; empty where there is none."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def detach_lora(model):
    """Take the LoRA off: the model is the base again (or, if it was merged, the merged model), still frozen."""
    for name, layer in layers(model).items():
        _replace(model, name, layer.base)
    return model


# -- merging

def merge(model):
    """Add every update to its weights, W <- W + (alpha / r) B A, for `detach_lora` or `unmerge`; returns the model."""
    for layer in _some(model).values():
        layer.merge()
    return model


def unmerge(model):
    """Take the updates out of the weights again; what floating point rounded away stays lost. Returns the model."""
    for layer in _some(model).values():
        layer.merge(-1)
    return model


@contextlib.contextmanager
def without(model):
    """The base's own answers: inside the block the LoRA is left aside."""
    scales = {layer: layer.scale for layer in _some(model).values()}
    if any(layer.merged for layer in scales):
        raise UsageError("the LoRA is merged into the weights: unmerge it first")
    for layer in scales:
        layer.scale = 0.0
    try:
        yield model
    finally:
        for layer, scale in scales.items():
            layer.scale = scale


def _some(model):
    found = layers(model)
    if not found:
        raise UsageError("this model has no LoRA: attach one first")
    return found


# -- PEFT's form

def adapter_state(model):
    """{PEFT's key: tensor}: A and B of every layer. Our Transformer's layers stand under `transformers`' names."""
    inside = PREFIX + ("model." if isinstance(model, Transformer) else "")
    return {f"{inside}{name}.{matrix}.weight": getattr(layer, matrix).detach().cpu().contiguous().clone()
            for name, layer in _some(model).items() for matrix in ("lora_A", "lora_B")}


def adapter_config(model):
    """The dict of PEFT's adapter_config.json, but for the base's name."""
    found = _some(model)
    one = next(iter(found.values()))
    short = list(dict.fromkeys(name.split(".")[-1] for name in found))
    every = [name for name, module in model.named_modules() if name in found or sizes(module) and not _inside(name)]
    exact = all(name in found for name in every if any(_chooses(s, name) for s in short))
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "r": one.r,
            "lora_alpha": one.lora_alpha, "lora_dropout": getattr(one.dropout, "p", 0.0), "bias": "none",
            "target_modules": short if exact else list(found), "fan_in_fan_out": is_conv1d(one.base),
            "init_lora_weights": True, "use_rslora": False, "use_dora": False}  # fmt: skip


def _inside(name):
    return name.endswith(".base")


def load_adapter_state(model, state, config=None):
    """Put the tensors of `adapter_state` on `model`, in the place of a LoRA that is there: adapters swap so.

    config: that of `adapter_config`; None keeps the present alpha and dropout. Raises UsageError where they do not fit.
    """
    present = next(iter(layers(model).values()), None)
    if config is None and present is None:
        raise UsageError("this model has no LoRA yet: give the adapter's config, too")
    settings = config or {"lora_alpha": present.lora_alpha, "lora_dropout": getattr(present.dropout, "p", 0.0)}
    for name, plain in UNKNOWN.items():
        if settings.get(name, plain) not in (plain, None):
            raise UsageError(f"the adapter was made with {name}={settings[name]!r}, which only PEFT knows: load it there")
    if present is not None and present.merged:
        raise UsageError("the present LoRA is merged into the weights: unmerge it before another takes its place")
    pairs = _pairs(model, state)
    detach_lora(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, (a, b) in pairs.items():
        layer = LoRALinear(model.get_submodule(name), len(a), settings["lora_alpha"], settings.get("lora_dropout") or 0.0)
        with torch.no_grad():
            layer.lora_A.copy_(a)
            layer.lora_B.copy_(b)
        _replace(model, name, layer)
    return model


def _pairs(model, state):
    """{full name: (A, B)} of a state, all of which fit linear layers of the model."""
    inside = PREFIX + ("model." if isinstance(model, Transformer) else "")
    own = {key.removeprefix(inside).removesuffix(".weight"): value for key, value in state.items()}
    names = [key.removesuffix(".lora_A") for key in own if key.endswith(".lora_A")]
    if not names or {f"{name}.{matrix}" for name in names for matrix in ("lora_A", "lora_B")} != set(own):
        raise UsageError("these tensors are no LoRA: each layer needs its lora_A and lora_B, and nothing else belongs there")
    linear = {name.removesuffix(".base"): sizes(module) for name, module in model.named_modules() if sizes(module)}
    pairs = {name: (own[f"{name}.lora_A"], own[f"{name}.lora_B"]) for name in names}
    for name, (a, b) in pairs.items():
        if name not in linear or (a.shape[1], b.shape[0]) != linear[name] or len(a) != b.shape[1]:
            raise UsageError(f"the LoRA does not fit this model (such as at {name}): it was made for another base")
    return pairs
