"""Make the shipped base models: `python -m ftlab.train.bases` (all) or `python -m ftlab.train.bases base-small`.

Each is pretrained from nothing on the mix of `ftlab.world.tasks.pretraining_mix` (rich world) with a fixed seed, and
written to ftlab/assets/<name> in Hugging Face's format, in float16, with a model card of what was measured.
The run resumes from build/bases/<name> when it was stopped.
"""

import argparse
import dataclasses
import math
import pathlib
import random
import sys
import time

import torch

from ftlab import profile
from ftlab.model import ModelConfig, Transformer, generate, hub, load, save
from ftlab.text import Tokenizer
from ftlab.text.batching import IGNORE, Batch, MaskedBatches, RowBatches, collate
from ftlab.train.loop import TrainConfig, train
from ftlab.world import World, oracle, tasks

VOCAB_SIZE = 1024
ROPE_THETA = 500_000.0  # Llama 3's: of 16 pairs of a head, 10 turn by less than an angle of 3 over a story of 250 tokens
SEED = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Shape and training of one base.

    A base is worth as much as it copies: an answer is a word of the story. On bare stories and the mix, hero, helper
    and colour were copied after 8,000 steps; of object, kind, place and trait not one answer in ten, and neither fine-
    tuning nor 1,800 steps more with many questions mended that. What did, in trials of 400 to 2,000 steps from nothing:
    - many questions about one passage from the first step on (`first`), of the small world too, where a class has few
      words, with the loss on the questions and answers alone: classes are learned one after another, each after so many
      answers;
    - stories told twice (`retold`), where every class and whole sentences are copied: places, which questions alone had
      brought to 0.4 after 9,000 steps, were copied in every story after 800 more;
    - attention that begins by copying (`start_copying`), and sentences said again (`repeated`): on these the heads form
      that find a place by more than one token, so that whole sentences are copied;
    - a third layer with heads 32 wide: repeated sentences cost 0.23 nats a token after 1,200 steps of nothing else, 0.37
      with heads of 16, and with two layers 0.44 and 0.41 (all from the rotations of `start_copying` alone);
    - a tokenizer in which a word that begins a line is the word within one (`Tokenizer.train`, line_starts): before, each
      answer behind a line break had to be spelled, and after fine-tuning 4 % of answers were right instead of 50 %.
    The base-small that this makes answers 89 % of questions behind a story and as many of those before one; of two
    animals, hero's and helper's, it still takes one by chance. Of stories told again it copies all the sentences that
    both endings share in 55 of 100. 350 steps of copying alone at the very start (`copy_steps`) make better stories of
    it (every rule kept in 51 of 100, 30 without; 70 of 100 copied), and a worse base to tune: colour, place and trait
    were then not found where the question comes first (57 % of those answered), nor after 1,800 steps more, and the
    instruction score after 400 steps of tuning was 0.77 instead of 0.83. (One run of each.)
    `base` begins by copying and is asked more: it answers 84 % of both kinds, all but endings and one of two animals,
    which remain chance; it copies whole in 17 of 100 retold stories, keeps every rule in 12, and is the worse one to tune.
    The rates fall all the way: at a steady rate the held-out loss stood at 0.72 from step 800 to step 2400, while one
    that fell was at 0.62 after 1,000 steps. Rates of half and of twice these, and batches of half the tokens, were no
    better.

    copy_steps: so many steps of nothing but sentences and their copies come before all else.
    first, then: weights by which each later step draws the source of its batch, up to `first_steps` and after them.
    documents of the mix and `stories` of each other source are drawn once.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    steps: int
    causal: bool = True
    copy_steps: int = 0
    first_steps: int = 3000
    first: tuple = (("repeated", 20), ("questions", 33), ("small questions", 10), ("retold", 14), ("small retold", 4),
                    ("mix", 14), ("rich", 5))
    then: tuple = (("mix", 34), ("questions", 28), ("retold", 14), ("repeated", 10), ("rich", 14))
    documents: int = 60_000
    stories: int = 25_000
    tokens_per_batch: int = 1024
    lr: float = 1e-2
    muon_lr: float = 0.03


RECIPES = {
    "base": Recipe(160, 4, 5, 432, steps=10_000, copy_steps=350, first_steps=4000, first=(
        ("questions", 42), ("small questions", 14), ("retold", 13), ("small retold", 4), ("repeated", 5), ("mix", 16),
        ("rich", 6))),
    "base-small": Recipe(128, 3, 4, 344, steps=12_000),
    "base-masked": Recipe(128, 2, 8, 344, 3000, causal=False, first_steps=0, then=(("mix", 1),)),
}


