"""Models in and out: the shipped bases, folders, the Hugging Face Hub; ours to `transformers` and back."""

import os
import pathlib

import torch

from ftlab import files, online
from ftlab.errors import UsageError
from ftlab.model.transformer import ModelConfig, Transformer

SHIPPED = ("base", "base-small", "base-masked", "assistant", "aligned-ppo", "aligned-dpo")
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's name
ASSETS = pathlib.Path(__file__).resolve().parent.parent / "assets"


def load(name):
    """(model, tokenizer) of a shipped model (a name in SHIPPED), a folder, or a model id on the Hub.

    Folders and Hub models must be of the Llama architecture. Weights come as float32. Raises UsageError with one line.
    """
    folder = ASSETS / name if name in SHIPPED else pathlib.Path(name)
    if not folder.is_dir():
        folder = _download(name)
    line = adapter_line(folder)
    if line:
        raise UsageError(line)
    config = _read_config(folder)
    model = Transformer(config)
    _fill(model, _read_weights(folder), folder)
    return model.eval(), _load_tokenizer(folder)


def adapter_line(path):
    """One line for somebody who names an adapter of PEFT's format where a whole model is needed: what it is, beside which
    base it was made, and what to do. None where `path`, a folder, holds no adapter."""
    path = pathlib.Path(path)
    folder = path.parent if path.is_file() and path.name.startswith("adapter_") else path
    if not (folder / ADAPTER_CONFIG).is_file():
        if (folder / "config.json").is_file():
            return None
        # PEFT puts adapters that have a name into a subfolder of that name.
        folder = next((found.parent for found in sorted(folder.glob(f"*/{ADAPTER_CONFIG}"))), None)
        if folder is None:
            return None
    try:
        config = files.read_json(folder / ADAPTER_CONFIG)
    except (OSError, ValueError, RecursionError):
        config = None
    config = config if isinstance(config, dict) else {}
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    kind = kind if isinstance(kind, str) else None
    base = base if isinstance(base, str) and base else f"a base that its {ADAPTER_CONFIG} does not name"
    start = f"{folder} is an adapter ({kind or 'of an unknown kind'}), made beside {base}, and no whole model"
    if kind not in ("LORA", None):
        return f"{start}: what it learned cannot be added to the base's weights; name its base, or a whole model"
    return (f"{start}: merge it into its base first (in PEFT: PeftModel.from_pretrained(base, {str(folder)!r})"
            ".merge_and_unload(), then save_pretrained of model and tokenizer) and name the merged folder, or name its base")


def _fill(model, weights, where):
    """Copy weights under Hugging Face's names into `model`; UsageError where they do not fit."""
    weights = {key.removeprefix("model."): value.float() for key, value in weights.items() if "rotary_emb" not in key}
    own = model.state_dict()
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)  # it is the embedding
        own.pop("lm_head.weight")
    wrong = sorted(set(own) ^ set(weights)) or [key for key in own if own[key].shape != weights[key].shape]
    if wrong:
        raise UsageError(f"{where}: the weights do not fit a Llama of that config ({len(wrong)} tensors differ, such "
                         f"as {', '.join(wrong[:3])})")
    model.load_state_dict(weights, strict=False)


def save(model, tokenizer, folder, dtype=torch.float32, extra=None):
    """Write config.json, model.safetensors and the tokenizer to `folder`, as `from_pretrained` reads them.

    The folder appears whole or not at all. dtype float16 halves the file. extra: {file name: text} besides.
    """
    from safetensors.torch import save as to_bytes

    with files.atomic_folder(folder) as temporary:
        state = {key: value.to(dtype).contiguous() for key, value in hf_state_dict(model).items()}
        # Not save_file: that makes the file readable for its owner only, and labs are shared.
        files.atomic_write_bytes(temporary / "model.safetensors", to_bytes(state, metadata={"format": "pt"}))
        files.write_json(temporary / "config.json", hf_config_dict(model.config, dtype))
        files.write_json(temporary / "generation_config.json",
                         {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id,
                          "pad_token_id": tokenizer.pad_id})
        tokenizer.save(temporary)
        for name, text in (extra or {}).items():
            files.atomic_write_text(temporary / name, text)


