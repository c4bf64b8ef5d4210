"""Claims of lab 00_lifecycle and how a study measures them, one seed at a time.

A seed is that of the held-out tasks and of what is sampled; in C02 also that of the examples and of the tuning. Sizes, rates
and margins were fixed before any seed of a study ran; the task of C02, its form and its steps after a pilot on other seeds.
"""

import math
import statistics

from ftlab.course.studies import Once, rounded
from ftlab.measure.claims import Claim

LAB = "00_lifecycle"
BASE, TUNED = "base-small", "assistant"
ALIGNED = ("aligned-ppo", "aligned-dpo")
CHECKPOINTS = {  # the stages, in their order
    BASE: "pretrained: it goes on with any text of its world",
    TUNED: "then fine-tuned on instructions and responses (SFT)",
    "aligned-ppo": "then aligned with preferences by a reward model and PPO",
    "aligned-dpo": "or aligned with the same preferences by DPO",
}

JUDGED = 30  # C01, C01c: held-out tasks of each of the five families
SAMPLED = 200  # C01b: held-out "write" tasks, each answered once at temperature 1

ROLE, FORM = "place", "arrow"  # C02: one fact to extract from a story, asked for by examples and not in words
POOL, VALIDATION, ASKED = 300, 60, 100  # C02: training examples, tasks that say when to stop, tasks that are scored
SHOTS, SIMILAR = (0, 1, 2), (1, 2)  # examples in the prompt, always the same; looked up for each call
METHODS = {"LoRA": ("lora", 2e-2, {"r": 4, "lora_alpha": 8}), "full": ("full", 4e-3, {})}
STEPS, EVERY, TOKENS_PER_BATCH = 50, 5, 2048
TOLERANCE = 0.02  # scores that differ by no more are equal
PATTERNS = 100_000  # X00: random bit patterns of float32

once = Once()


# -- C01: the stages

def asked(seed, families=None, per_family=JUDGED):
    """Held-out tasks of all families."""
    from ftlab.measure.score import held_out_tasks
    from ftlab.world import World, tasks

    return held_out_tasks(World("rich"), per_family, f"lifecycle {seed}", families or tasks.FAMILIES)


def instruction_scores(seed, name, report=None, per_family=JUDGED):
    """{"mean", "by_family"} of a checkpoint's greedy answers; made once a seed."""
    def make():
        from ftlab.measure.score import instruction_score
        from ftlab.model import load

        progress = (lambda done, of: report(f"{name}: {done} of {of} answers")) if report else None
        found = instruction_score(*load(name), asked(seed, None, per_family), progress=progress)
        return {"mean": found.mean, "by_family": rounded(found.by_family)}

    return once(("score", name, per_family), seed, make)


def utilities(seed, name, report=None, count=SAMPLED):
    """{"mean", "words"} of a checkpoint's answers to "write" tasks at temperature 1: their true utility and their length;
    made once a seed."""
    def make():
        from ftlab.model import load
        from ftlab.model.ask import ask
        from ftlab.world import World, tasks

        some, world = asked(seed, ("write",), count), World("rich")
        progress = (lambda done, of: report(f"{name}: {done} of {of} stories")) if report else None
        answers = ask(*load(name), some, temperature=1.0, seed=seed, progress=progress)
        found = [tasks.true_utility(text, world, task.constraints) for task, text in zip(some, answers, strict=True)]
        return {"mean": statistics.fmean(found), "words": statistics.fmean(len(text.split()) for text in answers)}

    return once(("utility", name, count), seed, make)


def measure_sft(seed, report):
    found = {name: instruction_scores(seed, name, report) for name in (BASE, TUNED)}
    return {"value": found[TUNED]["mean"] - found[BASE]["mean"], **{name: rounded(one) for name, one in found.items()}}


def measure_aligned(seed, report):
    """What the worse of both gains."""
    found = {name: utilities(seed, name, report) for name in (TUNED, *ALIGNED)}
    gains = {name: found[name]["mean"] - found[TUNED]["mean"] for name in ALIGNED}
    return {"value": min(gains.values()), "gains": rounded(gains), **{name: rounded(one) for name, one in found.items()}}


def measure_tax(seed, report):
    """Mean change over both."""
    found = {name: instruction_scores(seed, name, report) for name in (TUNED, *ALIGNED)}
    changes = {name: found[name]["mean"] - found[TUNED]["mean"] for name in ALIGNED}
    return {"value": statistics.fmean(changes.values()), "changes": rounded(changes),
            **{name: rounded(one) for name, one in found.items()}}


# -- C02: prompting, retrieval and fine-tuning at one task

