"""Adapters in and out: a small file beside its base, in PEFT's format.

adapter_model.safetensors holds what was learned, adapter_config.json how it was. `peft.PeftModel.from_pretrained` loads
both onto the form of the base in `transformers`; bottleneck adapters, which PEFT has not, only `load_adapter` here.
"""

import importlib
import pathlib
import pickle

import torch

from ftlab import files
from ftlab.errors import UsageError
from ftlab.model.hub import ADAPTER_CONFIG
from ftlab.text.tokenizer import Tokenizer

WEIGHTS, CONFIG = "adapter_model.safetensors", ADAPTER_CONFIG
OLD_WEIGHTS = "adapter_model.bin"
MODULES = {"LORA": "ftlab.tune.lora", "PREFIX_TUNING": "ftlab.tune.prefix", "PROMPT_TUNING": "ftlab.tune.prefix",
           "P_TUNING": "ftlab.tune.prefix", "BOTTLENECK": "ftlab.tune.adapter"}  # peft_type -> its module  # fmt: skip


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
    """(config, {key: tensor}) of a saved adapter. Raises UsageError, one line, where there is none or it is damaged.

    Tensors of half precision become float32. Weights that PEFT wrote before it took to safetensors are read as well.
    """
    from safetensors import SafetensorError

    folder = pathlib.Path(folder)
    try:
        config = files.read_json(folder / CONFIG)
        state = _read_weights(folder)
    except (OSError, ValueError, RecursionError, SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{folder}: no adapter there, or a damaged one: {CONFIG} and {WEIGHTS} are needed ({reason})"
                         f"{_inside(folder)}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{folder}: {CONFIG} holds {type(config).__name__}, not a dict of settings: save the adapter again")
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in MODULES:
        raise UsageError(f"{folder}: peft_type {kind!r} is not known here; there are {', '.join(MODULES)}")
    half = (torch.float16, torch.bfloat16)
    return config, {key: value.float() if value.dtype in half else value for key, value in state.items()}


def _read_weights(folder):
    """{key: tensor} of an adapter's weights: safetensors, as PEFT too prefers it, else the pickle of tensors of old."""
    from safetensors.torch import load_file

    if (folder / WEIGHTS).exists() or not (folder / OLD_WEIGHTS).exists():
        return load_file(str(folder / WEIGHTS))
    state = torch.load(folder / OLD_WEIGHTS, map_location="cpu", weights_only=True)  # runs no code
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{OLD_WEIGHTS} holds no dict of tensors")
    return state


def _inside(folder):
    """A word on adapters in subfolders, where PEFT puts those that have another name than "default"."""
    found = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    return f"; there is one in its subfolder {found[0]}" if found else ""


def load_adapter(model, folder):
    """Put the adapter saved in `folder` on `model` (its base, or one with another adapter of this kind, which it
    replaces); returns the model, changed in place. Raises UsageError where it does not fit."""
    config, state = read_adapter(folder)
    try:
        return importlib.import_module(MODULES[config["peft_type"]]).load_adapter_state(model, state, config)
    except UsageError as error:
        raise UsageError(f"{folder}: {error}") from error