def make(name, out, work, steps=None, callbacks=()):
    """Pretrain the base `name` and save it to the folder `out`; checkpoints go to `work`. Returns what was measured."""
    recipe = RECIPES[name]
    steps = steps or recipe.steps
    world = World("rich")
    documents = list(tasks.pretraining_mix(world, recipe.documents, SEED))
    tokenizer = Tokenizer.train(documents[:20_000], VOCAB_SIZE, line_starts=True)
    batches = _Curriculum({
        name: RowBatches(_rows(texts, tokenizer), recipe.tokens_per_batch, SEED, tokenizer.pad_id)
        for name, texts in sources(world, documents, recipe.stories)}, recipe, steps)
    if not recipe.causal:
        batches = MaskedBatches(batches, tokenizer.mask_id, tokenizer.vocab_size, seed=SEED)
    torch.manual_seed(SEED)
    model = Transformer(ModelConfig(
        tokenizer.vocab_size, recipe.hidden_size, recipe.num_layers, recipe.num_heads, recipe.intermediate_size,
        rope_theta=ROPE_THETA, causal=recipe.causal))
    if recipe.causal:
        start_copying(model)
    config = TrainConfig(steps, lr=recipe.lr, optimizer="muon", muon_lr=recipe.muon_lr, schedule="linear", warmup=50,
                         save_every=500, eval_every=500, seed=SEED)
    history = train(model, batches, config, evaluate=lambda model, step: _held_out(model, tokenizer, world, 64),
                    callbacks=callbacks, out=work)
    facts = {"parameters": model.num_parameters(), "vocab_size": tokenizer.vocab_size, "steps": history.steps[-1],
             "tokens": history.tokens, "seconds": round(history.seconds), **measure(model, tokenizer, world)}
    save(model, tokenizer, out, torch.float16, {"README.md": card(name, recipe, facts)})
    return facts


def sources(world, documents, stories):
    """(name, texts) of what a base learns from: the mix's `documents`, bare stories, passages with questions, stories
    told twice; the last two of the small world as well."""
    small = World("small")
    yield "mix", documents
    yield "rich", [story.text for story in world.sample(stories, SEED, "train")]
    for size, some in (("small ", small), ("", world)):
        yield f"{size}questions", list(tasks.question_series(some, stories, SEED))
        yield f"{size}retold", list(tasks.retold_series(some, stories, SEED))
    yield "repeated", list(tasks.repeated_series(world, stories, SEED))


def _rows(texts, tokenizer):
    """Texts as token ids; of (passage, what stands behind it) the loss is on the second."""
    if isinstance(texts[0], str):
        return tokenizer.encode_batch(texts, bos=True, eos=True)
    passages = tokenizer.encode_batch([passage for passage, _ in texts], bos=True)
    behind = tokenizer.encode_batch([tokenizer.behind(*text) for text in texts], eos=True)
    return [(p + b, [IGNORE] * len(p) + b) for p, b in zip(passages, behind, strict=True)]


class _Curriculum:
    """Batches of several sources, drawn step by step by the recipe's weights; fixed by the seed alone."""

    def __init__(self, sources, recipe, steps):
        self.sources, rng, used, self.plan = sources, random.Random(SEED), dict.fromkeys(sources, 0), []
        for step in range(steps):
            weights = recipe.first if step < recipe.first_steps else recipe.then
            [name] = rng.choices(*zip(*weights, strict=True)) if step >= recipe.copy_steps else ["repeated"]
            self.plan.append((name, used[name]))
            used[name] += 1
        self.steps_per_epoch = sources["mix"].steps_per_epoch

    def __call__(self, step):
        name, index = self.plan[step]
        return self.sources[name](index)


