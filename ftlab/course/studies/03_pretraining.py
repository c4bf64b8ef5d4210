"""Claims of lab 03_pretraining and how a study measures them, one seed at a time."""

import functools
import math
import statistics

from ftlab.course.checks import load
from ftlab.measure.claims import Claim

LAB = "03_pretraining"
SAMPLES = 500  # stories judged for C10
TASKS = 40  # instructions of each family for C14
MEMORISED, MEMORISING_STEPS, MEMORISING_WIDTH = 64, 240, 64

# C13, fixed before the study: widths and steps of the fitted runs, all in the stretch before copying sets in; the run
# to foretell has the largest width and four times the steps.
WIDTHS, STEPS = (24, 32, 40), (150, 190, 245, 315)
BIG = (40, 4 * 315)
SCALING_STORIES, SCALING_TOKENS_PER_BATCH = 3000, 256

fit_power_law = load(LAB).fit_power_law


# -- C10 and C12: the small run

_small_runs = {}


def small_run(seed, report):
    """The recipe's run of one seed: dict(steps, tokens, seconds, losses, evals, loss, floor, shares). Kept for C12."""
    if seed not in _small_runs:
        from ftlab.train import train
        from ftlab.train.recipes import small_recipe

        recipe = small_recipe(seed)
        model = recipe.model()
        history = train(model, recipe.batches, recipe.config, evaluate=recipe.evaluate(), callbacks=[_told(report)])
        report("writing stories")
        _small_runs.clear()
        _small_runs[seed] = {
            "steps": history.steps[-1], "tokens": history.tokens, "seconds": round(history.seconds, 1),
            "losses": _thin(history.losses), "evals": history.evals, "loss": recipe.held_out_loss(model),
            "floor": recipe.floor, "shares": recipe.shares(recipe.sample(model, SAMPLES, seed)),
        }  # fmt: skip
    return _small_runs[seed]


def measure_kept(seed, report):
    run = small_run(seed, report)
    evals = [{name: round(value, 4) for name, value in e.items()} for e in run["evals"]]
    return {"value": run["shares"]["hero_and_object"], "every_rule": run["shares"]["every_rule"], "evals": evals,
            **{name: run[name] for name in ("steps", "tokens", "seconds", "losses")}}


def measure_gap(seed, report):
    run = small_run(seed, report)
    return {"value": run["loss"] - run["floor"], "loss": run["loss"], "floor": run["floor"], "tokens": run["tokens"]}


def _told(report):
    """A callback that says where a run is, now and then."""
    def callback(event):
        if event["kind"] == "step" and event["step"] % 20 == 0:
            report(f"step {event['step']} of {event['steps']}, loss {event['loss']:.3f}")

    return callback


def _thin(losses, points=80):
    """{"steps", "losses"}: the means over `points` equal stretches, for a committed curve."""
    size = max(1, math.ceil(len(losses) / points))
    cuts = range(0, len(losses), size)
    return {"steps": [min(i + size, len(losses)) for i in cuts],
            "losses": [round(statistics.fmean(losses[i:i + size]), 4) for i in cuts]}


# -- C13: a small scaling law

@functools.lru_cache(maxsize=1)
def scaling_data(seed):
    """(tokenizer, rows of training stories, held-out texts, floor) of the rich world; each run takes the rows it needs."""
    from ftlab.text import Tokenizer
    from ftlab.world import World

    world = World("rich")
    texts = [story.text for story in world.sample(SCALING_STORIES, seed)]
    tokenizer = Tokenizer.train(texts, 1024)
    held_out = world.sample(300, 1, "test")
    tokens = sum(len(ids) + 1 for ids in tokenizer.encode_batch([s.text for s in held_out]))  # the end is a token too
    return (tokenizer, tokenizer.encode_batch(texts, bos=True, eos=True), [s.text for s in held_out],
            sum(-s.logp for s in held_out) / tokens)


