"""What is fine-tuned, and how it is written: our own bases, and any causal language model of `transformers`."""

import contextlib
import copy
import functools
import pathlib

import torch

from ftlab import files, profile
from ftlab.errors import UsageError
from ftlab.model import Transformer, hub
from ftlab.model.pretrained import PretrainedTokenizer, dress
from ftlab.text import rows, template
from ftlab.tune.files import CONFIG, WEIGHTS
from ftlab.tune.methods import METHODS


def load_base(name):
    """(model, tokenizer) to fine-tune, in float32 on the profile's device.

    name: a shipped base or a folder that ftlab wrote (our Transformer), else a folder or Hub id for
    `AutoModelForCausalLM`. Raises UsageError, one line, where it cannot be had or is no causal language model.
    """
    if name in hub.SHIPPED or _is_ours(pathlib.Path(name)):
        model, tokenizer = hub.load(name)
        if not model.config.causal:
            raise UsageError(f"{name} guesses masked words and cannot be tuned to answer; choose base or base-small")
    else:
        with quiet():
            model, tokenizer = _load_theirs(name)
    return model.to(profile.current().device), tokenizer


def lab_base(name):
    """(model, tokenizer) from which a lab on fine-tuning starts: the shipped base `name` on the CPU, or the profile's
    pretrained model (`ftlab.profile.base`) on the profile's device, with our names for its parts besides its own.

    Says in a line, once, which pretrained model it is, or why the shipped one stands in for it: a model of the Hub that
    cannot be had. Raises UsageError where FTLAB_BASE names a folder with no such model.
    """
    wanted = _wanted()
    if wanted is None:
        return hub.load(name)
    if wanted in hub.SHIPPED or _is_ours(pathlib.Path(wanted)):
        return hub.load(wanted)
    model, tokenizer = _pristine(wanted)
    model = copy.deepcopy(model).to(profile.current().device)
    return model, tokenizer


def lab_tokenizer(name):
    """The tokenizer of `lab_base` alone."""
    wanted = _wanted()
    if wanted is None or wanted in hub.SHIPPED or _is_ours(pathlib.Path(wanted)):
        return hub.load(wanted or name)[1]
    return _pristine(wanted)[1]


def _wanted():
    """The profile's pretrained model, or None; None as well once it could not be had from the Hub."""
    wanted = profile.base()
    if wanted is None or wanted in _missed or wanted in hub.SHIPPED or pathlib.Path(wanted).exists():
        return None if wanted in _missed else wanted
    try:
        _pristine(wanted)
    except UsageError as error:
        _missed.add(wanted)
        print(f"{error}. This lab runs on the shipped models instead.")
        return None
    return wanted


_missed = set()  # models of the Hub that could not be had


@functools.lru_cache(maxsize=1)
def _pristine(name):
    """(dressed model on the CPU, tokenizer) of a folder or a Hub id, read once; `lab_base` gives copies."""
    folder = name if pathlib.Path(name).exists() else str(hub._download(name))
    with quiet():
        model, tokenizer = _load_theirs(folder)
    model = dress(model)
    model.rate_factor = METHODS["full"].rate_factor
    here = profile.current()
    print(f"Base: {name}, {model.num_parameters() / 1e6:,.1f} M parameters, on {here.device}, matrix products in "
          f"{here.dtype}. Studies and statements of measured size are about the shipped bases.")
    return model, PretrainedTokenizer(tokenizer)


def _is_ours(folder):
    try:
        return "causal" in files.read_json(folder / "config.json") and (folder / "tokenizer.json").is_file()
    except (OSError, ValueError, TypeError):
        return False


@contextlib.contextmanager
def quiet():
    """transformers without progress bars, advice and warnings; as before afterwards."""
    import transformers

    logs = transformers.logging
    verbosity, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(verbosity)
        if bars:
            logs.enable_progress_bar()


