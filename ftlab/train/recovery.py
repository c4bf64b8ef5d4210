"""Divergence: seen while a run goes on, and mended from its last checkpoint at a lower rate.

Left out: what large runs do besides (skipping the batches around a spike, rewinding by more than one checkpoint).
"""

import dataclasses
import math
import pathlib
import tempfile

import torch

from ftlab import files
from ftlab.errors import UsageError
from ftlab.train.loop import CHECKPOINT, NonFiniteLoss, change_rates, read_checkpoint, tell, train

WINDOW = 8  # losses over which a mean is taken: one odd batch is no divergence
MARGIN = 0.25  # nats above the start; batches differ by less


class Diverged(UsageError):
    """The loss rose above its start; the message says at which step and what to try."""


def divergence(losses, window=WINDOW, margin=MARGIN):
    """The step (1, 2, …) at which a run with these losses had diverged, or None.

    Diverged: a loss that is not finite, or a mean of the last `window` losses more than `margin` nats above the first
    loss, which is that of the model before any update.
    """
    for step in range(1, len(losses) + 1):
        if not math.isfinite(losses[step - 1]):
            return step
        if step >= window and _mean(losses[step - window:step]) > losses[0] + margin:
            return step
    return None


def _mean(losses):
    return sum(losses) / len(losses)


class StopOnDivergence:
    """A callback for `train` that raises Diverged as soon as `divergence` would find one. Attribute: losses so far."""

    def __init__(self, window=WINDOW, margin=MARGIN):
        self.window, self.margin, self.losses = window, margin, []

    def __call__(self, event):
        self.losses = event["history"].losses
        if event["kind"] != "step" or len(self.losses) < self.window:
            return
        mean = _mean(self.losses[-self.window:])
        if mean > self.losses[0] + self.margin:
            raise Diverged(
                f"the run diverged: at step {event['step']} the mean of the last {self.window} losses is {mean:.3g}, "
                f"above the {self.losses[0]:.3g} of its start: try a third of the learning rate (now "
                f"{event['lr']:.3g}), or a longer warmup")


@dataclasses.dataclass
class Recovery:
    """A divergence that was mended: seen at `step`, said by `why`; back to step `back_to`, on with the peak rate `lr`.

    losses: those of the steps that were given up, the first of them at step `back_to` + 1.
    """

    step: int
    back_to: int
    lr: float
    why: str
    losses: list


def train_safely(model, batches, config, out=None, lower=1 / 3, attempts=3, window=WINDOW, margin=MARGIN, callbacks=(),
                 **options):
    """As `train`, but a run that diverges goes on from its last checkpoint with `lower` times the rates.

    This at most `attempts` times; then Diverged or NonFiniteLoss is raised. A checkpoint from which the run diverged a
    second time, or that holds numbers that are none, was written too late: the run then begins anew. Without `out`
    checkpoints go to a temporary folder; where config.save_every is None, twenty are written. callbacks also get an
    event of kind "recovery" with the Recovery. Returns (History, list of Recovery). What was mended is kept in `out`
    (recoveries.json), so that a run that was killed goes on with the rates it had.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return train_safely(model, batches, config, folder, lower, attempts, window, margin, callbacks, **options)
    if not 0 < lower < 1:
        raise UsageError(f"lower={lower}: the factor on the rates must lie between 0 and 1")
    if config.save_every is None:
        config = dataclasses.replace(config, save_every=max(1, config.steps // 20))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    path, record = pathlib.Path(out) / CHECKPOINT, pathlib.Path(out) / "recoveries.json"
    done = [Recovery(**entry) for entry in files.read_json(record)] if record.is_file() else []
    while True:
        rate = lower ** len(done)
        now = dataclasses.replace(config, lr=config.lr * rate, muon_lr=config.muon_lr * rate)
        if done:
            change_rates(path, now)
        watch = StopOnDivergence(window, margin)
        try:
            return train(model, batches, now, callbacks=(*callbacks, watch), out=out, **options), done
        except (Diverged, NonFiniteLoss) as error:
            if len(done) >= attempts:
                raise
            # A loss that is no number belongs to a step that was never made.
            step = len(watch.losses) + isinstance(error, NonFiniteLoss)
            back_to = _go_back(model, start, path, done)
            done.append(Recovery(step, back_to, now.lr * lower, str(error), watch.losses[back_to:]))
            files.write_json(record, [dataclasses.asdict(recovery) for recovery in done])
            tell(callbacks, kind="recovery", step=done[-1].back_to, steps=config.steps, recovery=done[-1])


def _go_back(model, start, path, before):
    """Leave `path` and `model` as the next attempt needs them; returns the step from which it begins."""
    model.load_state_dict(start)
    if not path.is_file():
        return 0
    state = read_checkpoint(path)
    again = bool(before) and before[-1].back_to == state["step"]
    if again or not all(torch.isfinite(value).all() for value in state["model"].values()):
        path.unlink()
        return 0
    return state["step"]
