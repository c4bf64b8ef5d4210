"""The one training loop of the course. It reports to callbacks and draws nothing.

A run is a pure function of model, batches and config: batches are asked for by step, so a run that was killed and
started again with the same `out` ends with the same weights, bit for bit.
"""

import dataclasses
import io
import math
import pathlib
import random
import time

import torch

from ftlab import files
from ftlab.errors import UsageError
from ftlab.model import backprop
from ftlab.numbers import check_known, check_real, check_whole
from ftlab.train import optim
from ftlab.train.allocator import keep_freed_memory
from ftlab.train.denormals import flushed_denormals
from ftlab.train.schedule import KNOWN, factor

CHECKPOINT = "checkpoint.pt"  # in a run's folder


class NonFiniteLoss(UsageError):
    """The loss became infinite or no number; the message says at which step and what to try."""


@dataclasses.dataclass
class TrainConfig:
    """What fixes a run besides model and data. Rates are peaks; `warmup` counts steps (below 1: a share of them)."""

    steps: int
    lr: float = 3e-3
    optimizer: str = "adamw"
    muon_lr: float = 0.02
    schedule: str = "cosine"
    warmup: float = 0.05
    final_lr: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = 1.0
    accumulate: int = 1
    eval_every: int | None = None
    save_every: int | None = None
    seed: int = 0

    def check(self):
        """Raise ValueError where a number or an option cannot be meant; optimizer and peak rates: as in `optim.make`."""
        check_whole("steps", self.steps, least=0)
        check_known("schedule", self.schedule, KNOWN)
        for name in ("warmup", "final_lr"):
            check_real(name, getattr(self, name), least=0)
        check_whole("accumulate", self.accumulate)
        if self.clip is not None:
            check_real("clip", self.clip, above=0)
        for name in ("eval_every", "save_every"):
            if getattr(self, name):
                check_whole(name, getattr(self, name))

    def lr_factor(self, step):
        """Factor on the peak rates at `step`."""
        warmup = round(self.warmup * self.steps) if 0 < self.warmup < 1 else int(self.warmup)
        return factor(step, self.steps, self.schedule, warmup, self.final_lr)


@dataclasses.dataclass
class History:
    """What happened: one entry a step in steps, losses, lrs; `evals` holds dicts with "step" and the metrics."""

    steps: list = dataclasses.field(default_factory=list)
    losses: list = dataclasses.field(default_factory=list)
    lrs: list = dataclasses.field(default_factory=list)
    evals: list = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0

    def metric(self, name):
        """(steps, values) of one metric of the evaluations."""
        pairs = [(e["step"], e[name]) for e in self.evals if name in e]
        return [s for s, _ in pairs], [v for _, v in pairs]


def train(model, batches, config, loss=None, evaluate=None, callbacks=(), out=None, stop=None):
    """Train `model` in place for `config.steps` steps; returns the History.

    batches(step) -> Batch, a function of the step alone. loss(model, batch) -> scalar tensor, by default
    `default_loss`. evaluate(model, step) -> dict of numbers, called each `eval_every` steps and at the end.
    callbacks are called with event dicts (kind: start, step, eval, end). stop(metrics) -> True ends the run after an
    evaluation. With `out` (a folder) a checkpoint is written each `save_every` steps, and a run found there goes on.
    Raises NonFiniteLoss; on Ctrl-C the last step is saved (where `out` is given) before the interrupt goes on.
    """
    keep_freed_memory()
    with flushed_denormals():
        return _train(model, batches, config, loss or default_loss, evaluate, callbacks, out, stop)


def _train(model, batches, config, loss, evaluate, callbacks, out, stop):
    run = _Run(model, batches, config, loss, out)
    run.resume()
    history = run.history
    tell(callbacks, kind="start", step=run.step, steps=config.steps, history=history)
    model.train()
    began, first = time.perf_counter(), run.step
    try:
        while run.step < config.steps and not run.ended:
            value, lr, tokens_per_second = run.advance()
            done = run.step
            eta = (time.perf_counter() - began) / (done - first) * (config.steps - done)
            tell(callbacks, kind="step", step=done, steps=config.steps, loss=value, lr=lr, history=history,
                  tokens_per_second=tokens_per_second, eta_seconds=eta)
            if evaluate and (done == config.steps or config.eval_every and done % config.eval_every == 0):
                model.eval()
                metrics = evaluate(model, done)
                model.train()
                history.evals.append({"step": done, **metrics})
                tell(callbacks, kind="eval", step=done, steps=config.steps, metrics=metrics, history=history)
                run.ended = stop is not None and bool(stop(metrics))
            if out and (done == config.steps or run.ended or config.save_every and done % config.save_every == 0):
                run.save()
    except KeyboardInterrupt:
        run.save_if_whole()
        raise
    finally:
        model.eval()
        tell(callbacks, kind="end", step=run.step, steps=config.steps, history=history)
    return history


def default_loss(model, batch):
    """`model.loss(batch)`, with the gradient written out by hand where that serves the model and the batch."""
    return backprop.loss(model, batch) if backprop.fits(model, batch) else model.loss(batch)