def _load_theirs(name):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = pathlib.Path(name)
    _check_no_adapter(name, folder)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UsageError(f"{name}: no config.json there; give a folder that holds a saved model")
    if not folder.exists() and (name.count("/") != 1 or name.startswith((".", "~", "/"))):
        raise UsageError(f"{name}: no such folder; give a folder with a saved model, a Hub id (owner/name) or one of "
                         f"{', '.join(hub.SHIPPED)}")
    if not folder.exists():
        folder = hub._download(name)
        _check_no_adapter(name, pathlib.Path(folder))
    try:
        config = AutoConfig.from_pretrained(folder)
        model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises many kinds; the reader needs one line
        raise UsageError(f"{name}: cannot be loaded as a causal language model with its tokenizer "
                         f"({_first_line(error)})") from error
    if found["missing_keys"]:
        some = ", ".join(sorted(found["missing_keys"])[:3])
        raise UsageError(f"{name}: its files lack weights of a causal language model ({some}): choose a model that "
                         "was saved as one")
    _check_causal(name, model)
    model.saved_dtype = getattr(config, "dtype", None) or torch.float32
    return model, tokenizer


def _check_no_adapter(name, folder):
    """Raise UsageError where a folder, or a file in it, is an adapter and no whole model; it names the adapter's base."""
    folder = folder.parent if folder.is_file() else folder
    whole = [path for pattern in ("model*.safetensors", "pytorch_model*.bin") for path in folder.glob(pattern)]
    if whole or not any((folder / file).is_file() for file in (CONFIG, WEIGHTS, "adapter_model.bin")):
        return
    try:
        config = files.read_json(folder / CONFIG)
        base = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    on = f", learned on {base}" if base else ""
    raise UsageError(f"{name}: an adapter{on}, not a model: give --base the model that it was learned on, or first merge the "
                     "two (`ftlab tune lora --merge` writes a whole model, as does PEFT's merge_and_unload)")


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


@torch.no_grad()
def _check_causal(name, model):
    """Another last token must leave the logits before it as they are; in a BERT it does not."""
    size = model.get_input_embeddings().num_embeddings
    ids = torch.tensor([[i % size for i in (1, 2, 3, 4)], [i % size for i in (1, 2, 3, 5)]])
    model.eval()
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    if (logits[0, :3] - logits[1, :3]).abs().max() > 1e-4 * logits.abs().max():
        raise UsageError(f"{name} sees the words that follow, so it cannot be tuned to write: choose a causal model")


def trained_template(tokenizer, name, used):
    """The chat template of a checkpoint trained on template `name`; None where none is to be written.

    used: whether any example was put into a template at all.
    """
    if not used or name == "chat" and rows.own_chat_template(tokenizer):
        return None
    return template.jinja(name, rows.starts_with_bos(tokenizer))


def save_checkpoint(model, tokenizer, folder, chat_template=None, card=None):
    """Write a checkpoint that `AutoModelForCausalLM` and `AutoTokenizer` load, whole or not at all.

    chat_template: Jinja, replaces the tokenizer's own. card: text of README.md. Weights of theirs keep the type of
    numbers that their base was saved in; ours are written in float32.
    """
    if isinstance(model, Transformer):
        extra = {"chat_template.jinja": chat_template, "README.md": card}
        hub.save(model, tokenizer, folder, extra={name: text for name, text in extra.items() if text})
        return
    with files.atomic_folder(folder) as temporary, quiet():
        if chat_template:
            tokenizer.chat_template = chat_template
        _end_generation(model.generation_config, tokenizer)
        model.to(getattr(model, "saved_dtype", torch.float32)).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if card:
            files.atomic_write_text(temporary / "README.md", card)
        files.share(temporary)


def _end_generation(config, tokenizer):
    """Make generation stop at the end token that was trained, besides those at which it stops already."""
    ends = config.eos_token_id
    ends = [] if ends is None else list(ends) if isinstance(ends, (list, tuple)) else [ends]
    ends += [tokenizer.eos_token_id] * (tokenizer.eos_token_id not in ends)
    config.eos_token_id = ends[0] if len(ends) == 1 else ends
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
