"""LoRA by hand: beside a frozen weight matrix learns the product of two thin ones (Hu et al. 2021, equation 3).

    h = W x + (alpha / r) · B A x          W (n, k) frozen,  A (r, k) random,  B (n, r) zero,  r << n, k

B starts at zero, so the model starts as the base. What is learned is r (n + k) numbers instead of n k, and since
W' = W + (alpha / r) B A is a matrix like W, it can be merged: after that the model costs nothing more than the base.

For our Transformer and for causal LMs of `transformers`, `nn.Linear` and GPT-2's `Conv1D` alike. Names and files are
PEFT's. Left out: LoRA of embeddings and convolutions, biases, other scalings (rsLoRA), other starts, DoRA.
"""

import collections
import contextlib
import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from ftlab import numbers
from ftlab.errors import UsageError
from ftlab.model.transformer import Transformer
from ftlab.tune import peft_config

ALL_LINEAR = "all-linear"  # PEFT's word: every linear layer but the head
PREFIX = "base_model.model."  # before each key in PEFT's files
HEAD = "lm_head"  # beside transformers' "model", in which all other layers of our Transformer lie
SOME_EXPERTS = 0.01  # share of the weights from which on experts that no layer holds are spoken of


class LoRALinear(nn.Module):
    """A frozen linear layer `base` (k -> n) with a low-rank update beside it. Attributes: lora_A (r, k), lora_B (n, r),
    r, lora_alpha, scale = alpha / r, merged (whether the update stands in base.weight)."""

    def __init__(self, base, r, lora_alpha, lora_dropout=0.0):
        super().__init__()
        k, n = sizes(base)
        like = next(base.parameters(), torch.empty(0))
        # What learns has float32 at least, also beside a base in half precision, as in PEFT: small steps are lost there.
        kind = {"device": like.device, "dtype": torch.float64 if like.dtype == torch.float64 else torch.float32}
        self.base, self.r, self.lora_alpha, self.scale, self.merged = base, r, lora_alpha, lora_alpha / r, False
        self.lora_A = nn.Parameter(torch.empty(r, k, **kind))
        self.lora_B = nn.Parameter(torch.zeros(n, r, **kind))
        self.dropout = nn.Dropout(lora_dropout) if lora_dropout else nn.Identity()
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as nn.Linear starts

    def forward(self, x):
        if self.merged:
            return self.base(x)
        if x.dtype != self.lora_A.dtype and not torch.is_autocast_enabled(x.device.type):
            return self._forward_of_another_dtype(x)
        update = F.linear(self.dropout(x), self.lora_A)  # (..., r)
        return self.base(x) + F.linear(self.scale * update, self.lora_B)  # (..., n): W x + (alpha / r) B A x

    def _forward_of_another_dtype(self, x):
        """The same where the base computes in half precision: the update in the LoRA's own, the sum in the base's."""
        update = F.linear(self.dropout(x.to(self.lora_A.dtype)), self.lora_A)
        y = self.base(x)
        return y + F.linear(self.scale * update, self.lora_B).to(y.dtype)

    def delta(self):
        """(alpha / r) B A in the shape of base.weight: (n, k), or (k, n) in a Conv1D."""
        delta = self.scale * (self.lora_B @ self.lora_A)
        return delta.T if is_conv1d(self.base) else delta

    @property
    def weight(self):
        """W' = W + (alpha / r) B A: what the layer does to its input, dropout aside."""
        return self.base.weight if self.merged else self.base.weight + self.delta().to(self.base.weight.dtype)

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
    check_numbers(r, lora_alpha, lora_dropout)
    if layers(model):
        raise UsageError("this model has a LoRA already: merge it or detach it first")
    return _insert(model, targets(model, target_modules), lora_alpha, lora_dropout, r)


def check_numbers(r, lora_alpha, lora_dropout):
    """Raise UsageError where one of them can be no rank, no alpha (a finite number above 0) or no dropout."""
    if not numbers.whole(r):
        raise UsageError(f"r is {r!r}; a rank is a whole number, at least 1")
    if not (numbers.finite(lora_alpha) and lora_alpha > 0):
        raise UsageError(f"lora_alpha is {lora_alpha!r}; it must be a number above 0")
    if not (numbers.finite(lora_dropout) and 0 <= lora_dropout < 1):
        raise UsageError(f"lora_dropout is {lora_dropout!r}; it is a share, at least 0 and below 1")


