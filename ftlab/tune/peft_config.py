"""What PEFT's adapter_config.json asks for, field by field: used here, without effect on the output, or refused.

PEFT has more kinds of adapters than this package. A field that changes what an adapter computes and that nothing here
reads must not be passed over: the model would answer, and wrongly. So each field of each kind has a rule in FIELDS, a
field without a rule is refused where it is set, and a test holds FIELDS against the fields of the installed PEFT.
"""

import re

from ftlab.errors import UsageError
from ftlab.numbers import finite, whole

REMEDY = ("merge it there (merge_and_unload, then save_pretrained of model and tokenizer) and name the merged folder as "
          "the base")  # fmt: skip

UNMERGEABLE = ("alora_invocation_tokens", "arrow_config")  # they choose anew for each text


# -- rules: value -> whether it can be taken

def _used(value):
    """The code that builds the adapter reads and checks it."""
    return True


def _no_effect(value):
    """It tells how the adapter was made or is found; what a finished adapter computes does not depend on it."""
    return True


def _off(value):
    """A switch, or a list of further parts, that must be off or empty."""
    return not value


def _null(value):
    """Settings of a variant, which PEFT turns on by anything but null, an empty list or dict too."""
    return value is None


def _plain_start(value):
    """init_lora_weights. The starts that are not named here (pissa, olora, corda, loftq, lora_ga) subtract from the
    base's weights, again at each loading, and mica fixes B in training."""
    if isinstance(value, str):
        return value.lower() == "gaussian" or value in ("eva", "orthogonal")
    return value is None or value is True or value is False


_COMMON = {"peft_type": _used, "task_type": _used} | dict.fromkeys(
    ("auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"), _no_effect)
_LORA = (
    dict.fromkeys(("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "target_modules",
                   "exclude_modules", "layers_to_transform", "layers_pattern"), _used)
    | {"init_lora_weights": _plain_start, "bias": lambda value: value in ("none", None)}
    | dict.fromkeys(("use_dora", "use_rslora", "use_qalora", "lora_bias", "modules_to_save", "megatron_config",
                     "trainable_token_indices", "layer_replication", "target_parameters"), _off)
    | dict.fromkeys(("velora_config", "alora_invocation_tokens", "monteclora_config", "use_bdlora", "arrow_config",
                     "kasa_config"), _null)
    # fan_in_fan_out: PEFT, too, goes by the layer it finds. The rest belongs to switches, starts and tied layers that are
    # refused by themselves, or is never saved (runtime_config).
    | dict.fromkeys(("fan_in_fan_out", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
                     "qalora_group_size", "runtime_config", "ensure_weight_tying"), _no_effect))  # fmt: skip
_PROMPT = dict.fromkeys(("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads",
                         "num_layers"), _used) | {"modules_to_save": _off}  # fmt: skip
FIELDS = {
    "LORA": _COMMON | _LORA,
    "PREFIX_TUNING": _COMMON | _PROMPT | dict.fromkeys(("init_weights", "encoder_hidden_size", "prefix_projection"),
                                                       _no_effect),
    "PROMPT_TUNING": _COMMON | _PROMPT | dict.fromkeys(("prompt_tuning_init", "prompt_tuning_init_text",
                                                        "tokenizer_name_or_path", "tokenizer_kwargs"), _no_effect),
    "P_TUNING": _COMMON | _PROMPT | dict.fromkeys(("encoder_reparameterization_type", "encoder_hidden_size",
                                                   "encoder_num_layers", "encoder_dropout"), _no_effect),
    "BOTTLENECK": _COMMON | dict.fromkeys(("bottleneck_size", "placement", "non_linearity"), _used),
}  # {peft_type: {field: rule}}; BOTTLENECK is ours  # fmt: skip


def check(config, kind):
    """Raise UsageError, naming field and value, where the config of an adapter of this kind (a key of FIELDS) asks for
    something that is not done here."""
    if not isinstance(config, dict):
        raise UsageError(f"the adapter's config is {_short(config)}; it must be a dict, as adapter_config.json holds one")
    rules = FIELDS[kind]
    for name, value in config.items():
        if name not in rules:
            if not _off(value):
                raise UsageError(f"the adapter's config has {name}={_short(value)}, a field that is not known here and may "
                                 f"change the output; if PEFT knows it, {REMEDY}")
        elif not rules[name](value):
            remedy = "ask it there, since it cannot be merged" if name in UNMERGEABLE else REMEDY
            raise UsageError(f"the adapter was made with {name}={_short(value)}, which only PEFT knows: {remedy}")
    task = config.get("task_type")
    # Without a task PEFT's model applies a LoRA all the same, but no prompt.
    if task != "CAUSAL_LM" and (task is not None or kind not in ("LORA", "BOTTLENECK")):
        raise UsageError(f"the adapter's task_type is {_short(task)}; only CAUSAL_LM, adapters of models that write text, can "
                         "be used here")


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_tensors(state):
    """Raise UsageError where a tensor of {key: tensor} holds anything but finite floating-point numbers."""
    for key, value in state.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise UsageError(f"the adapter's tensor {key} holds NaN, infinite numbers or no floating-point numbers: its "
                             "training has failed, or the file is damaged")


