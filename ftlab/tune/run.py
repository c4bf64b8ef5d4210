"""`ftlab tune METHOD`: fine-tune a base on the user's own examples and save what `transformers` or PEFT loads.

A twentieth of the examples is held out. A run that was stopped goes on when it is started again with the same data and
settings; a run that has not been told how long to train ends when the held-out loss keeps rising.
"""

import dataclasses
import hashlib
import pathlib
import random
import shutil
import statistics

import torch

from ftlab import files
from ftlab.errors import UsageError
from ftlab.model import Transformer, hub
from ftlab.text.examples import read_examples
from ftlab.text.rows import keep_short, pieces, prompt_rows, rows
from ftlab.text.template import TEMPLATES
from ftlab.train.loop import NonFiniteLoss, train
from ftlab.train.rates import range_test
from ftlab.tune import sft
from ftlab.tune.bases import load_base, save_checkpoint, trained_template
from ftlab.tune.files import save_adapter
from ftlab.tune.methods import METHODS, find

HELD_OUT = 0.05
MOST_HELD_OUT = 500
LEAST_EXAMPLES = 20  # from here on one at least is held out
STEPS_PER_EPOCH = 10  # small data is cut into smaller batches, so that there are this many
HF_TOKENS_PER_BATCH = 2048
VIRTUAL_TOKENS = 16  # of a prefix, where nothing else is asked for
FLAGS = {"r": "--rank", "lora_alpha": "--alpha", "lora_dropout": "--dropout"}  # what --NAME-OF-IT does not give


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the user asked for, besides data, base and method. None: as fits. config: the method's own, by PEFT's names.
    merge: write base and LoRA as one model. find_rate: a range test chooses the peak rate."""

    steps: int | None = None
    lr: float | None = None
    seed: int = 0
    template: str | None = None
    loss: str = "response"
    max_length: int | None = None
    config: dict = dataclasses.field(default_factory=dict)
    merge: bool = False
    find_rate: bool = False

    def check(self, how):
        """Raise UsageError where a number or name cannot be meant, or does not belong to the method."""
        for name in self.config:
            if name not in how.options:
                takes = ", ".join(map(flag, how.options)) or "none of its own"
                fits = " or ".join(m.name for m in METHODS.values() if name in m.options)
                raise UsageError(f"{flag(name)} does not belong to the method {how.name}, which takes {takes}"
                                 + (f"; it is for {fits}" if fits else ""))
        if self.merge and not how.merges:
            able = ", ".join(m.name for m in METHODS.values() if m.merges)
            raise UsageError(f"--merge: what {how.name} learns cannot be added to the base's weights; that of {able} can")
        for name, value, least in (("--steps", self.steps, 1), ("--max-length", self.max_length, 2)):
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}; it must be at least {least}")
        if self.lr is not None and not 0 < self.lr < 10:
            raise UsageError(f"--lr is {self.lr}; it must be above 0 and below 10")
        if self.lr is not None and self.find_rate:
            raise UsageError("--range-test chooses the rate that --lr names: give one of the two")
        if self.template is not None and self.template not in TEMPLATES:
            raise UsageError(f"no template is called {self.template!r}; choose one of {', '.join(TEMPLATES)}")
        if self.loss not in ("response", "all"):
            raise UsageError(f"the loss cannot be on {self.loss!r}; choose response or all")


def flag(name):
    """The option of the command line for a name of a method's config."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def tune_from_data(method, data, out, base="base-small", wish=None, callbacks=(), progress=None,
                   warn=None):
    """Fine-tune `base` by `method` on the examples in `data` and save a checkpoint, or an adapter, to the folder `out`.

    data: what `read_examples` takes. base: a shipped base, a folder or a Hub id. callbacks: of the training loop;
    progress: called with lines of text; warn (default: progress): with those that name what was given and not used.
    Returns a dict of what was made and measured. Raises UsageError.
    """
    wish, out, say = wish or Wish(), pathlib.Path(out), progress or (lambda line: None)
    warn = warn or say
    how = find(method)
    wish.check(how)
    files.check_free(out)
    examples = read_examples(data, progress=say, warn=warn)
    template = wish.template or ("chat" if any(example.form == "messages" for example in examples) else "alpaca")
    say(f"loading {base}")
    model, tokenizer = load_base(base)
    examples = _renderable(examples, tokenizer, template, data, warn)
    wish = _with_start(wish, how, examples, tokenizer, template)
    examples, made = _fitting(model, tokenizer, examples, template, wish, warn, data)
    _check_ids(model, made, base)
    training, held_out = _split(examples, made, wish.seed)
    parameters = sum(p.numel() for p in model.parameters())
    before = sft.rows_loss(model, held_out, tokenizer) if held_out else None  # the base's, with nothing attached to it
    torch.manual_seed(wish.seed)
    model = how.attach(model, **wish.config)
    batches, config = _plan(model, tokenizer, training, wish, how)
    if wish.find_rate:
        say("range test: at most 100 steps at rising rates, on a copy of the model")
        # On a rerun after a stop it gives the same rate again: data, model and seed are the same.
        config = range_test(model, batches, config, loss=sft.loss_of(model)).apply(config)
        say(f"range test: peak rate {config.lr:.2g}")
    partial = _partial_folder(out, (method, base, template, wish, made), model)
    patience = _Patience(wish.steps is None and len(held_out) >= 5)

    def evaluate(model, step):
        return {"held_out_loss": sft.rows_loss(model, held_out, tokenizer)} if held_out else {}

    try:
        history = train(model, batches, config, sft.loss_of(model), evaluate, [patience, *callbacks], partial,
                        patience.over)
    except NonFiniteLoss:
        shutil.rmtree(partial, ignore_errors=True)  # nothing to go on from
        raise
    after = history.evals[-1].get("held_out_loss") if history.evals else None
    window = max(1, min(10, len(history.losses) // 5))
    result = {
        "method": method, "base": str(base), "parameters": parameters,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad), "template": template,
        "examples": len(training), "held_out": len(held_out), "steps": len(history.steps), "tokens": history.tokens,
        "seconds": round(history.seconds, 1), "loss_first": statistics.fmean(history.losses[:window]),
        "loss_last": statistics.fmean(history.losses[-window:]), "held_out_loss_before": before,
        "held_out_loss": after, "lr": config.lr, "out": str(out),
    }  # fmt: skip
    used = any(example.form in ("instruction", "messages") for example in examples)
    _save(model, tokenizer, out, how, wish, result, trained_template(tokenizer, template, used), config, used)
    shutil.rmtree(partial, ignore_errors=True)
    return result


def _renderable(examples, tokenizer, template, data, warn):
    """The examples without those that the template refuses, or whose tool calls it does not write: these are counted.

    Where they are most of all, they are refused. A talk in which user and assistant take turns is not looked at: every
    template renders it.
    """
    kept, refused = [], []
    for example in examples:
        try:
            if not _is_plain(example):
                _check_calls(example, "".join(text for text, _ in pieces(example, tokenizer, template)), template)
        except UsageError as error:
            refused.append(str(error))
        else:
            kept.append(example)
    if refused:
        calls = sum(any("tool_calls" in more for more in example.extra) for example in examples)
        lines = f"{refused[0]} ({len(refused):,} of {len(examples):,} examples; {calls:,} have tool calls)"
        if 2 * len(refused) > len(examples):
            raise UsageError(lines)
        warn(f"{data}: left out {len(refused):,} examples that the chat template cannot write: {lines}")
    return kept


def _is_plain(example):
    roles = [role for role, _ in example.messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    alternate = all(role == ("user", "assistant")[i % 2] for i, role in enumerate(turns))
    return alternate and not example.tools and not any(example.extra)


def _check_calls(example, written, template):
    """Raise UsageError where a call of a function is not in the text: its message would teach an empty answer."""
    for more in example.extra:
        for call in more.get("tool_calls", ()):
            if call["function"]["name"] not in written:
                raise UsageError(f"{example.place()}: tool calls are not learned here, since the chat template ({template}) "
                                 "does not write them: take a base whose own template does, or leave such rows out")


def _with_start(wish, how, examples, tokenizer, template):
    """The wish, where the method learns virtual tokens with their number, and with a real prompt for them to start from.
    (At rates from 0.1 to 0.3 a random start did as well in trials; a prompt is a start that is known to mean something.)"""
    if "init_ids" not in how.options:
        return wish
    length = wish.config.get("num_virtual_tokens") or VIRTUAL_TOKENS
    ids = prompt_rows(examples[:1], tokenizer, template)[0][:length]
    return dataclasses.replace(wish, config={"num_virtual_tokens": length, "init_ids": ids or None} | wish.config)


def _save(model, tokenizer, out, how, wish, result, chat_template, config, used):
    """Write the checkpoint, or for an adapter its small file beside a tokenizer that knows the template."""
    if how.adapter and not wish.merge:
        extra = {"README.md": card(result, config, used, adapter=True), "chat_template.jinja": chat_template}
        extra = {name: text for name, text in extra.items() if text}
        result["adapter_bytes"] = save_adapter(model, out, result["base"], tokenizer, extra)
        return
    if how.adapter:
        from ftlab.tune import lora

        model = lora.detach_lora(lora.merge(model))
    save_checkpoint(model, tokenizer, out, chat_template, card(result, config, used))


def _fitting(model, tokenizer, examples, template, wish, warn, data):
    """(examples, rows) that fit the model. Longer ones are refused, or left out where --max-length says so."""
    most = sft.limit(model)
    if most is not None:
        virtual = wish.config.get("num_virtual_tokens", 0)
        if virtual >= most:
            raise UsageError(f"num_virtual_tokens is {virtual}, but the model takes {most} tokens in all: choose fewer")
        most -= virtual
    if wish.max_length is None:
        return examples, rows(examples, tokenizer, template, wish.loss, most, warn)
    if most is not None and wish.max_length > most:
        raise UsageError(f"--max-length is {wish.max_length}, but the model takes {most} tokens at most")
    kept, made = keep_short(examples, rows(examples, tokenizer, template, wish.loss, say=warn), wish.max_length)
    if not kept:
        raise UsageError(f"{data}: every example has more than {wish.max_length} tokens: raise --max-length")
    if len(kept) < len(examples):
        warn(f"left out {len(examples) - len(kept):,} examples of more than {wish.max_length} tokens")
    return kept, made


def _check_ids(model, made, base):
    size = (model.embed_tokens if isinstance(model, Transformer) else model.get_input_embeddings()).num_embeddings
    largest = max(max(ids) for ids, _ in made)
    if largest >= size:
        raise UsageError(f"{base}: its tokenizer gives the id {largest:,}, the model knows only {size:,} tokens: save "
                         "the two together again")


def _split(examples, made, seed):
    """Rows to train on and rows held out; an example that stands there several times is never on both sides."""
    if len(examples) < LEAST_EXAMPLES:
        return made, []
    groups = {}
    for index, example in enumerate(examples):
        groups.setdefault(example, []).append(index)
    if len(groups) < 2:
        return made, []
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    wanted, chosen = min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(examples)))), set()
    for indices in order[:-1]:
        if len(chosen) >= wanted:
            break
        chosen.update(indices)
    return [row for i, row in enumerate(made) if i not in chosen], [made[i] for i in sorted(chosen)]