def targets(model, target_modules=ALL_LINEAR):
    """The full names of the linear layers that `target_modules` chooses, in the model's order. UsageError names those
    that there are where one of them chooses nothing, or where "all-linear" would pass over a model's experts."""
    linear = [name for name, module in model.named_modules() if sizes(module)]
    head = _head(model)
    if target_modules == ALL_LINEAR:
        _check_experts(model)
        return [name for name in linear if name != head]
    wanted = [target_modules] if isinstance(target_modules, str) else target_modules
    if not (isinstance(wanted, (list, tuple, set)) and all(isinstance(one, str) for one in wanted)):
        raise UsageError(f"target_modules is {target_modules!r}; it must be a list of names of layers, or {ALL_LINEAR}")
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


def _check_experts(model):
    """UsageError where a mixture of experts keeps their weights in tensors of its own, as transformers 5 does: no layer
    is there that a LoRA could be put beside, or that could be quantised."""
    held = dict(model.named_parameters())
    layers = {f"{name}.weight" for name, module in model.named_modules()
              if sizes(module) or isinstance(module, (nn.Embedding, nn.modules.conv._ConvNd))}
    experts = [name for name, value in held.items() if name not in layers and "lora_" not in name
               and (value.ndim == 3 or value.ndim == 2 and ".experts." in name)]
    share = sum(held[name].numel() for name in experts) / max(1, sum(value.numel() for value in held.values()))
    if share >= SOME_EXPERTS:
        raise UsageError(f"{share:.0%} of this model's weights are experts that no linear layer holds (such as {experts[0]}): "
                         f"{ALL_LINEAR} would leave them out, and 4 bits are not for them; choose LoRA with target_modules "
                         "that names layers, such as q_proj and v_proj, or another base")


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
    return {f"{PREFIX}{_outside(model, name)}.{matrix}.weight": getattr(layer, matrix).detach().cpu().contiguous().clone()
            for name, layer in _some(model).items() for matrix in ("lora_A", "lora_B")}


def _outside(model, name):
    """The name that a layer of `model` has in transformers' model."""
    return name if not isinstance(model, Transformer) or name == HEAD else f"model.{name}"


def adapter_config(model):
    """The dict of PEFT's adapter_config.json, but for the base's name. Layers of another rank or alpha than most are named
    in rank_pattern and alpha_pattern."""
    found = _some(model)
    one = next(iter(found.values()))
    short = list(dict.fromkeys(name.split(".")[-1] for name in found))
    every = [name for name, module in model.named_modules() if name in found or sizes(module) and not _inside(name)]
    exact = all(name in found for name in every if any(_chooses(s, name) for s in short))
    r, ranks = _usual(model, {name: layer.r for name, layer in found.items()})
    alpha, alphas = _usual(model, {name: layer.lora_alpha for name, layer in found.items()})
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "r": r, "rank_pattern": ranks,
            "lora_alpha": alpha, "alpha_pattern": alphas, "lora_dropout": getattr(one.dropout, "p", 0.0), "bias": "none",
            "target_modules": short if exact else list(found), "fan_in_fan_out": is_conv1d(one.base),
            "init_lora_weights": True, "use_rslora": False, "use_dora": False}  # fmt: skip


def _usual(model, values):
    """(the commonest of the values {name: value}, {name in transformers' model: value} of the layers that have another)."""
    usual = collections.Counter(values.values()).most_common(1)[0][0]
    return usual, {_outside(model, name): value for name, value in values.items() if value != usual}


def _inside(name):
    return name.endswith(".base")


