"""The short runs of Lab 05, one recipe for all: its explorer, its studies and what it runs live.

`python -m ftlab.train.sweeps` makes the explorer's runs, two at a time, and writes them to
ftlab/assets/sweeps/learning_rate.json. One factor at a time is changed around BASE, and each value is run at every rate
of RATES. The command says how long it will take, and goes on where it was stopped.

Every run makes the same number of steps: at a larger batch it reads more text. "Rate" is AdamW's peak rate; with Muon
the hidden matrices take MUON_RATIO times it.
"""

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import signal
import sys
import time

from ftlab import files
from ftlab.train.loop import NonFiniteLoss, train
from ftlab.train.recipes import small_recipe
from ftlab.train.recovery import divergence

BASE = {"schedule": "cosine", "warmup": 0.05, "batch": 256, "optimizer": "muon"}
FACTORS = {
    "schedule": ("constant", "linear", "cosine", "wsd"),
    "warmup": (0.0, 0.05, 0.2, 0.5),
    "batch": (64, 128, 256, 512),
    "optimizer": ("adamw", "muon"),
}
RATES = tuple(0.001 * 2**i for i in range(9))
STEPS = 320
MUON_RATIO = 3.0
MODEL = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 176}
SEED = 7
POINTS = 48  # of a committed curve
VERSION = 1
PLACE = pathlib.Path(__file__).resolve().parents[1] / "assets" / "sweeps" / "learning_rate.json"


def short_recipe(seed, rate, schedule="cosine", warmup=0.05, batch=256, optimizer="muon", steps=STEPS, **changes):
    """The Recipe of a short run: 0.13 M parameters on bare stories of the small world.

    rate: the peak. warmup: share of the steps, or their number. batch: tokens of a batch, at most (64: a single story).
    changes: as `small_recipe` takes them.
    """
    settings = {"optimizer": optimizer, "lr": rate, "muon_lr": MUON_RATIO * rate, "schedule": schedule,
                "warmup": warmup}
    return small_recipe(seed, steps, 1, batch, **MODEL | settings | changes)


def short_run(seed, rate, callbacks=(), model=None, **settings):
    """One short run to its end: dict(rate, settings, steps, losses, final, floor, diverged_at, seconds).

    losses: of every step, in nats per token, up to the first that is no number. final: held-out loss, None where the
    loss became no number. diverged_at: the step at which `divergence` found one, or None.
    """
    recipe = short_recipe(seed, rate, **settings)
    model = recipe.model() if model is None else model
    watch, final = _Losses(), None
    began = time.perf_counter()
    try:
        train(model, recipe.batches, recipe.config, callbacks=[watch, *callbacks])
        final = recipe.held_out_loss(model)
    except NonFiniteLoss:
        watch.losses.append(math.nan)
    final = final if final is not None and math.isfinite(final) else None
    finite = list(itertools.takewhile(math.isfinite, watch.losses))
    return {"rate": rate, **settings, "steps": recipe.config.steps, "losses": finite, "final": final,
            "floor": recipe.floor, "diverged_at": divergence(watch.losses),
            "seconds": round(time.perf_counter() - began, 2)}  # fmt: skip


class _Losses:
    """A callback that keeps the losses, whatever becomes of the run."""

    def __init__(self):
        self.losses = []

    def __call__(self, event):
        if event["kind"] == "step":
            self.losses.append(event["loss"])


def best_rate(rates, losses):
    """The rate of the lowest loss, finer than the grid: the vertex of the parabola through it and its neighbours.

    rates: rising, evenly spaced on a log axis. losses: one a rate; None, NaN or infinite where the run diverged. Where
    a neighbour is missing or diverged, the lowest's own rate. Raises ValueError where no loss is a number.
    """
    values = [math.inf if loss is None or math.isnan(loss) else loss for loss in losses]
    best = min(range(len(values)), key=values.__getitem__)
    if math.isinf(values[best]):
        raise ValueError("every run diverged: there is no best rate")
    if not 0 < best < len(values) - 1:
        return rates[best]
    left, low, right = values[best - 1:best + 2]
    curvature = left - 2 * low + right
    if not (math.isfinite(curvature) and curvature > 0):
        return rates[best]
    return rates[best] * (rates[best + 1] / rates[best]) ** (0.5 * (left - right) / curvature)


def edges(rates, losses, rise=0.1):
    """(low, high): where the U of `losses` over `rates` stands `rise` nats above its lowest point, on either side.

    Between two rates of the grid the loss is taken as a straight line over the logarithm; None where a side never rises
    so far. A diverged run counts as infinitely high: the edge is then the last rate before it.
    """
    values = [math.inf if loss is None or math.isnan(loss) else loss for loss in losses]
    best = min(range(len(values)), key=values.__getitem__)
    level = values[best] + rise
    return tuple(_crossing(rates, values, best, step, level) for step in (-1, 1))


def _crossing(rates, values, start, step, level):
    i = start
    while 0 <= i + step < len(values):
        inner, outer = values[i], values[i + step]
        if outer >= level:
            share = (level - inner) / (outer - inner) if math.isfinite(outer) else 0.0
            return rates[i] * (rates[i + step] / rates[i]) ** share
        i += step
    return None


