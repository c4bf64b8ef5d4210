"""The methods of fine-tuning by name: which parameters learn. `attach` prepares any model for any of them."""

import dataclasses
import importlib
from collections.abc import Callable

from ftlab.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Method:
    """attach(model, **config) -> the model to train: what learns has requires_grad, all else has not.

    adapter: whether the result is a small file beside its base (in PEFT's format) rather than a whole checkpoint.
    options: the names of config that `ftlab tune` hands on. lr: AdamW's peak rate on the shipped bases, hf_lr: on models
    of transformers. merges: whether the result can be merged into the base's weights.
    """

    name: str
    summary: str
    attach: Callable
    adapter: bool = False
    options: tuple = ()
    lr: float = 3e-3
    hf_lr: float = 2e-4
    merges: bool = False

    @property
    def rate_factor(self):
        """By what a rate for the shipped bases is multiplied for a model of transformers."""
        return self.hf_lr / self.lr


def attach_full(model):
    """Every parameter learns. Raises UsageError where some are the codes of a quantised model, which have no gradient."""
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise UsageError(f"the base is quantised ({name} holds {parameter.dtype} codes), so its weights cannot learn: "
                             "choose lora, or a base that was saved in full precision")
        parameter.requires_grad_(True)
    return model


def lazily(module, function):
    """The function of a module that needs torch, imported when it is first called."""

    def attach(model, **config):
        return getattr(importlib.import_module(module), function)(model, **config)

    return attach


METHODS = {method.name: method for method in (
    Method("full", "every weight learns", attach_full, hf_lr=5e-5),
    Method("lora", "a low-rank update beside the weights (Hu et al. 2021)", lazily("ftlab.tune.lora", "attach_lora"),
           adapter=True, options=("r", "lora_alpha", "lora_dropout", "target_modules"), lr=1e-2, merges=True),
    Method("qlora", "LoRA beside a frozen base in 4 bits (Dettmers et al. 2023)",
           lazily("ftlab.tune.qlora", "attach_qlora"), adapter=True,
           options=("r", "lora_alpha", "lora_dropout", "target_modules"), lr=1e-2),
    Method("adapter", "bottleneck adapters behind attention and MLP (Houlsby et al. 2019)",
           lazily("ftlab.tune.adapter", "attach_adapter"), adapter=True,
           options=("bottleneck_size", "placement"), lr=1e-2, hf_lr=5e-4),
    Method("prefix", "keys and values before every text, through an MLP (Li and Liang 2021)",
           lazily("ftlab.tune.prefix", "attach_prefix"), adapter=True,
           options=("num_virtual_tokens", "encoder_hidden_size", "init_ids"), lr=1e-2, hf_lr=1e-3),
    Method("ptuning", "keys and values before every text, learned as they are (P-tuning v2, Liu et al. 2022)",
           lazily("ftlab.tune.prefix", "attach_ptuning"), adapter=True,
           options=("num_virtual_tokens", "init_ids"), lr=0.3, hf_lr=1e-2),
    Method("prompt", "input vectors before every text (prompt tuning, Lester et al. 2021)",
           lazily("ftlab.tune.prefix", "attach_prompt"), adapter=True,
           options=("num_virtual_tokens", "init_ids"), lr=0.3, hf_lr=3e-2),
)}


def find(name):
    """The Method called `name`; UsageError otherwise."""
    if name not in METHODS:
        raise UsageError(f"no method is called {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def attach(model, method, **config):
    """`model` made ready to be fine-tuned by `method` (a name in METHODS); config as that method takes it."""
    how = find(method)
    model = how.attach(model, **config)
    if hasattr(model, "rate_factor"):
        model.rate_factor = how.rate_factor
    return model
