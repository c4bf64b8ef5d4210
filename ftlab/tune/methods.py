"""The methods of fine-tuning by name: which parameters learn. `attach` prepares any model for any of them."""

import dataclasses
from collections.abc import Callable

from ftlab.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Method:
    """attach(model, **config) -> the model to train: what learns has requires_grad, all else has not.

    adapter: whether the result is a small file beside its base (in PEFT's format) rather than a whole checkpoint.
    """

    name: str
    summary: str
    attach: Callable
    adapter: bool = False


def attach_full(model):
    """Every parameter learns."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


METHODS = {method.name: method for method in (Method("full", "every weight learns", attach_full),)}


def find(name):
    """The Method called `name`; UsageError otherwise."""
    if name not in METHODS:
        raise UsageError(f"no method is called {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def attach(model, method, **config):
    """`model` made ready to be fine-tuned by `method` (a name in METHODS); config as that method takes it."""
    return find(method).attach(model, **config)
