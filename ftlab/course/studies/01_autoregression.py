"""Claims of Lab 01 and how a study measures them, one seed at a time.

The loops here are the lab's own, written anew in their plainest form, so that what is claimed is claimed of them.
"""

import functools
import random
import statistics
import time

import torch

from ftlab.measure.claims import Claim
from ftlab.model import KVCache, ModelConfig, Transformer, generate, load, to_hf
from ftlab.model.masked import generate_masked
from ftlab.text.batching import MaskedBatches, RowBatches
from ftlab.train import TrainConfig, recipes, train
from ftlab.world import World, oracle

LAB = "01_autoregression"


@functools.lru_cache(maxsize=2)
def base(name="base"):
    """A shipped model, for reading only, and its tokenizer."""
    model, tokenizer = load(name)
    return model.requires_grad_(False), tokenizer


# ---- C03: the loop by hand and generate


def write_greedily(model, prompt, max_new_tokens, end_id):
    """The loop of the lab: the whole text is read again for every token."""
    ids, new = list(prompt), []
    for _ in range(max_new_tokens):
        token = model(torch.tensor([ids]))[0, -1].argmax().item()
        if token == end_id:
            break
        ids.append(token)
        new.append(token)
    return new


def theirs_greedily(hf_model, prompt, max_new_tokens, tokenizer):
    """The same by `transformers`: model.generate without sampling."""
    ids = torch.tensor([prompt])
    out = hf_model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens,
                            eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id)  # fmt: skip
    new = out[0, len(prompt):].tolist()
    return new[:-1] if new and new[-1] == tokenizer.eos_id else new


def measure_loop(seed, report):
    model, tokenizer = base()
    hf_model = to_hf(model)
    prompts = [opening(story.text) for story in World("rich").sample(8, seed, "test")] + ["", "### Title", "Question:"]
    different = tokens = 0
    for number, prompt in enumerate(prompts):
        ids = tokenizer.encode(prompt, bos=True)
        ours = write_greedily(model, ids, 80, tokenizer.eos_id)
        theirs = theirs_greedily(hf_model, ids, 80, tokenizer)
        tokens += len(ours)
        different += sum(a != b for a, b in zip(ours, theirs)) + abs(len(ours) - len(theirs))
        report(f"prompt {number + 1} of {len(prompts)}, {different} tokens differ")
    return {"value": different, "prompts": len(prompts), "tokens": tokens}


def opening(text):
    """The first sentence of a story."""
    return text[:text.index(".") + 1]


# ---- C04: the past does not see the future


def change_of_earlier_logits(model, ids, place, token):
    """Largest change of any logit before `place` when the token there is replaced."""
    other = list(ids)
    other[place] = token
    before, after = model(torch.tensor([ids]))[0, :place], model(torch.tensor([other]))[0, :place]
    return (before - after).abs().max().item()


def measure_mask(seed, report):
    draw = random.Random(seed)
    stories = [story.text for story in World("rich").sample(40, seed, "test")]
    changes = {}
    for name in ("base", "base-masked"):
        model, tokenizer = base(name)
        changes[name] = []
        for text in stories:
            ids = tokenizer.encode(text, bos=True, eos=True)
            place = draw.randrange(2, len(ids) - 1)
            token = draw.choice([t for t in range(4, tokenizer.vocab_size) if t != ids[place]])
            changes[name].append(change_of_earlier_logits(model, ids, place, token))
        report(f"{name}: largest change {max(changes[name]):.3g}")
    right = sum(c <= 1e-5 and m >= 0.01 for c, m in zip(changes["base"], changes["base-masked"]))
    return {"value": right / len(stories), "largest_causal": max(changes["base"]),
            "smallest_bidirectional": min(changes["base-masked"]),
            "largest_bidirectional": max(changes["base-masked"])}  # fmt: skip


# ---- C05: causal against masked, both made to write from left to right

SAMPLES = 200
# Version 1 trained for 300 steps of 2048 tokens, in which even a causal model learns the rules with some seeds only.
# Version 2, decided before its first run: the course's own small setting (`ftlab.train.recipes`) for all models.


@functools.lru_cache(maxsize=1)
def small_world(seed, steps):
    """(world, tokenizer, rows of ids) of the small world, for the training runs of one seed."""
    tokenizer = recipes.small_tokenizer()
    texts = recipes.small_stories(seed, steps * recipes.TOKENS_PER_BATCH)
    return World("small"), tokenizer, tokenizer.encode_batch(texts, bos=True, eos=True)


def train_model(rows, tokenizer, seed, masks=None, steps=recipes.STEPS, callbacks=()):
    """A model of 0.46 M parameters: causal (masks None), or masked, with "scattered" (BERT's) or "suffix" masks."""
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(tokenizer.vocab_size, **recipes.MODEL, causal=masks is None))
    batches = RowBatches(rows, recipes.TOKENS_PER_BATCH, seed=seed)
    if masks:
        batches = MaskedBatches(batches, tokenizer.mask_id, tokenizer.vocab_size, seed=seed, suffix=masks == "suffix")
    config = TrainConfig(steps, lr=recipes.LR, optimizer="muon", muon_lr=recipes.MUON_LR, warmup=recipes.WARMUP,
                         seed=seed)
    train(model, batches, config, callbacks=callbacks)
    return model


