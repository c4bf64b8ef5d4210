"""Make the shipped fine-tuned models: `python -m ftlab.tune.assistants`.

Each is a shipped base after supervised fine-tuning, every weight, on all five families of tasks (`ftlab.world.tasks`,
rich world, training combinations) with a fixed seed and the defaults of `tune_full`. It is written to
ftlab/assets/<name> in float16, with a model card of what was measured. A run that was stopped resumes from
build/assistants/<name>. There is one, from base-small: `base`, tuned in the same way, scored 0.47 where this one scores
0.88.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
import time

import torch

from ftlab.model import hub, load, save
from ftlab.model.ask import ask
from ftlab.text.examples import Example
from ftlab.text.template import jinja
from ftlab.train.bases import machine_words
from ftlab.tune import sft
from ftlab.world import World, tasks

SEED = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What an assistant is made from: a base, and that many examples of each family."""

    base: str
    examples: int
    epochs: int = 1


RECIPES = {"assistant": Recipe("base-small", 3000)}


def make(name, out, work, steps=None, callbacks=(), judged=100):
    """Tune the assistant `name` and save it to the folder `out`; checkpoints go to `work`. Returns what was measured.

    judged: held-out tasks of each family for the scores.
    """
    recipe, world = RECIPES[name], World("rich")
    model, tokenizer = load(recipe.base)
    before = measure(model, tokenizer, world, judged)
    history = sft.tune_full(model, tokenizer, training_tasks(world, recipe.examples), steps=steps, epochs=recipe.epochs,
                            seed=SEED, callbacks=callbacks, out=work, save_every=100)
    facts = {"base": recipe.base, "parameters": model.num_parameters(), "examples": recipe.examples,
             "steps": len(history.steps), "tokens": history.tokens, "seconds": round(history.seconds),
             "judged": judged, "before": before, "after": measure(model, tokenizer, world, judged)}
    save(model, tokenizer, out, torch.float16, {"README.md": card(name, facts),
                                                "chat_template.jinja": jinja("alpaca", bos=True)})
    return facts


def training_tasks(world, per_family, seed=SEED):
    """`per_family` tasks of each family about stories of the training combinations."""
    return [task for family in tasks.FAMILIES for task in tasks.make(world, family, per_family, seed, "train")]


def measure(model, tokenizer, world, count, seed=1):
    """{family: mean score of greedy answers to held-out tasks}, their mean as "all", and "story_loss": the loss on
    held-out bare stories in nats per token, whose rise is what was forgotten."""
    facts = {}
    for family in tasks.FAMILIES:
        asked = tasks.make(world, family, count, seed, "test")
        answers = ask(model, tokenizer, asked)
        facts[family] = statistics.fmean(tasks.score(task, answer) for task, answer in zip(asked, answers, strict=True))
    stories = [Example(response=story.text, form="text") for story in world.sample(2 * count, seed, "test")]
    return {"all": statistics.fmean(facts.values()), **facts,
            "story_loss": sft.rows_loss(model, sft.make_rows(stories, tokenizer, loss="all"), tokenizer)}


def card(name, facts):
    """The model card: what it is, how to ask it, what was measured."""
    before, after = facts["before"], facts["after"]
    scores = [f"| {family} | {before[family]:.3f} | {after[family]:.3f} |" for family in ("all", *tasks.FAMILIES)]
    return "\n".join([
        "---", "license: apache-2.0", "language: en", "---", f"# ftlab {name}", "",
        f"`{facts['base']}` after supervised fine-tuning of every weight on instructions about the micro-world of",
        "ftlab: write a story under constraints, answer a question about one, extract a fact, rewrite it with the",
        "other ending, classify its ending.", "",
        f"Made by `python -m ftlab.tune.assistants {name}` (seed {SEED}). Prompts have Alpaca's form (the chat",
        "template makes it); an answer ends with `### End` and the end token.", "", "| | |", "|---|---|",
        f"| parameters | {facts['parameters']:,}, all trained |",
        f"| examples | {facts['examples']:,} of each of the five families, training combinations |",
        f"| training | {facts['steps']:,} steps, {facts['tokens']:,} tokens with a loss, Muon {sft.MUON_LR} and AdamW "
        f"{sft.LR} |",
        f"| time | {facts['seconds']} s on {machine_words()} |", "",
        f"Mean score of greedy answers to {facts['judged']} tasks of each family on held-out combinations:", "",
        "| | base | tuned |", "|---|---|---|", *scores, "",
        f"Loss on held-out bare stories, in nats per token: {before['story_loss']:.3f} before, "
        f"{after['story_loss']:.3f} after.", ""])


def main(arguments=None):
    """Command line: make the named assistants, by default all."""
    parser = argparse.ArgumentParser(prog="python -m ftlab.tune.assistants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(RECIPES), help=f"any of {', '.join(RECIPES)}")
    parser.add_argument("--out", type=pathlib.Path, default=hub.ASSETS, help="folder of the models (%(default)s)")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/assistants"), help="checkpoints")
    parser.add_argument("--steps", type=int, help="another number of steps, for a trial")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(RECIPES)
    if unknown:
        parser.error(f"no assistant is called {', '.join(sorted(unknown))}; choose from {', '.join(RECIPES)}")
    for name in options.names:
        began = time.time()
        facts = make(name, options.out / name, options.work / name, options.steps, [_lines(name)])
        print(f"{name}: {facts} in {(time.time() - began) / 60:.1f} min", flush=True)
        load(options.out / name)


def _lines(name):
    """A callback: a line of progress now and then."""
    def callback(event):
        if event["kind"] == "step" and event["step"] % 50 == 0:
            print(f"{name} step {event['step']}/{event['steps']} loss {event['loss']:.3f} ETA "
                  f"{event['eta_seconds']:.0f} s", file=sys.stderr, flush=True)

    return callback


if __name__ == "__main__":
    main()