def load_adapter_state(model, state, config=None):
    """Put the tensors of `adapter_state` on `model`, in the place of a LoRA that is there: adapters swap so.

    config: that of `adapter_config`, or PEFT's; None keeps the present alpha and dropout. Raises UsageError where they do
    not fit or the config asks for what is not done here; the model is then as it was.
    """
    present = next(iter(layers(model).values()), None)
    if config is None and present is None:
        raise UsageError("this model has no LoRA yet: give the adapter's config, too")
    if config is not None:
        peft_config.check(config, "LORA")
    if any(layer.merged for layer in layers(model).values()):
        raise UsageError("the present LoRA is merged into the weights: unmerge it before another takes its place")
    pairs = _pairs(model, state)
    if config is None:
        alphas, dropout = dict.fromkeys(pairs, present.lora_alpha), getattr(present.dropout, "p", 0.0)
    else:
        alphas, dropout = _alphas(model, pairs, config), peft_config.lora_dropout(config)
    detach_lora(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, (a, b) in pairs.items():
        layer = LoRALinear(model.get_submodule(name), len(a), alphas[name], dropout)
        with torch.no_grad():
            layer.lora_A.copy_(a)
            layer.lora_B.copy_(b)
        _replace(model, name, layer)
    return model


def _alphas(model, pairs, config):
    """{full name: alpha}, where the config chooses just these layers and gives them the ranks that they have."""
    own = {_outside(model, name): name for name in _linear(model)}
    head = _head(model)
    wanted = peft_config.targeted(config, own, None if head is None else _outside(model, head))
    found = {_outside(model, name) for name in pairs}
    if wanted is not None and wanted - found:
        raise UsageError(f"the adapter's config chooses {len(wanted)} layers of this model, its tensors are for {len(found)} "
                         f"(none for {min(wanted - found)}): it is incomplete, or made for another base")
    if wanted is not None and found - wanted:
        raise UsageError(f"the adapter holds a LoRA for {min(found - wanted)}, which its config does not choose "
                         "(target_modules, exclude_modules, layers_to_transform): PEFT would leave it aside; mend the config")
    alphas = {}
    for name, (a, _) in pairs.items():
        r, alphas[name] = peft_config.rank_and_alpha(config, _outside(model, name))
        if r != len(a):
            raise UsageError(f"the adapter's config gives {_outside(model, name)} the rank {r} (r, 8 where it is silent, or "
                             f"rank_pattern), but its tensors have the rank {len(a)}: mend the config")
    return alphas


def _linear(model):
    """{full name: (k, n)} of the linear layers, with a LoRA or without."""
    return {name.removesuffix(".base"): sizes(module) for name, module in model.named_modules() if sizes(module)}


FOREIGN_KEYS = {
    "lora_magnitude_vector": "the magnitudes of DoRA", "lora_embedding_": "a LoRA of an embedding",
    "lora_B.bias": "a bias of LoRA (lora_bias)", "modules_to_save": "a layer trained as a whole (modules_to_save)",
    "token_adapter": "trained tokens (trainable_token_indices)", "lora_diag": "the singular values of KaSA",
    "lora_A.default.": "a key with the adapter's name in it: save it by save_pretrained, which takes it out",
    "lora_B.default.": "a key with the adapter's name in it: save it by save_pretrained, which takes it out",
}  # parts of keys in PEFT's files, and what they are


def _pairs(model, state):
    """{full name: (A, B)} of a state, all of which fit linear layers of the model."""
    found, others = {}, {}
    for key, value in state.items():
        layer = re.fullmatch(re.escape(PREFIX) + r"(.+)\.(lora_[AB])\.weight", key)
        if layer:
            found.setdefault(layer[1], {})[layer[2]] = value
        else:
            others[key] = value
    others = [key for key, value in others.items() if not _is_the_bases(model, key, value)]
    lacking = [name for name, matrices in found.items() if len(matrices) < 2]
    if others or lacking or not found:
        hint = next((what for part, what in FOREIGN_KEYS.items() if any(part in key for key in others)), None)
        some = others[:1] or [f"{PREFIX}{name}" for name in lacking[:1]] or ["there are none"]
        raise UsageError("these tensors are no LoRA: each layer needs its lora_A and lora_B, and nothing else belongs there "
                         f"({some[0]}{f': {hint}' if hint else ''})")
    linear = _linear(model)
    own = {_outside(model, name): name for name in linear}
    pairs = {}
    for outside, matrices in found.items():
        a, b = matrices["lora_A"], matrices["lora_B"]
        name = own.get(outside)
        if name is None or a.ndim != 2 or b.ndim != 2 or (a.shape[1], b.shape[0]) != linear[name] or len(a) != b.shape[1]:
            raise UsageError(f"the LoRA does not fit this model (such as at {outside}): it was made for another base")
        pairs[name] = a, b
    peft_config.check_tensors(state)
    head = _head(model)
    if head in pairs and _tied(model, head):
        raise UsageError(f"the adapter holds a LoRA for {head}, which shares its weights with the embedding in this model: "
                         "they would part when it is merged; train it without that layer, or use PEFT")
    return pairs


def _is_the_bases(model, key, value):
    """Whether this is the base's own weight, which PEFT writes beside a LoRA of the head. UsageError where the file
    brings another one: a vocabulary that has grown, or an embedding that was trained."""
    names = {_outside(model, name): name for name, module in model.named_modules()
             if sizes(module) or isinstance(module, nn.Embedding)}
    outside = key.removeprefix(PREFIX).removesuffix(".weight").removesuffix(".base_layer")
    if outside not in names or not key.endswith(".weight") or "lora_" in key:
        return False
    own = getattr(model.get_submodule(names[outside]), "base", model.get_submodule(names[outside])).weight.detach().cpu()
    # saved by a base that was loaded in half precision, it is a rounded copy
    if own.shape == value.shape and any(torch.equal(value.float(), own.to(dtype).float())
                                        for dtype in (torch.float32, torch.bfloat16, torch.float16)):
        return True
    raise UsageError(f"the adapter brings its own {outside}.weight, {tuple(value.shape)} beside the base's {tuple(own.shape)}, "
                     f"with other numbers (trained, or of a grown vocabulary), which only PEFT knows: {peft_config.REMEDY}")