def write_causal(model, tokenizer, count, seed, temperature=1.0, top_p=None):
    """Stories from nothing."""
    prompts = [[tokenizer.bos_id]] * count
    rows = generate(model, prompts, 100, temperature, top_p=top_p, eos_id=tokenizer.eos_id, seed=seed)
    return [tokenizer.decode(row) for row in rows]


def write_masked(model, tokenizer, rows, count, seed, **how):
    """The same by a masked model, which is told lengths drawn from the training stories."""
    lengths = [len(row) for row in random.Random(seed).choices(rows, k=count)]
    prompts = [[tokenizer.bos_id]] * count
    found = generate_masked(model, prompts, lengths, tokenizer.mask_id, tokenizer.eos_id, seed=seed, **how)
    return [tokenizer.decode(row) for row in found]


# How the plain masked model is made to write: three ways, so that none is blamed for the way.
PLAIN = {
    "BERT's masks, all places to come masked": {"end_shown": True},
    "BERT's masks, one mask then the end": {"end_shown": True, "window": 1},
    "BERT's masks, one mask at the end": {"window": 1},
}
SUFFIX = "suffix masks"


def shares(texts, world):
    """(share with every rule kept, share with hero and object kept)."""
    verdicts = [oracle.judge(text, world) for text in texts]
    return (sum(v.every_rule for v in verdicts) / len(texts), sum(v.hero_and_object for v in verdicts) / len(texts))


@functools.lru_cache(maxsize=1)
def causal_model(seed, steps):
    """The causal model of one seed: C05 trains it, C07 lets it write."""
    _, tokenizer, rows = small_world(seed, steps)
    return train_model(rows, tokenizer, seed, None, steps)


def measure_masked(seed, report, steps=recipes.STEPS, samples=SAMPLES):
    world, tokenizer, rows = small_world(seed, steps)
    found = {}
    report("training the causal model")
    model = causal_model(seed, steps)
    found["causal"] = shares(write_causal(model, tokenizer, samples, seed), world)
    report(f"causal: every rule kept by {found['causal'][0]:.0%}; training the one with suffix masks")
    model = train_model(rows, tokenizer, seed, "suffix", steps)
    found[SUFFIX] = shares(write_masked(model, tokenizer, rows, samples, seed), world)
    report(f"suffix masks: {found[SUFFIX][0]:.0%}; training the one with scattered masks")
    model = train_model(rows, tokenizer, seed, "scattered", steps)
    for name, how in PLAIN.items():
        found[name] = shares(write_masked(model, tokenizer, rows, samples, seed, **how), world)
        report(f"{name}: {found[name][0]:.0%}")
    rivals = [every for name, (every, _) in found.items() if name != "causal"]
    return {"value": found["causal"][0] - max(rivals),
            "every_rule": {name: every for name, (every, _) in found.items()},
            "hero_and_object": {name: kept for name, (_, kept) in found.items()},
            "steps": steps, "samples": samples}  # fmt: skip


# ---- C06: what a token costs, with and without a cache

LENGTHS = (32, 64, 128, 192, 256, 320, 384, 448)


@torch.inference_mode()
def seconds_per_token(model, ids, repeats=15):
    """({length: seconds}, {length: seconds with a cache}, largest difference of the logits): medians, taken in turn."""
    plain, cached, difference = {n: [] for n in LENGTHS}, {n: [] for n in LENGTHS}, 0.0
    caches = {}
    for length in LENGTHS:
        caches[length] = KVCache(model, 1, length)
        model(torch.tensor([ids[:length - 1]]), cache=caches[length])
    for _ in range(repeats):
        for length in LENGTHS:
            text = torch.tensor([ids[:length]])
            start = time.perf_counter()
            full = model(text)[0, -1]
            plain[length].append(time.perf_counter() - start)
            for layer in caches[length].layers:
                layer.length = length - 1  # forget the last token again
            start = time.perf_counter()
            last = model(text[:, -1:], cache=caches[length])[0, -1]
            cached[length].append(time.perf_counter() - start)
            difference = max(difference, (full - last).abs().max().item())
    medians = [{n: statistics.median(times) for n, times in found.items()} for found in (plain, cached)]
    return *medians, difference


def growth(seconds):
    """How many times as long the last token takes as the first."""
    return seconds[LENGTHS[-1]] / seconds[LENGTHS[0]]


