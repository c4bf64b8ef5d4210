"""Make the shipped aligned models: `python -m ftlab.align.aligned`.

Both start from the shipped assistant at the temperature of its comparisons and learn from all of these, as simulated
annotators rank them: `aligned-ppo` by a reward model and PPO, `aligned-dpo` by DPO, with a fixed seed and the settings of
Labs 10 and 11. They are written to ftlab/assets/<name> in float16, with a model card of what was measured.
"""

import argparse
import dataclasses
import pathlib
import sys
import time

import torch

from ftlab.align import annotators, dpo, judge, pairs, ppo, reward
from ftlab.model import hub, load, save
from ftlab.text.template import jinja
from ftlab.train.bases import machine_words
from ftlab.tune import assistants
from ftlab.world import World, tasks

SEED, NOISE, PROMPTS = 0, 1.0, 3000
PPO = {"iterations": 60, "answers": 32, "minibatch": 32, "lr": 5e-4, "kl_coef": 0.05}
DPO = {"beta": dpo.BETA, "lr": dpo.LR}


@dataclasses.dataclass(frozen=True)
class Made:
    """A policy and how it came about, in words."""

    policy: torch.nn.Module
    how: str


def by_ppo(start, tokenizer, ranked, progress=None, **changes):
    """A reward model from the ranked pairs, then PPO against it."""
    made, _ = reward.train_reward_model(start, tokenizer, ranked, seed=SEED, callbacks=progress or ())
    some = pairs.response_rows([pair.prompt for pair in ranked[:200]], [pair.chosen for pair in ranked[:200]], tokenizer)
    made = reward.centred(made, reward.rewards_of(made, some, tokenizer))  # chosen answers have reward 0: a level, no more
    config = ppo.PPOConfig(**PPO | {"seed": SEED} | changes)
    asked = tasks.make(World("rich"), "write", max(config.answers, PROMPTS), f"aligned/{SEED}")
    policy, _ = ppo.ppo(start, tokenizer, asked, judge.asked(asked, tokenizer), judge.by_model(made), config,
                        callbacks=progress or ())
    return Made(policy, f"a reward model from {len(ranked):,} pairs, then PPO: {config.iterations} iterations of "
                        f"{config.answers} answers, rate {config.lr:g}, KL coefficient {config.kl_coef:g}")


def by_dpo(start, tokenizer, ranked, progress=None, **changes):
    """DPO on the ranked pairs."""
    settings = DPO | {"seed": SEED} | changes
    policy, history, _ = dpo.dpo(start, tokenizer, ranked, callbacks=progress or (), **settings)
    return Made(policy, f"DPO on {len(ranked):,} pairs: {len(history.steps)} steps, beta {settings['beta']:g}, rate "
                        f"{settings['lr']:g}")


RECIPES = {"aligned-ppo": by_ppo, "aligned-dpo": by_dpo}


def make(name, out, count=None, judged=200, progress=None, **changes):
    """Make the model `name` from `count` comparisons (all when None) and save it to the folder `out`; returns what was
    measured on `judged` held-out prompts, before and after. changes: of the recipe's settings."""
    (model, tokenizer), began = load(annotators.MODEL), time.perf_counter()
    start = ppo.sharpened(model, annotators.TEMPERATURE)
    ranked = annotators.ranked(annotators.comparisons("train")[:count], NOISE, seed=SEED)
    made = RECIPES[name](start, tokenizer, ranked, progress, **changes)
    seconds = time.perf_counter() - began
    asked = tasks.make(World("rich"), "write", judged, f"aligned/{SEED}/held out", "test")
    facts = {"how": made.how, "seconds": round(seconds), "judged": judged,
             **{when: {**judge.measured(policy, start, tokenizer, asked, SEED),
                       "instructions": assistants.measure(policy, tokenizer, World("rich"), max(1, judged // 5))["all"]}
                for when, policy in (("before", start), ("after", made.policy))}}
    save(made.policy, tokenizer, out, torch.float16, {"README.md": card(name, facts),
                                                      "chat_template.jinja": jinja("alpaca", bos=True)})
    return facts


def card(name, facts):
    """The model card: what it is, how it was made, what was measured."""
    rows = (("true utility", "utility", "{:+.2f}"), ("stories that keep every rule", "valid", "{:.2f}"),
            ("tokens an answer", "length", "{:.0f}"), ("KL from the start, nats an answer", "kl", "{:.1f}"),
            ("instruction score, all families, greedy", "instructions", "{:.3f}"))
    return "\n".join([
        "---", "license: apache-2.0", "language: en", "---", f"# ftlab {name}", "",
        f"`{annotators.MODEL}` of ftlab after preference alignment on instructions to write a story of its micro-world.",
        f"It starts from that model at temperature {annotators.TEMPERATURE:g}, which is built into its last norm: sample this",
        "one at temperature 1.", "", f"Made by `python -m ftlab.align.aligned {name}` (seed {SEED}): {facts['how']}; "
        f"{facts['seconds']} s on {machine_words()}. The annotators are simulated (Bradley-Terry, noise {NOISE:g}).", "",
        f"Answers to {facts['judged']} held-out prompts, sampled at temperature 1:", "",
        "| | before | after |", "|---|---|---|",
        *(f"| {words} | {form.format(facts['before'][key])} | {form.format(facts['after'][key])} |"
          for words, key, form in rows),
        ""])


def main(arguments=None):
    """Command line: make the named models, by default both."""
    parser = argparse.ArgumentParser(prog="python -m ftlab.align.aligned", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(RECIPES), help=f"any of {', '.join(RECIPES)}")
    parser.add_argument("--out", type=pathlib.Path, default=hub.ASSETS, help="folder of the models (%(default)s)")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(RECIPES)
    if unknown:
        parser.error(f"no model is called {', '.join(sorted(unknown))}; choose from {', '.join(RECIPES)}")
    for name in options.names:
        facts = make(name, options.out / name, progress=[_lines(name)])
        print(f"{name}: {facts['how']}", flush=True)
        load(options.out / name)


def _lines(name):
    """A callback: a line of progress now and then."""
    def callback(event):
        if event["kind"] == "step" and event["step"] % 10 == 0:
            print(f"{name} step {event['step']}/{event['steps']} ETA {event['eta_seconds']:.0f} s", file=sys.stderr, flush=True)

    return callback


if __name__ == "__main__":
    main()