def tell(callbacks, **event):
    """Call each of `callbacks` with the event."""
    for callback in callbacks:
        callback(event)


class _Run:
    """Model, optimizers and history of a run in progress, and their checkpoint."""

    def __init__(self, model, batches, config, loss, out):
        config.check()
        self.model, self.batches, self.config, self.loss = model, batches, config, loss
        self.path = pathlib.Path(out) / CHECKPOINT if out else None
        self.device = next(model.parameters()).device
        self.optimizers = optim.make(model, config.optimizer, config.lr, config.muon_lr, config.weight_decay)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.step, self.history = 0, History()
        self.whole, self.ended = True, False  # not in the middle of an update; not stopped before the last step
        torch.manual_seed(config.seed)
        random.seed(config.seed)

    def advance(self):
        """One optimizer step. Returns (loss in nats, AdamW's rate, useful tokens per second)."""
        began = time.perf_counter()
        scale = self.config.lr_factor(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * scale
            optimizer.zero_grad(set_to_none=True)
        first = self.step * self.config.accumulate
        micro = [self.batches(first + i).to(self.device) for i in range(self.config.accumulate)]
        counts = [batch.num_tokens() for batch in micro]
        value = 0.0 if any(counts) else math.nan  # the mean of no tokens is no number
        for batch, count in zip(micro, counts):
            if count:
                # Each micro-batch weighs as many tokens as it holds: the sum is the mean over all tokens of the step.
                loss = self.loss(self.model, batch) * (count / sum(counts))
                loss.backward()
                value += loss.item()
        self._check_finite("loss", value)
        if self.config.clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.params, self.config.clip, foreach=True)
            self._check_finite("gradient's norm", norm.item())
        self.whole = False
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        seconds = time.perf_counter() - began
        history = self.history
        history.steps.append(self.step)
        history.losses.append(value)
        history.lrs.append(self.config.lr * scale)
        history.seconds += seconds
        history.tokens += sum(counts)
        self.whole = True
        return value, self.config.lr * scale, sum(counts) / seconds

    def _check_finite(self, what, value):
        if not math.isfinite(value):
            recent = [f"{v:.3g}" for v in self.history.losses[-3:]]
            raise NonFiniteLoss(
                f"the {what} became {value} at step {self.step + 1} (losses before: {', '.join(recent) or 'none'}; "
                f"learning rate {self.config.lr * self.config.lr_factor(self.step):.3g}): try a third of the learning rate, a "
                "longer warmup, clip=1.0, and look for rows without any label")

    def _fingerprint(self):
        shapes = {name: list(p.shape) for name, p in self.model.named_parameters() if p.requires_grad}
        return {"config": dataclasses.asdict(self.config), "shapes": shapes}

    def save(self):
        """Write the checkpoint so that it is there whole or not at all."""
        state = {
            "fingerprint": self._fingerprint(), "step": self.step, "history": dataclasses.asdict(self.history),
            "model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
            "torch_rng": torch.get_rng_state(), "python_rng": random.getstate(), "ended": self.ended,
        }
        _write_checkpoint(self.path, state)

    def save_if_whole(self):
        """Save after an interrupt, unless it fell into the middle of an update."""
        if self.path and self.whole:
            self.save()

    def resume(self):
        """Go on from the checkpoint in `out`, if one is there."""
        if not self.path:
            return
        for leftover in self.path.parent.glob(f".{self.path.name}.*"):
            leftover.unlink(missing_ok=True)  # of a write that a kill cut short
        if not self.path.is_file():
            return
        state = read_checkpoint(self.path)
        if state["fingerprint"] != self._fingerprint():
            raise UsageError(f"{self.path} belongs to a run with other settings; delete it to start afresh, or give "
                             "another output folder")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step, self.history = state["step"], History(**state["history"])
        self.ended = state.get("ended", False)
        torch.set_rng_state(state["torch_rng"])
        if "python_rng" in state:
            random.setstate(state["python_rng"])


def read_checkpoint(path):
    """The state in a checkpoint file of `train`. Raises UsageError for any other file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["fingerprint"], state["step"], state["model"]
    except Exception as error:  # a damaged file fails in many ways
        raise UsageError(f"{path} is no checkpoint of ours; delete it to start afresh") from error
    return state


def _write_checkpoint(path, state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files.atomic_write_bytes(path, buffer.getvalue())


def change_rates(path, config):
    """Let the run of the checkpoint at `path` go on with the peak rates of `config`; no matter if there is no file.

    A run is fixed by its settings, so `train` refuses a checkpoint of other rates; here they are meant to change.
    """
    if not pathlib.Path(path).is_file():
        return
    state = read_checkpoint(path)
    old = state["fingerprint"]["config"]
    ratio = config.lr / old["lr"]
    old["lr"], old["muon_lr"] = config.lr, config.muon_lr
    for optimizer in state["optimizers"]:
        for group in optimizer["param_groups"]:
            group["peak_lr"] *= ratio
    _write_checkpoint(path, state)
