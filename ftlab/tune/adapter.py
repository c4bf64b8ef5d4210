"""Bottleneck adapters by hand: small networks with a residual connection, put into a frozen model by forward hooks.

    h  <-  h + W_up f(W_down h + b_down) + b_up          Houlsby et al. 2019, figure 2; C -> m -> C with m << C

placement "houlsby": behind attention and behind the MLP of each block, before what they made is added to the stream.
placement "pfeiffer": once, behind the whole block (Pfeiffer et al. 2021), at half the parameters and time.
W_up and b_up start at zero, so the model starts as the base: Houlsby et al. start near identity, this is on it.
Several sets of adapters may sit in one model; one of them, or none, is active.

Left out: training the layer norms beside them (Houlsby et al. do), dropout, AdapterFusion, parallel adapters.
C is hidden_size, m bottleneck_size.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ftlab import numbers
from ftlab.errors import UsageError
from ftlab.model.transformer import Transformer
from ftlab.tune import peft_config

NON_LINEARITIES = {"relu": F.relu, "gelu": F.gelu, "swish": F.silu}
PLACEMENTS = {"houlsby": "swish", "pfeiffer": "relu"}  # and the non-linearity that the package `adapters` gives each
PEFT_TYPE = "BOTTLENECK"  # ours: PEFT has no bottleneck adapters
# The last matrix of attention and of the MLP in a block, as the families of transformers call them.
ATTENTION_OUT = ("self_attn.o_proj", "attn.c_proj", "self_attn.out_proj", "self_attn.dense", "attention.dense")
MLP_OUT = ("mlp.down_proj", "mlp.c_proj", "fc2", "mlp.fc2", "mlp.dense_4h_to_h")


class Bottleneck(nn.Module):
    """h (..., C) -> h + up(f(down(h))) (..., C)."""

    def __init__(self, hidden_size, bottleneck_size, non_linearity="relu"):
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, hidden_size)
        self.non_linearity = non_linearity
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h):
        x = h
        if x.dtype != self.down.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.down.weight.dtype)  # in a base of half precision
        return h + self.up(NON_LINEARITIES[self.non_linearity](self.down(x))).to(h.dtype)


class AdapterSlot(nn.Module):
    """The adapters of one place in the model: one of each set, of which `active` (a name or None) is in use."""

    def __init__(self):
        super().__init__()
        self.sets, self.active = nn.ModuleDict(), None

    def forward(self, h):
        return h if self.active is None else self.sets[self.active](h)


def _through_adapter(module, inputs, output):
    """The hook: what `module` gives passes through its adapter. A plain function, so that copies of a model work."""
    if isinstance(output, tuple):
        return (module.adapter_slot(output[0]), *output[1:])
    return module.adapter_slot(output)


# -- attaching, and sets

def attach_adapter(model, bottleneck_size=16, placement="houlsby", non_linearity=None, name="default"):
    """Freeze `model`, put a new set of adapters called `name` into it and make it the active one; returns the model,
    changed in place.

    For our Transformer and causal LMs of `transformers`. non_linearity: "relu", "gelu" or "swish", by default the
    placement's own. Other sets stay where they are, frozen. Raises UsageError.
    """
    if non_linearity is None and isinstance(placement, str):
        non_linearity = PLACEMENTS.get(placement, next(iter(NON_LINEARITIES)))
    _check(bottleneck_size, placement, non_linearity, name)
    places = _places(model, placement)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    like = next(model.parameters())
    for place in places.values():
        if not hasattr(place, "adapter_slot"):
            place.adapter_slot = AdapterSlot()
            place.adapter_hook = place.register_forward_hook(_through_adapter)
        adapter = Bottleneck(model.config.hidden_size, bottleneck_size, non_linearity)
        place.adapter_slot.sets[name] = adapter.to(like.device, torch.float32)
    _note(model)[name] = {"bottleneck_size": bottleneck_size, "placement": placement, "non_linearity": non_linearity}
    return use_adapter(model, name)


def use_adapter(model, name):
    """Make the set `name` the active one; None: no adapters, the model is the base. Returns the model."""
    if name is not None and name not in _note(model):
        raise UsageError(f"no set of adapters is called {name!r} here; there is {', '.join(_note(model)) or 'none'}")
    for slot in _slots(model).values():
        slot.active = name if name in slot.sets else None
    return model


def adapter_names(model):
    """The names of the sets in `model`, in the order in which they came."""
    return list(_note(model))


def active_adapter(model):
    """The name of the set in use, or None."""
    return next((slot.active for slot in _slots(model).values() if slot.active is not None), None)


def remove_adapters(model):
    """Take all sets and hooks out again: the model is the base, still frozen. Returns it."""
    for module in list(model.modules()):
        if hasattr(module, "adapter_slot"):
            module.adapter_hook.remove()
            del module.adapter_slot, module.adapter_hook
    _note(model).clear()
    return model


def _check(size, placement, non_linearity, name):
    if not isinstance(placement, str) or placement not in PLACEMENTS:
        raise UsageError(f"no placement is called {placement!r}; choose one of {', '.join(PLACEMENTS)}")
    if not isinstance(non_linearity, str) or non_linearity not in NON_LINEARITIES:
        raise UsageError(f"no non_linearity is called {non_linearity!r}; choose one of {', '.join(NON_LINEARITIES)}")
    if not numbers.whole(size):
        raise UsageError(f"bottleneck_size is {size!r}; it is a whole number, and a bottleneck is at least 1 wide")
    if not isinstance(name, str) or not name or "." in name:
        raise UsageError(f"{name!r} cannot name a set of adapters: take a word without a dot")


def _note(model):
    """{name of a set: its config}, kept on the model."""
    if not hasattr(model, "adapter_sets"):
        model.adapter_sets = {}
    return model.adapter_sets


def _slots(model):
    """{name of the place: AdapterSlot}."""
    return {name.removesuffix(".adapter_slot"): module for name, module in model.named_modules()
            if isinstance(module, AdapterSlot)}


def _places(model, placement):
    """{name: module} of what the adapters stand behind: blocks, or the two sub-layers of each block."""
    places = {}
    for prefix, block in _blocks(model).items():
        if placement == "pfeiffer":
            places[prefix] = block
            continue
        for known in (ATTENTION_OUT, MLP_OUT):
            modules = dict(block.named_modules())
            found = next((name for name in known if name in modules), None)
            if found is None:
                raise UsageError(f"a {type(block).__name__} has none of {', '.join(known)}: placement houlsby does not "
                                 "know this kind of model; use placement pfeiffer")
            places[f"{prefix}.{found}"] = modules[found]
    return places


def _blocks(model):
    """{name: module} of the blocks: the ModuleList that has as many entries as the model has layers."""
    layers = model.config.num_layers if isinstance(model, Transformer) else model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers and name.split(".")[-1] in ("layers", "h", "blocks"):
            return {f"{name}.{i}": block for i, block in enumerate(module)}
    raise UsageError(f"no list of {layers} blocks in a {type(model).__name__}: this kind of model is not known here")


# -- the saved form: PEFT's layout, a type of our own

def adapter_state(model):
    """{key: tensor} of the active set. Keys name the place as `transformers` does, so that a set trained on our
    Transformer fits its form there as well."""
    active, head = _active(model), "base_model.model." + ("model." if isinstance(model, Transformer) else "")
    return {f"{head}{place}.adapter.{key}": value.detach().cpu().contiguous().clone()
            for place, slot in _slots(model).items() if active in slot.sets
            for key, value in slot.sets[active].state_dict().items()}


def adapter_config(model):
    """The dict of adapter_config.json for the active set, but for the base's name."""
    return {"peft_type": PEFT_TYPE, "task_type": "CAUSAL_LM", "inference_mode": True} | _note(model)[_active(model)]