def thin(losses, steps, points=POINTS):
    """Means of `losses` over `points` equal stretches of a run planned for `steps`; fewer where it broke off."""
    cuts = [i * steps // points for i in range(points + 1)] if steps > points else range(steps + 1)
    parts = [losses[a:b] for a, b in itertools.pairwise(cuts)]
    return [round(sum(part) / len(part), 3) for part in parts if part]


# -- the explorer's runs

def settings_of_sweep():
    """The settings of every run: [{"rate", "schedule", "warmup", "batch", "optimizer"}], each once."""
    others = [(name, value) for name, values in FACTORS.items() for value in values if value != BASE[name]]
    ways = [BASE, *(BASE | {name: value} for name, value in others)]
    return [{"rate": rate, **way} for way in ways for rate in RATES]


def name_of(settings):
    """A run's name, such as "0.016 cosine 0.05 256 muon"."""
    return " ".join(format(settings[key], "g") if isinstance(settings[key], (int, float)) else settings[key]
                    for key in ("rate", *FACTORS))  # fmt: skip


def sweep_run(settings, steps=STEPS):
    """One run of the sweep as it is committed: dict(settings, start, losses (thinned), final, diverged_at, ...).

    seconds: of processor time, so that what else the machine does is not in them.
    """
    began = time.process_time()
    run = short_run(SEED, steps=steps, **settings)
    seconds = round(time.process_time() - began, 2)
    final = None if run["final"] is None else round(run["final"], 4)
    return {**settings, "steps": run["steps"], "start": round(run["losses"][0], 3), "final": final,
            "diverged_at": run["diverged_at"], "seconds": seconds, "losses": thin(run["losses"], run["steps"])}


def make_sweep(out=PLACE, work=None, jobs=2, steps=STEPS, settings=None, report=None):
    """Make the runs that `work` does not hold yet, `jobs` at a time, and write all of them to `out`. Returns the data.

    work: a file that keeps what is done (default: build/sweeps). settings: which runs (default: all).
    """
    work = pathlib.Path(work or pathlib.Path("build") / "sweeps" / f"{pathlib.Path(out).stem}.json")
    settings = settings_of_sweep() if settings is None else settings
    done = _done(work, steps)
    todo = [s for s in settings if name_of(s) not in done]
    for number, run in enumerate(_results(todo, jobs, steps, time.perf_counter(), report or (lambda text: None)), 1):
        done[name_of(run)] = run
        files.write_json(work, {"version": VERSION, "steps": steps, "runs": done}, indent=None)
        if number == len(todo):
            break
    data = {
        "made by": "python -m ftlab.train.sweeps", "version": VERSION, "base": BASE, "rates": list(RATES),
        "factors": {name: list(values) for name, values in FACTORS.items()}, "steps": steps, "points": POINTS,
        "floor": round(short_recipe(SEED, 0.01, steps=steps).floor, 4), "runs": [done[name_of(s)] for s in settings],
    }  # fmt: skip
    files.atomic_write_text(out, _json_by_lines(data))
    return data


def _done(work, steps):
    """{name: run} of an earlier, stopped sweep of the same kind."""
    try:
        kept = files.read_json(work)
    except (OSError, ValueError):
        return {}
    return kept["runs"] if (kept.get("version"), kept.get("steps")) == (VERSION, steps) else {}


def _results(todo, jobs, steps, began, report):
    """The runs of `todo` as they end, in `jobs` processes of one thread each (so small a model has no use for two)."""
    if not todo:
        report("nothing to do: every run is there")
        return
    run = functools.partial(sweep_run, steps=steps)
    # The children read these when they start, before they load torch.
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        # Ctrl-C is for the parent alone: it ends the children.
        ignored = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
        with multiprocessing.get_context("spawn").Pool(jobs, **ignored) as pool:
            for number, result in enumerate(pool.imap_unordered(run, todo), 1):
                left = (time.perf_counter() - began) / number * (len(todo) - number)
                end = "diverged" if result["diverged_at"] else f"loss {result['final']:.3f}"
                report(f"run {number} of {len(todo)}: {name_of(result)}: {end}, {result['seconds']:.1f} s; "
                       f"ETA {left / 60:.1f} min")
                yield result
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _json_by_lines(data):
    """JSON with one line a run: small, and a change of one run is a change of one line."""
    runs = ",\n  ".join(json.dumps(run, separators=(",", ":"), allow_nan=False) for run in data["runs"])
    head = json.dumps(data | {"runs": []}, indent=1, allow_nan=False)
    return head.replace('"runs": []', f'"runs": [\n  {runs}\n ]') + "\n"


def load_sweep(path=PLACE):
    """The committed runs, as `make_sweep` wrote them."""
    return files.read_json(path)


def main(arguments=None):
    """Command line: make the explorer's runs."""
    parser = argparse.ArgumentParser(prog="python -m ftlab.train.sweeps", description=__doc__.splitlines()[0],
                                     epilog="example: python -m ftlab.train.sweeps --jobs 2")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (%(default)s)")
    parser.add_argument("--out", type=pathlib.Path, default=PLACE, help="the file to write")
    parser.add_argument("--work", type=pathlib.Path, help="file that keeps what is done (default: under build/sweeps)")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of a run, for a trial (%(default)s)")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or options.steps < 1:
        parser.error("--jobs and --steps must be at least 1")
    try:
        data = make_sweep(options.out, options.work, options.jobs, options.steps,
                          report=lambda text: print(text, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    print(f"{len(data['runs'])} runs in {options.out}, {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