@torch.no_grad()
def start_copying(model, gain=0.1, common=24.0):
    """Let attention begin as one that copies, leaning towards the induction heads of Olsson et al. (2022), "In-context
    Learning and Induction Heads", which form by themselves too, but late. With two layers and nothing but repeated
    sentences the loss is 0.1 nats a token after 400 steps from this start, and 0.9 from the rotations below alone.

    Three parts. Values are turned by a random rotation and outputs turn back, so that a head writes `gain` times what it
    looks at; trained transformers end near that (Trockman and Kolter 2023, "Mimetic initialization"). Embeddings share
    one direction, `common` times as long as what each has of it by chance, so that queries and keys made from it alone
    look at a fixed distance: two heads of the first layer look one and two tokens back, and write what they find into
    subspaces of their own. Two heads of the second layer lean to places behind the same token, and behind the same two.
    """
    for layer in model.layers:
        v, o = layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight
        rotation = torch.linalg.qr(torch.randn_like(v))[0]
        v.copy_(rotation)
        o.copy_(gain * rotation.T)
    config, first, second = model.config, model.layers[0].self_attn, model.layers[1].self_attn
    size, turns = config.hidden_size, rotary_turns(config)
    slow = [i for i, turn in enumerate(turns) if turn < 0.012]  # pairs that hardly turn over a story tell what, not where
    slow += [i + len(turns) for i in slow]
    basis = torch.linalg.qr(torch.randn(size, size))[0]
    everywhere, (here, one_back, two_back) = basis[0], basis[1:1 + 3 * len(slow)].chunk(3)
    embeddings = model.embed_tokens.weight
    along = common * embeddings.std()
    embeddings += (along - embeddings @ everywhere)[:, None] * everywhere
    for head, (distance, into) in enumerate(((1, one_back), (2, two_back))):
        _look_back(first, head, distance, turns, everywhere)
        rows = slice(head * config.head_size, head * config.head_size + len(slow))
        first.v_proj.weight[rows] = here
        first.o_proj.weight[:, rows] = gain * into.T
    for head, (query, key) in enumerate(((here, one_back), (here + one_back, one_back + two_back))):
        rows = [head * config.head_size + i for i in slow]
        second.q_proj.weight[rows] += query
        second.k_proj.weight[rows] += key


