"""`ftlab tune METHOD`: fine-tune a base on the user's own examples and save what `transformers` loads.

A twentieth of the examples is held out. A run that was stopped goes on when it is started again with the same data and
settings; a run that has not been told how long to train ends when the held-out loss keeps rising.
"""

import dataclasses
import hashlib
import pathlib
import random
import shutil
import statistics

from ftlab import files
from ftlab.errors import UsageError
from ftlab.model import Transformer
from ftlab.text.examples import read_examples
from ftlab.text.rows import keep_short, rows
from ftlab.text.template import TEMPLATES
from ftlab.train.loop import NonFiniteLoss, train
from ftlab.tune import sft
from ftlab.tune.bases import load_base, save_checkpoint, trained_template
from ftlab.tune.methods import find

HELD_OUT = 0.05
MOST_HELD_OUT = 500
LEAST_EXAMPLES = 20  # from here on one at least is held out
STEPS_PER_EPOCH = 10  # small data is cut into smaller batches, so that there are this many
HF_LR, HF_TOKENS_PER_BATCH = 5e-5, 2048


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the user asked for, besides data, base and method. None: as fits."""

    steps: int | None = None
    lr: float | None = None
    seed: int = 0
    template: str | None = None
    loss: str = "response"
    max_length: int | None = None

    def check(self):
        """Raise UsageError where a number or name cannot be meant."""
        for name, value, least in (("--steps", self.steps, 1), ("--max-length", self.max_length, 2)):
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}; it must be at least {least}")
        if self.lr is not None and not 0 < self.lr < 10:
            raise UsageError(f"--lr is {self.lr}; it must be above 0 and below 10")
        if self.template is not None and self.template not in TEMPLATES:
            raise UsageError(f"no template is called {self.template!r}; choose one of {', '.join(TEMPLATES)}")
        if self.loss not in ("response", "all"):
            raise UsageError(f"the loss cannot be on {self.loss!r}; choose response or all")


def tune_from_data(method, data, out, base="base", wish=None, callbacks=(), progress=None):
    """Fine-tune `base` by `method` on the examples in `data` and save a checkpoint to the folder `out`.

    data: what `read_examples` takes. base: a shipped base, a folder or a Hub id. callbacks: of the training loop;
    progress: called with lines of text. Returns a dict of what was made and measured. Raises UsageError.
    """
    wish, out, say = wish or Wish(), pathlib.Path(out), progress or (lambda line: None)
    how = find(method)
    wish.check()
    files.check_free(out)
    examples = read_examples(data, progress=progress)
    template = wish.template or ("chat" if examples[0].form == "messages" else "alpaca")
    say(f"loading {base}")
    model, tokenizer = load_base(base)
    examples, made = _fitting(model, tokenizer, examples, template, wish, say, data)
    _check_ids(model, made, base)
    training, held_out = _split(examples, made, wish.seed)
    model = how.attach(model)
    batches, config = _plan(model, tokenizer, training, wish)
    partial = _partial_folder(out, (method, base, template, wish, made), model)
    patience = _Patience(wish.steps is None and len(held_out) >= 5)

    def evaluate(model, step):
        return {"held_out_loss": sft.rows_loss(model, held_out, tokenizer)} if held_out else {}

    before = evaluate(model, 0).get("held_out_loss")
    try:
        history = train(model, batches, config, sft.loss_of(model), evaluate, [patience, *callbacks], partial,
                        patience.over)
    except NonFiniteLoss:
        shutil.rmtree(partial, ignore_errors=True)  # nothing to go on from
        raise
    after = history.evals[-1].get("held_out_loss") if history.evals else None
    window = max(1, min(10, len(history.losses) // 5))
    result = {
        "method": method, "base": str(base), "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad), "template": template,
        "examples": len(training), "held_out": len(held_out), "steps": len(history.steps), "tokens": history.tokens,
        "seconds": round(history.seconds, 1), "loss_first": statistics.fmean(history.losses[:window]),
        "loss_last": statistics.fmean(history.losses[-window:]), "held_out_loss_before": before,
        "held_out_loss": after, "out": str(out),
    }  # fmt: skip
    used = any(example.form in ("instruction", "messages") for example in examples)
    save_checkpoint(model, tokenizer, out, trained_template(tokenizer, template, used), card(result, config, used))
    shutil.rmtree(partial, ignore_errors=True)
    return result


def _fitting(model, tokenizer, examples, template, wish, say, data):
    """(examples, rows) that fit the model. Longer ones are refused, or left out where --max-length says so."""
    most = sft.limit(model)
    if wish.max_length is None:
        return examples, rows(examples, tokenizer, template, wish.loss, most)
    if most is not None and wish.max_length > most:
        raise UsageError(f"--max-length is {wish.max_length}, but the model takes {most} tokens at most")
    kept, made = keep_short(examples, rows(examples, tokenizer, template, wish.loss), wish.max_length)
    if not kept:
        raise UsageError(f"{data}: every example has more than {wish.max_length} tokens: raise --max-length")
    if len(kept) < len(examples):
        say(f"left out {len(examples) - len(kept):,} examples of more than {wish.max_length} tokens")
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


def _plan(model, tokenizer, training, wish):
    """(batches, TrainConfig) for the rows."""
    ours = isinstance(model, Transformer)
    most = sft.TOKENS_PER_BATCH if ours else HF_TOKENS_PER_BATCH
    tokens_per_batch = min(most, max(1, sum(len(ids) for ids, _ in training) // STEPS_PER_EPOCH))
    batches = sft.make_batches(training, tokenizer, tokens_per_batch, wish.seed)
    steps = wish.steps or sft.EPOCHS * batches.steps_per_epoch
    lr = wish.lr or (sft.LR if ours else HF_LR)
    large = sum(p.numel() for p in model.parameters()) > 50e6
    return batches, sft.plan(
        steps, lr=lr, optimizer=sft.OPTIMIZER if ours else "adamw", muon_lr=sft.MUON_LR * lr / sft.LR,
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


def card(result, config, used):
    """The checkpoint's README: what it was made from, what was measured, how to ask it."""
    held_out = "none held out" if result["held_out_loss"] is None else (
        f"{result['held_out_loss_before']:.3f} before, {result['held_out_loss']:.3f} after, on {result['held_out']} "
        "held-out examples")
    ask = ['messages = [{"role": "user", "content": "..."}]',
           'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
           'return_dict=True)'] if used else ['inputs = tokenizer("...", return_tensors="pt")']
    return "\n".join([
        "# A fine-tuned model", "",
        f"Made by `ftlab tune {result['method']}` from `{pathlib.Path(result['base']).name}`.",
        "", "| | |", "|---|---|", f"| parameters (trained) | {result['parameters']:,} ({result['trainable']:,}) |",
        f"| examples | {result['examples']:,}, template {result['template'] if used else 'none'} |",
        f"| training | {result['steps']:,} steps, {result['tokens']:,} tokens with a loss, {config.optimizer}, rate "
        f"{config.lr:g}, seed {config.seed} |",
        f"| loss, nats per token | {result['loss_first']:.3f} first, {result['loss_last']:.3f} last |",
        f"| held-out loss | {held_out} |", "", "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
        'model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")', *ask,
        "output = model.generate(**inputs, max_new_tokens=200)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))', "```", ""])