# -- LoRA: the layers that are meant, and each one's rank and alpha

def lora_dropout(config):
    """The dropout, a share: PEFT's default is 0. Raises UsageError."""
    value = config.get("lora_dropout") or 0.0
    if not (finite(value) and 0 <= value < 1):
        raise UsageError(f"the adapter's lora_dropout is {_short(value)}; it is a share, at least 0 and below 1")
    return float(value)


def rank_and_alpha(config, name):
    """(r, lora_alpha) of the layer called `name` in transformers' model: 8 and 8 where the config is silent, as in PEFT.

    rank_pattern and alpha_pattern: the first key that, as a regular expression, is the name's end wins. Raises UsageError.
    """
    r = _pattern(config, "rank_pattern", name, config.get("r", 8))
    alpha = _pattern(config, "alpha_pattern", name, config.get("lora_alpha", 8))
    if not whole(r):
        raise UsageError(f"the adapter's rank is {_short(r)} (r or rank_pattern); it is a whole number, at least 1")
    if not finite(alpha):
        raise UsageError(f"the adapter's lora_alpha is {_short(alpha)} (or alpha_pattern's value); it must be a number")
    return r, alpha


def _pattern(config, field, name, default):
    patterns = config.get(field) or {}
    if not isinstance(patterns, dict):
        raise UsageError(f"the adapter's {field} is {_short(patterns)}; it must be a dict, {{name of layers: number}}")
    return next((value for key, value in patterns.items() if _matches(rf"(.*\.)?({key})$", name, field)), default)


def targeted(config, names, head=None):
    """Those of `names` (linear layers, as transformers names them) that the config chooses, as PEFT does; None where it
    is silent. head: the name of the layer that makes the logits, which "all-linear" leaves out. Raises UsageError."""
    wanted, left_out = _names(config, "target_modules"), _names(config, "exclude_modules")
    layers, pattern = config.get("layers_to_transform"), _names(config, "layers_pattern")
    if not (layers is None or whole(layers, 0) or isinstance(layers, list) and all(whole(one, 0) for one in layers)):
        raise UsageError(f"the adapter's layers_to_transform is {_short(layers)}; it must be the number of a layer, or a list "
                         "of such")
    if wanted is None:
        return None
    if layers is not None and isinstance(wanted, str) or pattern and layers is None:
        raise UsageError("the adapter's config contradicts itself: layers_to_transform needs a list of target_modules, and "
                         "layers_pattern needs layers_to_transform")
    return {name for name in names
            if not (left_out and _chosen(left_out, name, "exclude_modules"))
            and (name != head if wanted == "all-linear" else _chosen(wanted, name, "target_modules"))
            and (layers is None or layers == [] or name in wanted or _layer(name, pattern) in _list(layers))}


def _names(config, field):
    value = config.get(field)
    if value is None or isinstance(value, str) or isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return value
    raise UsageError(f"the adapter's {field} is {_short(value)}; it must be a list of names or a regular expression")


def _chosen(wanted, name, field):
    if isinstance(wanted, str):
        return _matches(wanted, name, field, re.fullmatch)
    return any(name == one or name.endswith("." + one) for one in wanted)


def _layer(name, pattern):
    """The number of the layer that `name` lies in, the first number in it (after the name `pattern`); None: in none."""
    for before in _list(pattern or r"[^.]*"):
        start = r".*?\." if pattern is None or not pattern else r"(?:^|.*?\.)"
        found = _matches(rf"{start}{before}\.(?P<number>\d+)\.", name, "layers_pattern")
        if found:
            return int(found["number"])
    return None


def _list(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _matches(expression, name, field, how=re.match):
    try:
        return how(expression, name)
    except re.error as error:
        raise UsageError(f"the adapter's {field} holds {_short(expression)}, which is no regular expression ({error})"
                         ) from error  # fmt: skip