def rotary_turns(config):
    """The angles per position of the D/2 pairs of rotary positions: theta^(−2i/D)."""
    return [config.rope_theta ** (-2 * i / config.head_size) for i in range(config.head_size // 2)]


def _look_back(attention, head, distance, turns, everywhere, sharpness=6.0):
    """Make queries and keys of `head` from the direction `everywhere` alone, turned so that they agree at `distance`."""
    size, pairs = len(everywhere), len(turns)
    length = math.sqrt(sharpness * math.sqrt(2 * pairs) / size)  # normed, a token is about sqrt(size) long, all along it
    start = head * 2 * pairs
    for proj in (attention.q_proj, attention.k_proj):
        proj.weight[start:start + 2 * pairs] = 0.0
    for pair, turn in enumerate(turns):
        if turn > 0.05:
            attention.q_proj.weight[start + pair] = length * everywhere
            attention.k_proj.weight[start + pair] = length * math.cos(distance * turn) * everywhere
            attention.k_proj.weight[start + pairs + pair] = length * math.sin(distance * turn) * everywhere


def _held_out(model, tokenizer, world, count):
    """Loss in nats per token on `count` bare stories of held-out combinations (masked models: on 15 % of tokens)."""
    stories = world.sample(count, 1, "test")
    batch = collate(tokenizer.encode_batch([s.text for s in stories], bos=True, eos=True), tokenizer.pad_id)
    if not model.config.causal:
        batch = MaskedBatches(_Fixed(batch), tokenizer.mask_id, tokenizer.vocab_size)(0)
    with torch.no_grad():
        return {"loss": model.loss(batch).item()}


@dataclasses.dataclass
class _Fixed:
    """A batch source of one batch."""

    batch: Batch
    steps_per_epoch: int = 1

    def __call__(self, step):
        return self.batch


def measure(model, tokenizer, world, count=500):
    """Held-out loss, the floor under it, and (causal models) the shares of stories that keep the rules."""
    stories = world.sample(count, 1, "test")
    tokens = sum(len(ids) + 1 for ids in tokenizer.encode_batch([s.text for s in stories]))
    facts = {"held_out_loss": _held_out(model, tokenizer, world, count)["loss"]}
    if model.config.causal:
        facts["floor"] = sum(-s.logp for s in stories) / tokens
        verdicts = [oracle.judge(text) for text in continue_stories(model, tokenizer, stories)]
        facts["hero_and_object"] = sum(v.hero_and_object for v in verdicts) / count
        facts["every_rule"] = sum(v.every_rule for v in verdicts) / count
    return facts


def continue_stories(model, tokenizer, stories, temperature=1.0, seed=SEED):
    """The model's own stories: it is given the opening sentence of each, and writes on to the end of the paragraph."""
    openings = [story.text[:story.text.index(".") + 1] for story in stories]
    texts = []
    for some in _chunks(openings, 100):
        prompts = tokenizer.encode_batch(some, bos=True)
        rows = generate(model, prompts, 160, temperature, eos_id=tokenizer.eos_id, seed=seed + len(texts))
        texts += [(opening + tokenizer.decode(row)).split("\n")[0].strip() for opening, row in zip(some, rows)]
    return texts


def _chunks(items, size):
    return [items[i:i + size] for i in range(0, len(items), size)]


def machine_words():
    """This machine in words, for a model card."""
    machine = profile.machine()
    return (f"{machine['cores']} cores ({machine['isa']}, {machine['matmul_gflops']:.0f} GFLOP/s in float32 matrix "
            f"products, {machine['memory_gib']:.0f} GiB)")


def card(name, recipe, facts):
    """The model card: what it is, what was measured."""
    where = machine_words()
    kind = "causal language model" if recipe.causal else "masked language model (both sides visible, 15 % masked)"
    lines = [
        "---", "license: apache-2.0", "language: en", "---", f"# ftlab {name}", "",
        f"A {kind} of the Llama architecture, pretrained from nothing on the micro-world of ftlab: short stories under",
        "many kinds of headings and lists, several in a row, with questions and answers. It knows no other English.",
        "", f"Made by `python -m ftlab.train.bases {name}` (seed {SEED}).", "", "| | |", "|---|---|",
        f"| parameters | {facts['parameters']:,} |",
        f"| layers, width, heads, inner width | {recipe.num_layers}, {recipe.hidden_size}, {recipe.num_heads}, "
        f"{recipe.intermediate_size} |",
        f"| tokens of the vocabulary | {facts['vocab_size']:,} |",
        f"| training | {facts['steps']:,} steps, {facts['tokens'] / 1e6:.1f} M tokens with a loss, "
        f"Muon {recipe.muon_lr} and AdamW {recipe.lr}, {recipe.documents:,} documents |",
        f"| time | {facts['seconds'] / 60:.0f} min on {where} |",
        f"| loss on held-out stories | {facts['held_out_loss']:.3f} nats per "
        f"{'token' if recipe.causal else 'masked token'} |",
    ]
    if recipe.causal:
        gap = facts["held_out_loss"] - facts["floor"]
        lines += [
            f"| floor (entropy of the stories) | {facts['floor']:.3f} nats per token; distance {gap:.3f}, of which "
            "about 0.02 is not knowing that a bare story comes |",
            f"| hero and object kept | {100 * facts['hero_and_object']:.1f} % of 500 stories at temperature 1, opening "
            "sentence given |",
            f"| every rule kept | {100 * facts['every_rule']:.1f} % |",
        ]
    return "\n".join(lines) + "\n"


def main(arguments=None):
    """Command line: make the named bases, by default all."""
    parser = argparse.ArgumentParser(prog="python -m ftlab.train.bases", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(RECIPES), help=f"any of {', '.join(RECIPES)}")
    parser.add_argument("--out", type=pathlib.Path, default=hub.ASSETS, help="folder of the models (%(default)s)")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/bases"), help="checkpoints")
    parser.add_argument("--steps", type=int, help="another number of steps, for a trial")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(RECIPES)
    if unknown:
        parser.error(f"no base is called {', '.join(sorted(unknown))}; choose from {', '.join(RECIPES)}")
    for name in options.names:
        began = time.time()
        facts = make(name, options.out / name, options.work / name, options.steps, [_Lines(name)])
        print(f"{name}: {facts} in {(time.time() - began) / 60:.1f} min", flush=True)
        load(options.out / name)


class _Lines:
    """A line of progress for each evaluation."""

    def __init__(self, name):
        self.name, self.recent = name, math.nan

    def __call__(self, event):
        if event["kind"] == "step":
            self.recent, self.eta = event["loss"], event["eta_seconds"]
        elif event["kind"] == "eval":
            print(f"{self.name} step {event['step']}/{event['steps']} loss {self.recent:.3f} held out "
                  f"{event['metrics']['loss']:.3f} ETA {self.eta / 60:.1f} min", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