def _plan(model, tokenizer, training, wish, how=METHODS["full"]):
    """(batches, TrainConfig) for the rows. What is attached to a model learns by AdamW."""
    ours = isinstance(model, Transformer)
    most = sft.TOKENS_PER_BATCH if ours else HF_TOKENS_PER_BATCH
    tokens_per_batch = min(most, max(1, sum(len(ids) for ids, _ in training) // STEPS_PER_EPOCH))
    batches = sft.make_batches(training, tokenizer, tokens_per_batch, wish.seed)
    steps = wish.steps or sft.EPOCHS * batches.steps_per_epoch
    lr = wish.lr or (how.lr if ours else how.hf_lr)
    large = sum(p.numel() for p in model.parameters()) > 50e6
    return batches, sft.plan(
        steps, lr=lr, optimizer=sft.OPTIMIZER if ours and not how.adapter else "adamw", muon_lr=sft.MUON_LR * lr / sft.LR,
        eval_every=max(1, steps // 10), save_every=max(1, steps // (4 if large else 20)), seed=wish.seed)


class _Patience:
    """Ends a run once the held-out loss has stood above its lowest value at `patience` evaluations in a row."""

    def __init__(self, wanted, patience=2):
        self.wanted, self.patience, self.losses = wanted, patience, []

    def __call__(self, event):
        if event["kind"] in ("start", "eval"):  # the history knows the evaluations before a stop, too
            self.losses = event["history"].metric("held_out_loss")[1]

    def over(self, metrics):
        """The loop's question after each evaluation."""
        best = self.losses.index(min(self.losses)) if self.losses else 0
        return self.wanted and len(self.losses) - 1 - best >= self.patience


def _partial_folder(out, settings, model):
    """Where checkpoints of just this run go: beside `out`, hidden, named by data, settings and the base's weights."""
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(next(model.parameters()).detach().flatten()[:100_000].cpu().numpy().tobytes())
    return out.absolute().parent / f".{out.name}.{digest.hexdigest()[:10]}.partial"


def card(result, config, used, adapter=False):
    """The checkpoint's README: what it was made from, what was measured, how to ask it (for an adapter: on its base)."""
    held_out = "none held out" if result["held_out_loss"] is None else (
        f"{result['held_out_loss_before']:.3f} before, {result['held_out_loss']:.3f} after, on {result['held_out']} "
        "held-out examples")
    ask = ['messages = [{"role": "user", "content": "..."}]',
           'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
           'return_dict=True)'] if used else ['inputs = tokenizer("...", return_tensors="pt")']
    load = _load_lines(result) if adapter else [
        "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
        'model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")']
    return "\n".join([
        "# What was learned beside a frozen model" if adapter else "# A fine-tuned model", "",
        f"Made by `ftlab tune {result['method']}` from `{pathlib.Path(result['base']).name}`.",
        "", "| | |", "|---|---|", f"| parameters (trained) | {result['parameters']:,} ({result['trainable']:,}) |",
        f"| examples | {result['examples']:,}, template {result['template'] if used else 'none'} |",
        f"| training | {result['steps']:,} steps, {result['tokens']:,} tokens with a loss, {config.optimizer}, rate "
        f"{config.lr:g}, seed {config.seed} |",
        f"| loss, nats per token | {result['loss_first']:.3f} first, {result['loss_last']:.3f} last |",
        f"| held-out loss | {held_out} |", "", "```python",
        *load, *ask,
        # PEFT reads no generation_config from an adapter's folder, and the base's may end at another token.
        f"output = model.generate(**inputs, max_new_tokens=200{', eos_token_id=tokenizer.eos_token_id' * adapter})",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))', "```", ""])


def _load_lines(result):
    """How the README of an adapter loads it."""
    base = result["base"]
    if result["method"] == "adapter":  # PEFT has none of these
        return ["from ftlab.tune.bases import load_base", "from ftlab.tune.files import load_adapter", "",
                f'model, tokenizer = load_base("{pathlib.Path(base).name}")  # or where your base lies',
                'model = load_adapter(model, ".")']
    where = f'ASSETS / "{base}"' if base in hub.SHIPPED else f'"{pathlib.Path(base).name}"'
    return ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer",
            *["from ftlab.model.hub import ASSETS"] * (base in hub.SHIPPED), "",
            f"model = AutoModelForCausalLM.from_pretrained({where})  # or where your base lies",
            'model, tokenizer = PeftModel.from_pretrained(model, "."), AutoTokenizer.from_pretrained(".")']