def scaling_run(width, steps, seed, callbacks=()):
    """One run of a model of `width` for `steps` steps of fresh stories, its schedule ending with it: a dict of numbers."""
    from ftlab.model import ModelConfig
    from ftlab.text.batching import RowBatches
    from ftlab.train import TrainConfig, train
    from ftlab.train.recipes import LR, MUON_LR, Recipe

    tokenizer, rows, held_out, floor = scaling_data(seed)
    recipe = Recipe(
        tokenizer, RowBatches(rows, SCALING_TOKENS_PER_BATCH, seed, tokenizer.pad_id),
        ModelConfig(tokenizer.vocab_size, width, num_layers=2, num_heads=width // 8, intermediate_size=8 * round(width / 3)),
        TrainConfig(steps, lr=LR, optimizer="muon", muon_lr=MUON_LR, warmup=0.1, seed=seed), held_out, None, floor)
    model = recipe.model()
    history = train(model, recipe.batches, recipe.config, callbacks=callbacks)
    parameters = model.num_parameters()
    return {"width": width, "parameters": parameters, "tokens": history.tokens,
            "compute": 6 * parameters * history.tokens, "loss": round(recipe.held_out_loss(model), 5), "floor": floor,
            "seconds": round(history.seconds, 1)}


def fit(runs):
    """(A, alpha, beta) of the law fitted to runs."""
    return fit_power_law([r["parameters"] for r in runs], [r["tokens"] for r in runs], [r["loss"] for r in runs],
                         runs[0]["floor"])


def measure_scaling(seed, report):
    runs = []
    for width in WIDTHS:
        for steps in STEPS:
            report(f"run {len(runs) + 1} of {len(WIDTHS) * len(STEPS)}: width {width}, {steps} steps")
            runs.append(scaling_run(width, steps, seed))
    factor, alpha, beta = fit(runs)
    report("the large run")
    big = scaling_run(*BIG, seed)
    predicted, measured = factor * big["parameters"] ** -alpha * big["tokens"] ** -beta, big["loss"] - big["floor"]
    return {"value": abs(predicted / measured - 1), "predicted": predicted, "measured": measured, "A": factor,
            "alpha": alpha, "beta": beta, "floor": big["floor"], "runs": runs, "big": big,
            "compute_ratio": big["compute"] / max(run["compute"] for run in runs)}


# -- C14: the base and instructions

def instruction_scores(model, tokenizer, tasks_, seed, read=True, report=None):
    """(scores, answers) of `model` on tasks under the Alpaca template, sampled at temperature 1.

    read=False hides the prompt: the model starts from its start token alone, so nothing it says can depend on the task.
    An answer ends at the first line break: what a model writes after its answer is not held against it.
    """
    from ftlab.model import generate
    from ftlab.text.template import alpaca
    from ftlab.world import tasks

    prompts = [tokenizer.encode(alpaca(task.instruction, task.input) if read else "", bos=True) for task in tasks_]
    answers = []
    for first in range(0, len(prompts), 40):
        if report:
            report(f"{'with' if read else 'without'} the prompt: {first} of {len(prompts)}")
        rows = generate(model, prompts[first:first + 40], 150, 1.0, eos_id=tokenizer.eos_id, seed=1000 * seed + first)
        answers += [tokenizer.decode(row).strip().split("\n")[0].strip() for row in rows]
    return [tasks.score(task, answer) for task, answer in zip(tasks_, answers)], answers


def measure_base(seed, report):
    from ftlab.model import load as load_model
    from ftlab.world import World, tasks

    model, tokenizer = load_model("base")
    world = World("rich")
    asked = [task for family in tasks.FAMILIES for task in tasks.make(world, family, TASKS, seed, "test")]
    reading, _ = instruction_scores(model, tokenizer, asked, seed, True, report)
    blind, _ = instruction_scores(model, tokenizer, asked, seed, False, report)

    def by_family(scores):
        return {family: round(statistics.fmean(s for s, task in zip(scores, asked) if task.family == family), 4)
                for family in tasks.FAMILIES}

    return {"value": statistics.fmean(reading) - statistics.fmean(blind), "base": statistics.fmean(reading),
            "blind": statistics.fmean(blind), "base_by_family": by_family(reading), "blind_by_family": by_family(blind)}


# -- M02: memorising

def measure_memorising(seed, report):
    from ftlab.text.batching import RowBatches
    from ftlab.train import train
    from ftlab.train.recipes import TOKENS_PER_BATCH, small_recipe

    recipe = small_recipe(seed, MEMORISING_STEPS, hidden_size=MEMORISING_WIDTH, intermediate_size=176)
    few = recipe.batches.rows[:MEMORISED]
    model = recipe.model()
    history = train(model, RowBatches(few, TOKENS_PER_BATCH, seed), recipe.config, callbacks=[_told(report)])
    train_loss = statistics.fmean(history.losses[-8:])  # two passes over the stories
    held_out = recipe.held_out_loss(model)
    return {"value": min(recipe.floor - train_loss, held_out - recipe.floor), "training_loss": train_loss,
            "held_out_loss": held_out, "floor": recipe.floor}


CLAIMS = [
    Claim(
        id="C10", kind="measured", lab=LAB,
        statement="From nothing, the small setting learns to keep hero and object in at least 90 % of its stories, after "
                  "the 0.8 million tokens that its recipe fixes.",
        metric=f"share of {SAMPLES} stories sampled at temperature 1 with hero and object kept",
        at_least=0.90, measure=measure_kept,
    ),
    Claim(
        id="C12", kind="measured", lab=LAB,
        statement="The held-out loss of that run comes close to the entropy of the source.",
        metric="held-out loss minus floor, on stories of unseen combinations", unit="nats per token",
        at_most=0.02, measure=measure_gap,
    ),
    Claim(
        id="C13", kind="measured", lab=LAB,
        statement="A power law in the excess loss L − H, fitted to 12 short runs, predicts the excess of a run of 4 times "
                  "the largest one's compute within 20 %.",
        metric="distance of predicted / measured excess from 1", version=2,
        at_most=0.20, measure=measure_scaling,
        note="On the rich world, in the stretch before copying sets in. In a first study across that onset, on the small "
             "world, the fit was off by 58 to 98 % (and the large run there had 6 times the compute, not 4).",
    ),
    Claim(
        id="C14", kind="measured", lab=LAB,
        statement="The shipped base does not follow instructions: it scores at most 5 points above itself with the "
                  "prompt hidden.",
        metric="mean score on the five task families, prompt read minus prompt hidden",
        at_most=0.05, measure=measure_base,
    ),
    Claim(
        id="M02", kind="measured", lab=LAB,
        statement="A model that memorises 64 stories goes below the floor in training and stays above it on new stories: "
                  "the floor, and not zero, is the aim.",
        metric="floor minus training loss, or held-out loss minus floor, whichever is smaller", unit="nats per token",
        at_least=0.1, measure=measure_memorising,
    ),
]