def load_adapter_state(model, state, config=None, name="default"):
    """Put the tensors of `adapter_state` into `model` as the set `name`, and make it the active one. config: that of
    `adapter_config`. Raises UsageError where they do not fit; the model is then as it was."""
    if config is not None:
        peft_config.check(config, PEFT_TYPE)
    config, ours = config or {}, isinstance(model, Transformer)
    own = {key.removeprefix("base_model.model.").removeprefix("model." if ours else ""): value
           for key, value in state.items()}
    sizes = {value.shape[0] for key, value in own.items() if key.endswith(".adapter.down.weight") and value.ndim == 2}
    if len(sizes) != 1:
        raise UsageError("these tensors are no set of bottleneck adapters")
    size = sizes.pop()
    if config.get("bottleneck_size", size) != size:
        raise UsageError(f"the adapter's config has bottleneck_size={config['bottleneck_size']!r}, but its tensors are {size} "
                         "wide: mend the config")
    peft_config.check_tensors(state)
    sublayers = any(key.split(".adapter.")[0].endswith(ATTENTION_OUT) for key in own)
    placement = config.get("placement") or ("houlsby" if sublayers else "pfeiffer")
    _check_fit(model, own, size, placement)
    attach_adapter(model, size, placement, config.get("non_linearity"), name)
    with torch.no_grad():
        for place, slot in _slots(model).items():
            for key, value in (slot.sets[name].state_dict() if name in slot.sets else {}).items():
                value.copy_(own[f"{place}.adapter.{key}"])
    return model


def _check_fit(model, own, size, placement):
    """UsageError where the tensors {place and key: tensor} are not those of adapters `size` wide in this model."""
    if not isinstance(placement, str) or placement not in PLACEMENTS:
        raise UsageError(f"no placement is called {placement!r}; choose one of {', '.join(PLACEMENTS)}")
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Bottleneck(model.config.hidden_size, size).state_dict().items()}
    wanted = {f"{place}.adapter.{key}": shape for place in _places(model, placement) for key, shape in shapes.items()}
    wrong = sorted(set(wanted) ^ set(own)) or [key for key in own if own[key].shape != wanted[key]]
    if wrong:
        raise UsageError(f"the adapters do not fit this model ({len(wrong)} tensors differ, such as {wrong[0]}): they "
                         "were made for another base")


def _active(model):
    active = active_adapter(model)
    if active is None:
        raise UsageError("no set of adapters is in use: attach one, or choose one with use_adapter")
    return active
