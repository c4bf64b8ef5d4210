"""Comparisons of a model's own answers, and simulated annotators who rank them.

Two answers of the shipped assistant to the same prompt, drawn at temperature 0.5, and the true utility of each: that is a
`Comparison`. What an annotator prefers follows from it by Bradley and Terry's model, with noise and a bias for length as
one likes (`ranked`); so one file of comparisons serves every annotator. The shipped file is made by
`python -m ftlab.align.annotators`.
"""

import argparse
import dataclasses
import functools
import gzip
import json
import random
import sys

from ftlab import files
from ftlab.errors import UsageError
from ftlab.world import World, tasks
from ftlab.world.grammar import count_tokens

MODEL, SEED = "assistant", 0
COUNTS = {"train": 4000, "test": 600}  # comparisons on prompts of the training and of the held-out combinations
TEMPERATURE, MAX_NEW_TOKENS = 0.5, 140


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A prompt and two answers, with the true utility of each."""

    prompt: str
    a: str
    b: str
    utility_a: float
    utility_b: float


def shipped():
    """The file of comparisons in the package."""
    from ftlab.model.hub import ASSETS

    return ASSETS / "preferences" / "comparisons.jsonl.gz"


@functools.cache
def comparisons(split="train"):
    """The shipped comparisons of a split ("train" or "test"), a tuple."""
    if split not in COUNTS:
        raise UsageError(f"no split is called {split!r}; choose train or test")
    with gzip.open(shipped(), "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(Comparison(**{key: row[key] for key in ("prompt", "a", "b", "utility_a", "utility_b")})
                 for row in rows if row["split"] == split)


def ranked(compared, noise=0.0, length_bias=0.0, seed=0, ties=False):
    """Comparisons as a simulated annotator ranks them: a list of `ftlab.world.preference.Pair`.

    noise: temperature of Bradley and Terry's model, in units of the utility (0: the better one always). length_bias: what
    ten more words and marks are worth to this annotator. Equal answers, and without `ties` those of equal utility, are
    left out: there is nothing to prefer.
    """
    rng, pairs = random.Random(f"ranked/{seed}"), []
    for one in compared:
        margin = one.utility_a - one.utility_b
        felt = margin + length_bias * (count_tokens(one.a) - count_tokens(one.b)) / 10
        first = rng.random() < tasks.preference_probability(felt, noise)
        if one.a == one.b or not margin and not ties:
            continue
        pairs.append(tasks.Pair(one.prompt, one.a, one.b, margin) if first else
                     tasks.Pair(one.prompt, one.b, one.a, -margin))
    return pairs


# -- making the file

def sample(model, tokenizer, asked, seed=SEED, progress=None):
    """[Comparison, …]: two answers of a model to each "write" task."""
    from ftlab.align.judge import utility
    from ftlab.model.ask import ask

    answers = [ask(model, tokenizer, asked, max_new_tokens=MAX_NEW_TOKENS, temperature=TEMPERATURE, batch_size=128,
                   seed=seed + side * 1_000_000,
                   progress=progress and (lambda done, of, side=side: progress(f"answers {side + 1}: {done} of {of}")))
               for side in (0, 1)]
    return [Comparison(task.instruction, a, b, utility(task, a), utility(task, b))
            for task, a, b in zip(asked, *answers, strict=True)]


def make(path, counts=None, seed=SEED, progress=None):
    """Write the file of comparisons; returns {split: number}."""
    from ftlab.model import load

    (model, tokenizer), world, lines = load(MODEL), World("rich"), []
    for split, count in (counts or COUNTS).items():
        asked = tasks.make(world, "write", count, f"comparisons/{seed}", split)
        for one in sample(model, tokenizer, asked, seed, progress):
            row = dataclasses.asdict(one)
            row |= {key: round(row[key], 4) for key in ("utility_a", "utility_b")}
            lines.append(json.dumps({"split": split, **row}, ensure_ascii=False))
    # mtime 0: the same comparisons make the same bytes
    files.atomic_write_bytes(path, gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))
    return counts or COUNTS


def main(arguments=None):
    """Command line: make the shipped file."""
    parser = argparse.ArgumentParser(prog="python -m ftlab.align.annotators", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(shipped()), help="the file (default: the package's)")
    options = parser.parse_args(arguments)
    made = make(options.out, progress=lambda text: print(text, file=sys.stderr, flush=True))
    print(f"{options.out}: {made}")


if __name__ == "__main__":
    main()