def hf_config_dict(config, dtype=torch.float32):
    """Our config as the dict of Hugging Face's LlamaConfig; `causal` rides along for our own loader."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads, "head_dim": config.head_size, "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings, "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": config.tie_word_embeddings, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": str(dtype).removeprefix("torch."), "causal": config.causal,
    }


def hf_state_dict(model):
    """Our weights under the names of LlamaForCausalLM; a tied head is left out, as there."""
    state = {}
    for key, value in model.state_dict().items():
        if key == "lm_head.weight":
            if not model.config.tie_word_embeddings:
                state[key] = value
        else:
            state[f"model.{key}"] = value
    return state


def to_hf(model):
    """The same model as a `transformers.LlamaForCausalLM` (weights copied). Only for causal models."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if not model.config.causal:
        raise UsageError("a masked model has no counterpart in LlamaForCausalLM, which is causal")
    settings = hf_config_dict(model.config)
    settings.pop("torch_dtype")
    theirs = LlamaForCausalLM(LlamaConfig(**settings))
    theirs.load_state_dict(hf_state_dict(model), strict=False)
    theirs.tie_weights()
    return theirs.eval()


def from_hf(theirs):
    """A `LlamaForCausalLM` as our `Transformer` (weights copied to float32). The score of a `LlamaForSequenceClassification`
    is left aside."""
    config = _config_from_dict(theirs.config.to_dict(), "the model")
    model = Transformer(config)
    _fill(model, {key: value for key, value in theirs.state_dict().items() if not key.startswith("score.")}, "the model")
    return model.eval()


def _read_config(folder):
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: no config.json there; give a folder that holds a saved model")
    try:
        return _config_from_dict(files.read_json(path), folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no config of a Llama model ({type(error).__name__}: {error}); save the model "
                         "again") from error


def _config_from_dict(raw, where):
    if raw.get("model_type") != "llama":
        raise UsageError(f"{where}: model_type is {raw.get('model_type')!r}; only 'llama' loads into our transformer, "
                         "use transformers for the rest")
    heads = raw["num_attention_heads"]
    if raw.get("num_key_value_heads", heads) != heads:
        raise UsageError(f"{where}: grouped-query attention ({heads} heads, {raw['num_key_value_heads']} for keys) "
                         "is left out of our transformer; use transformers")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    size = raw["hidden_size"] // heads
    for name, value, plain in (("hidden_act", raw.get("hidden_act", "silu"), "silu"),
                               ("attention_bias", raw.get("attention_bias", False), False),
                               ("mlp_bias", raw.get("mlp_bias", False), False),
                               ("head_dim", raw.get("head_dim") or size, size),
                               ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default")):
        if value != plain:
            raise UsageError(f"{where}: {name} is {value!r}, our transformer knows only {plain!r}; use transformers")
    return ModelConfig(
        vocab_size=raw["vocab_size"], hidden_size=raw["hidden_size"], num_layers=raw["num_hidden_layers"],
        num_heads=heads, intermediate_size=raw["intermediate_size"],
        max_position_embeddings=raw["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10000.0))), rms_norm_eps=raw["rms_norm_eps"],
        causal=raw.get("causal", True), tie_word_embeddings=raw.get("tie_word_embeddings", False))


def _read_weights(folder):
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise UsageError(f"{folder}: no .safetensors file there; save the model with save_pretrained")
    try:
        return {key: value for shard in shards for key, value in load_file(str(shard)).items()}
    except SafetensorError as error:
        raise UsageError(f"{folder}: a damaged .safetensors file ({error}); save or fetch the model again") from error


def _load_tokenizer(folder):
    from ftlab.text.tokenizer import Tokenizer

    return Tokenizer.load(folder)


def _download(name):
    """Folder of a Hub model in the local cache, fetched if need be. Raises UsageError with one line, soon: `ftlab.online`."""
    if os.sep in name and name.count("/") != 1 or name.startswith((".", "~")):
        raise UsageError(f"{name}: no such folder; give a folder with a saved model, a Hub id (owner/name) or one of "
                         f"{', '.join(SHIPPED)}")
    return online.model(name, f"give a folder with a saved model or one of {', '.join(SHIPPED)}")
