"""Adapters in and out: a small file beside its base, in PEFT's format.

adapter_model.safetensors holds what was learned, adapter_config.json how it was. `peft.PeftModel.from_pretrained` loads
both onto the form of the base in `transformers`; bottleneck adapters, which PEFT has not, only `load_adapter` here.
"""

import importlib
import pathlib

import torch

from ftlab import files
from ftlab.errors import UsageError
from ftlab.text.tokenizer import Tokenizer

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MODULES = {"LORA": "ftlab.tune.lora", "PREFIX_TUNING": "ftlab.tune.prefix", "PROMPT_TUNING": "ftlab.tune.prefix",
           "BOTTLENECK": "ftlab.tune.adapter"}  # peft_type -> the module that knows it  # fmt: skip


def module_of(model):
    """The module (of ftlab.tune) whose adapter is on the model. UsageError where there is none."""
    if hasattr(model, "kv_prefix"):
        return importlib.import_module(MODULES["PREFIX_TUNING"])
    if getattr(model, "adapter_sets", None):
        return importlib.import_module(MODULES["BOTTLENECK"])
    lora = importlib.import_module(MODULES["LORA"])
    if lora.layers(model):
        return lora
    raise UsageError("there is no adapter on this model: attach one by a method first")


def save_adapter(model, folder, base=None, tokenizer=None, extra=None):
    """Write the adapter that is on `model` to the new folder `folder`, whole or not at all; returns its bytes.

    base: the name or folder of the base, kept in the config. tokenizer (ours or of transformers) and extra, {file name:
    text}, are written beside it. The bytes are those of the weights' file alone.
    """
    from safetensors.torch import save as to_bytes

    module = module_of(model)
    data = to_bytes(module.adapter_state(model), metadata={"format": "pt"})
    with files.atomic_folder(folder) as temporary:
        if tokenizer is not None:
            (tokenizer.save if isinstance(tokenizer, Tokenizer) else tokenizer.save_pretrained)(temporary)
            files.share(temporary)
        files.atomic_write_bytes(temporary / WEIGHTS, data)
        config = module.adapter_config(model) | {"base_model_name_or_path": None if base is None else str(base)}
        files.write_json(temporary / CONFIG, config)
        for name, text in (extra or {}).items():
            files.atomic_write_text(temporary / name, text)
    return len(data)


def read_adapter(folder):
    """(config, {key: tensor}) of a saved adapter. Raises UsageError, one line, where there is none or it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    try:
        config, state = files.read_json(folder / CONFIG), load_file(str(folder / WEIGHTS))
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{folder}: no adapter there, or a damaged one: {CONFIG} and {WEIGHTS} are needed ({error})"
                         ) from error  # fmt: skip
    if config.get("peft_type") not in MODULES:
        raise UsageError(f"{folder}: peft_type {config.get('peft_type')!r} is not known here; there are {', '.join(MODULES)}")
    return config, {key: value.to(torch.float32) for key, value in state.items()}


def load_adapter(model, folder):
    """Put the adapter saved in `folder` on `model` (its base, or one with another adapter of this kind, which it
    replaces); returns the model, changed in place. Raises UsageError where it does not fit."""
    config, state = read_adapter(folder)
    return importlib.import_module(MODULES[config["peft_type"]]).load_adapter_state(model, state, config)