def extraction(seed, count, split="train"):
    """`count` tasks that ask for the one fact ROLE of a story."""
    from ftlab.world import World, tasks

    some = tasks.make(World("rich"), "extract", 12 * count, f"lifecycle {seed}", split)
    return [task for task in some if ROLE in task.constraints][:count]


def ways(pool, model, tuned, tokenizer):
    """{name of a way: (model, function of a task that gives the examples before it, CachedPrefix or None)}."""
    from ftlab.measure.calls import CachedPrefix
    from ftlab.text.shots import Retriever, shown

    library, short = Retriever(pool), sorted(pool, key=lambda task: len(task.input))
    found = {}
    for k in SHOTS:
        found[prompt_name(k)] = (model, lambda task, k=k: short[:k], None)
        if k:
            ids = tokenizer.encode("".join(shown(shot, FORM) for shot in short[:k]), bos=True)
            found[f"{prompt_name(k)}, cached"] = (model, lambda task: (), CachedPrefix(model, ids))
    for k in SIMILAR:
        found[f"{many(k)} retrieved"] = (model, lambda task, k=k: library.find(task, k), None)
    for name, made in tuned.items():
        found[name] = (made["model"], lambda task: (), None)
    return found


def many(k):
    """"1 example", "2 examples"."""
    return f"{k} example{'' if k == 1 else 's'}"


def prompt_name(k):
    """The name of prompting with k examples."""
    return f"{many(k)} in the prompt" if k else "nothing but the question"


def judge(way, tokenizer, tasks_):
    """{"score", "seconds" (a call's median), "read", "written", "reused" (mean tokens)} of a way, one call after another.

    What a retriever takes to look up is part of the call.
    """
    import time

    from ftlab.measure import calls
    from ftlab.text.shots import few_shot_prompt
    from ftlab.world import tasks

    model, examples, prefix = way
    made, scores, lookup = [], [], []
    for task in tasks_:
        began = time.perf_counter()
        prompt = few_shot_prompt(task, examples(task), FORM)
        lookup.append(time.perf_counter() - began)
        made.append(calls.call(model, tokenizer, tokenizer.encode(prompt, bos=prefix is None), prefix=prefix))
        scores.append(tasks.score(task, made[-1].text))
    found = calls.summary(made)
    return found | {"score": statistics.fmean(scores), "seconds": found["seconds"] + statistics.median(lookup)}


def tune(seed, name, report=None, steps=None, callbacks=()):
    """{"model", "history", "scores": [(step, up-front seconds, score on validation tasks), ...]} of a way to tune; made
    once a seed. The seconds are those of the steps alone."""
    def make():
        import torch

        from ftlab.model import load
        from ftlab.text.examples import Example
        from ftlab.text.shots import asked as question
        from ftlab.tune import attach, sft

        method, lr, config = METHODS[name]
        model, tokenizer = load(BASE)
        torch.manual_seed(seed)
        model, some = attach(model, method, **config), extraction(f"validation {seed}", VALIDATION, "test")
        rows = [Example(question(task, FORM), f" {task.response}", form="completion") for task in extraction(seed, POOL)]

        def evaluate(model, step):
            if report:
                report(f"{name}, step {step}")
            return {"score": judge((model, lambda task: (), None), tokenizer, some)["score"]}

        history = sft.tune(model, tokenizer, rows, steps=steps or STEPS, lr=lr, seed=seed, evaluate=evaluate,
                           eval_every=EVERY, tokens_per_batch=TOKENS_PER_BATCH, callbacks=callbacks)
        each = history.seconds / len(history.steps)
        return {"model": model, "history": history, "scores": [(e["step"], e["step"] * each, e["score"])
                                                                for e in history.evals]}

    return once(("tune", name, steps), seed, make)


def compare(seed, report=None, judged=ASKED, steps=None, callbacks=()):
    """{way: what `judge` says of it}, and under "tuned" the runs; made once a seed."""
    def make():
        from ftlab.model import load

        model, tokenizer = load(BASE)
        tuned = {name: tune(seed, name, report, steps, callbacks) for name in METHODS}
        some, found = extraction(f"held out {seed}", judged, "test"), {}
        for name, way in ways(extraction(seed, POOL), model, tuned, tokenizer).items():
            if report:
                report(name)
            found[name] = judge(way, tokenizer, some)
        return {"ways": found, "tuned": tuned}

    return once(("compare", judged, steps), seed, make)


def best_prompt(found):
    """The name of the prompt (with or without retrieval) that scores best, of those the one whose call is quickest."""
    rivals = [name for name in found if name not in METHODS]
    top = max(found[name]["score"] for name in rivals)
    return min((name for name in rivals if found[name]["score"] >= top - TOLERANCE), key=lambda name: found[name]["seconds"])