def measure_cache(seed, report):
    model, tokenizer = base()
    texts = [story.text for story in World("rich").sample(20, seed, "test")]
    ids = tokenizer.encode("\n\n".join(texts), bos=True)[:LENGTHS[-1]]
    seconds_per_token(model, ids, repeats=2)  # to warm up
    plain, cached, difference = seconds_per_token(model, ids)
    report(f"grows {growth(plain):.1f} times without, {growth(cached):.1f} times with a cache")
    return {"value": growth(plain) / growth(cached) if difference <= 1e-4 else 0.0, "largest_difference": difference,
            "lengths": list(LENGTHS), "seconds": list(plain.values()), "seconds_cached": list(cached.values()),
            "growth": growth(plain), "growth_cached": growth(cached)}  # fmt: skip


# ---- C07: diversity against validity

TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3)
TOP_PS = (0.5, 0.7, 0.9)
BLOCK = 100


def distinct_4(texts):
    """Distinct 4-grams of words over all 4-grams (Li et al. 2016), of at most BLOCK texts at a time, averaged."""
    found = []
    for start in range(0, len(texts), BLOCK):
        grams = [gram for text in texts[start:start + BLOCK]
                 for words in [text.split()] for gram in zip(words, words[1:], words[2:], words[3:])]  # fmt: skip
        found.append(len(set(grams)) / max(1, len(grams)))
    return statistics.fmean(found)


def measure_frontier(seed, report, count=300, steps=recipes.STEPS):
    world, tokenizer, _ = small_world(seed, steps)
    report("training the causal model, unless C05 just did")
    model = causal_model(seed, steps)
    settings = [("temperature", t, None) for t in TEMPERATURES] + [("top-p", 1.0, p) for p in TOP_PS]
    rows = []
    for kind, temperature, top_p in settings:
        texts = write_causal(model, tokenizer, count, seed, temperature, top_p)
        valid, _ = shares(texts, world)
        rows.append({"kind": kind, "setting": top_p or temperature, "diversity": distinct_4(texts), "valid": valid})
        report(f"{kind} {top_p or temperature}: {valid:.0%} valid, distinct-4 {rows[-1]['diversity']:.2f}")
    return {"value": trade(rows), "settings": rows}


def trade(rows):
    """The least of four differences: what each knob loses in validity and gains in diversity from end to end."""
    find = {(row["kind"], row["setting"]): row for row in rows}
    ends = [(find["temperature", 0.5], find["temperature", 1.3]), (find["top-p", 0.5], find["temperature", 1.0])]
    return min(difference for careful, free in ends
               for difference in (careful["valid"] - free["valid"], free["diversity"] - careful["diversity"]))


CLAIMS = [
    Claim(
        id="C03", kind="exact", lab=LAB, measure=measure_loop, at_most=0, seeds=3, unit="tokens",
        statement="The hand-written loop writes what transformers' generate writes, token for token (greedy).",
        metric="tokens that differ, over 11 prompts, up to 80 new tokens each",
    ),
    Claim(
        id="C04", kind="exact", lab=LAB, measure=measure_mask, at_least=1.0, seeds=3,
        statement="Changing a later token never changes an earlier logit under the causal mask; in the bidirectional "
                  "model it does.",
        metric="share of changed tokens that moved no earlier logit of the causal model (by more than 1e-5) and some "
               "of the bidirectional one (by 0.01 or more)",
    ),
    Claim(
        id="C05", kind="measured", lab=LAB, measure=measure_masked, at_least=0.10, seeds=3,
        statement="A masked model of equal size, data and steps, made to write from left to right, keeps the rules "
                  "less often than the causal model, even when it was trained on masked suffixes.",
        metric="share of stories with every rule kept, causal minus the best masked way "
               f"({recipes.STEPS} steps, small world)",
        version=2,
    ),
    Claim(
        id="C06", kind="measured", lab=LAB, measure=measure_cache, at_least=3.0, seeds=3, unit="times",
        statement="Without a cache a token costs more the longer the text, with one nearly the same; the logits agree.",
        metric="growth of the seconds per token from length 32 to 448, without over with a cache (0 where a logit "
               "differs by more than 1e-4)",
        note="Each of three runs lies above 3 (3.2 to 3.7), their interval reaches below. The base before this one, with "
             "heads half as wide and twice as many, showed 4.1 to 4.8.",
    ),
    Claim(
        id="C07", kind="measured", lab=LAB, measure=measure_frontier, at_least=0.05, seeds=3,
        statement="Temperature and top-p trade diversity against validity.",
        metric="least of four differences: validity (every rule kept) lost and distinct-4 gained, from T = 0.5 to 1.3 "
               "and from top-p 0.5 to 1 (the causal model of C05)",
        version=2,
        note="In each run all four differences have the right sign, but two are small: from T = 0.5 to 1.3 distinct-4 "
             "rises by 0.05 to 0.08 only (the world itself has no more variety to give), and top-p 0.5 keeps the rules "
             "1 to 10 points more often than no cut. What top-p costs is large: distinct-4 falls from 0.57 to 0.23.",
    ),
]