def reaching(scores, level):
    """Up-front seconds at which a run's score first reaches `level`, or None."""
    return next((seconds for _, seconds, score in scores if score >= level), None)


def calls_to_pay(upfront, before, after):
    """From how many calls on paying `upfront` is no dearer; None where a call costs no less afterwards."""
    return math.ceil(upfront / (before - after)) if after < before else None


def measure_break_even(seed, report):
    """Calls at which LoRA, stopped once it is as good as the best prompt, is paid back; −1 where it never is."""
    made = compare(seed, report)
    found, runs = made["ways"], made["tuned"]
    rival = best_prompt(found)
    each = {}
    for name in METHODS:
        upfront = reaching(runs[name]["scores"], found[rival]["score"])
        paid = None if upfront is None else calls_to_pay(upfront, found[rival]["seconds"], found[name]["seconds"])
        each[name] = {"upfront": upfront, "calls": paid, "whole": calls_to_pay(
            runs[name]["scores"][-1][1], found[rival]["seconds"], found[name]["seconds"])}
    value = each["LoRA"]["calls"]
    return {"value": -1 if value is None else value, "rival": rival, "break_even": rounded(each),
            "gap": round(found["LoRA"]["score"] - found[rival]["score"], 4),
            "ways": {name: {key: round(x, 5) for key, x in one.items()} for name, one in found.items()},
            "scores": {name: [[step, round(s, 3), round(score, 4)] for step, s, score in run["scores"]]
                       for name, run in runs.items()}}


# -- X00: number formats

def measure_formats(seed, report):
    """Bit patterns whose value by hand is not torch's."""
    import torch

    from ftlab.measure import formats

    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, integer in (("float32", torch.int32), ("bfloat16", torch.int16), ("float16", torch.int16),
                          ("float8_e5m2", torch.uint8), ("float8_e4m3fn", torch.uint8)):
        width = formats.get(name).bits
        report(name)
        codes = torch.arange(2**width) if width <= 16 else torch.randint(2**width, (PATTERNS,), generator=generator)
        wide = codes - 2**width * (codes >= 2 ** (width - 1)) if integer != torch.uint8 else codes  # into the signed range
        theirs = wide.to(integer).view(getattr(torch, name)).double().tolist()
        ours = [formats.decode(f"{code:0{width}b}", name) for code in codes.tolist()]
        found[name] = sum(not same(a, b) for a, b in zip(ours, theirs, strict=True))
    return {"value": sum(found.values()), "differ": found, "patterns": {name: min(2 ** formats.get(name).bits, PATTERNS)
                                                                        for name in found}}


def same(a, b):
    """Whether two floats are the same number, or both NaN; the sign of zero counts."""
    return (a != a and b != b) or (a == b and math.copysign(1, a) == math.copysign(1, b))


SCORE = "mean score of greedy answers to held-out tasks of all five families"
CLAIMS = [
    Claim(id="C01", kind="measured", lab=LAB, statement="Supervised fine-tuning makes a base answer instructions.",
          metric=f"{SCORE}, {TUNED} minus {BASE}", at_least=0.3, measure=measure_sft, seeds=5),
    Claim(id="C01b", kind="measured", lab=LAB,
          statement="Alignment with preferences, by PPO and by DPO, raises what the stories are worth to the annotators.",
          metric=f"true utility of answers to {SAMPLED} held-out write tasks at temperature 1, the worse of "
                 f"{' and '.join(ALIGNED)} minus {TUNED}", at_least=0.1, measure=measure_aligned, seeds=5),
    Claim(id="C01c", kind="report", lab=LAB, statement="What alignment with a preference for stories does to instructions.",
          metric=f"{SCORE}, mean over {' and '.join(ALIGNED)} minus {TUNED}", measure=measure_tax, seeds=5),
    Claim(id="C02", kind="report", lab=LAB,
          statement="Calls from which fine-tuning is cheaper than the best prompt, at a score equal to that prompt's.",
          metric="calls at which the seconds of LoRA's steps are paid back by quicker calls (−1: never)", unit="calls",
          measure=measure_break_even, seeds=5),
    Claim(id="X00", kind="exact", lab=LAB,
          statement="The formula of a float gives the value that torch gives, for every pattern of bits.",
          metric="patterns that differ: all of bfloat16, float16 and two formats of 8 bits, "
                 f"{PATTERNS:,} of float32", at_most=0, measure=measure_formats, seeds=1),
]
