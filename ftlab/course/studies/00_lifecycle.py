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

ROLES = ("place", "ending", "colour")  # C02: one fact of a story each; the first gives the claim's value
POOL, VALIDATION, ASKED = 300, 40, 100  # C02: training examples, tasks that say when to stop, tasks that are scored
SHOTS, SIMILAR = (1, 2), (1,)  # examples in the prompt, always the same; looked up for each call
RANK, LORA_RATE, STEPS, EVERY, TOKENS_PER_BATCH = 4, 2e-2, 50, 2, 2048
LORA, WORDS = "LoRA", "asked in words"
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


# -- C02: prompting, retrieval and fine-tuning at one narrow task
#
# The base is asked for one fact of a story. Either in words ("Question: ..."), in a form that it knows from pretraining, or by
# examples: a story, an arrow, the fact. The tuned model gets the story and the arrow alone. The assistant is no rival here:
# it was tuned on these very families.

def facts(seed, role, count, split="train"):
    """`count` tasks that ask for the fact `role` of a story; "ending" is that of the family "classify"."""
    from ftlab.world import World, tasks

    world, name = World("rich"), f"lifecycle {seed}"
    if role == "ending":
        return tasks.make(world, "classify", count, name, split)
    return [task for task in tasks.make(world, "extract", 12 * count, name, split) if role in task.constraints][:count]


def shortest(pool, k):
    """The k shortest examples, with different answers while there are any."""
    rows, found = sorted(pool, key=lambda task: len(task.input)), []
    for task in rows:
        if len(found) < k and task.response not in [other.response for other in found]:
            found.append(task)
    return found + [task for task in rows if task not in found][:k - len(found)]


def ways(pool, model, tuned, tokenizer):
    """{name of a way: (model, function of a task that gives the examples before it, form, CachedPrefix or None)}."""
    from ftlab.measure.calls import CachedPrefix
    from ftlab.text.shots import Retriever, shown

    library, found = Retriever(pool), {WORDS: (model, lambda task: (), "plain", None)}
    for k in SHOTS:
        same = shortest(pool, k)
        ids = tokenizer.encode("".join(shown(shot, "arrow") for shot in same), bos=True)
        found[many(k)] = (model, lambda task, same=same: same, "arrow", None)
        found[f"{many(k)}, cached"] = (model, lambda task: (), "arrow", CachedPrefix(model, ids))
    for k in SIMILAR:
        found[f"{many(k)}, looked up"] = (model, lambda task, k=k: library.find(task, k), "arrow", None)
    found[LORA] = (tuned, lambda task: (), "arrow", None)
    return found


def many(k):
    """"1 example", "2 examples"."""
    return f"{k} example{'' if k == 1 else 's'}"


def judge(way, tokenizer, tasks_):
    """{"score", "read", "written", "reused" (mean tokens of a call), "seconds", "lookup" (medians: of the model's part of a
    call, of finding the examples)} of a way, one call after another."""
    import time

    from ftlab.measure import calls
    from ftlab.text.shots import few_shot_prompt
    from ftlab.world import tasks

    model, examples, form, prefix = way
    made, scores, lookup = [], [], []
    for task in tasks_:
        began = time.perf_counter()
        prompt = few_shot_prompt(task, examples(task), form)
        lookup.append(time.perf_counter() - began)
        made.append(calls.call(model, tokenizer, tokenizer.encode(prompt, bos=prefix is None), prefix=prefix))
        scores.append(tasks.score(task, made[-1].text))
    return {"score": statistics.fmean(scores), **calls.summary(made), "lookup": statistics.median(lookup)}


def cost(one, rates):
    """Seconds of a call by its tokens, at the seconds a token that were measured (`calls.rates`): a single call's time is
    mostly what every call takes, and differs from one to the next by more than an example is worth."""
    return one["read"] * rates["read"] + one["written"] * rates["written"] + one["lookup"]


def tune(seed, role, report=None, steps=None, callbacks=()):
    """(model, [(step, up-front seconds, score on validation tasks), ...]) of a LoRA tuned for one fact, its start included.
    The seconds are those of the steps alone."""
    import torch

    from ftlab.model import load
    from ftlab.text.examples import Example
    from ftlab.text.shots import asked as question
    from ftlab.tune import attach, sft

    model, tokenizer = load(BASE)
    torch.manual_seed(seed)
    model = attach(model, "lora", r=RANK, lora_alpha=2 * RANK)
    validation = facts(f"validation {seed}", role, VALIDATION, "test")
    rows = [Example(question(task, "arrow"), f" {task.response}", form="completion") for task in facts(seed, role, POOL)]

    def evaluate(model, step):
        if report:
            report(f"{role}, step {step}")
        return {"score": judge((model, lambda task: (), "arrow", None), tokenizer, validation)["score"]}

    start = evaluate(model, 0)["score"]
    history = sft.tune(model, tokenizer, rows, steps=steps or STEPS, lr=LORA_RATE, seed=seed, evaluate=evaluate,
                       eval_every=EVERY, tokens_per_batch=TOKENS_PER_BATCH, callbacks=callbacks)
    each = history.seconds / len(history.steps)
    return model, [(0, 0.0, start), *((e["step"], e["step"] * each, e["score"]) for e in history.evals)]


def compare(seed, role, report=None, judged=ASKED, steps=None, callbacks=()):
    """What every way brings and costs at one fact: {"ways": {name: what `judge` says, and "cost"}, "scores" (of the tuning),
    "rates", "rival", "upfront" (seconds of tuning to the rival's score, None: not reached), "calls" (of the break-even
    there, None: never), "gap" (score of the tuned model at its end, less the rival's)}."""
    from ftlab.measure import calls
    from ftlab.model import load

    model, tokenizer = load(BASE)
    tuned, scores = tune(seed, role, report, steps, callbacks)
    some, found, rates = facts(f"held out {seed}", role, judged, "test"), {}, calls.rates(model)
    for name, way in ways(facts(seed, role, POOL), model, tuned, tokenizer).items():
        if report:
            report(f"{role}, {name}")
        found[name] = judge(way, tokenizer, some)
        found[name]["cost"] = cost(found[name], rates)
    rival = best_prompt(found)
    upfront = reaching(scores, found[rival]["score"] - TOLERANCE)
    paid = None if upfront is None else calls_to_pay(upfront, found[rival]["cost"], found[LORA]["cost"])
    return {"ways": found, "scores": scores, "rates": rates, "rival": rival, "upfront": upfront, "calls": paid,
            "gap": found[LORA]["score"] - found[rival]["score"]}


def best_prompt(found):
    """The way that scores best without training; of those that are as good the one whose call costs least."""
    rivals = [name for name in found if name != LORA]
    top = max(found[name]["score"] for name in rivals)
    return min((name for name in rivals if found[name]["score"] >= top - TOLERANCE), key=lambda name: found[name]["cost"])


def reaching(scores, level):
    """Up-front seconds at which a run's score first reaches `level`, or None."""
    return next((seconds for _, seconds, score in scores if score >= level), None)


def calls_to_pay(upfront, before, after):
    """From how many calls on paying `upfront` is no dearer; None where a call costs no less afterwards."""
    return math.ceil(upfront / (before - after)) if after < before else None


def measure_break_even(seed, report):
    """Calls at which LoRA, stopped once it is as good as the best prompt, is paid back (−1: never), at the first of ROLES."""
    made = {role: compare(seed, role, report) for role in ROLES}
    for one in made.values():  # seconds need more digits than `rounded` leaves
        one["ways"] = {name: {key: float(f"{x:.4g}") for key, x in way.items()} for name, way in one["ways"].items()}
        one["rates"] = {name: float(f"{x:.4g}") for name, x in one["rates"].items()}
        one["scores"] = [[step, round(s, 3), round(score, 4)] for step, s, score in one["scores"]]
        one["gap"], one["upfront"] = round(one["gap"], 4), None if one["upfront"] is None else round(one["upfront"], 3)
    paid = made[ROLES[0]]["calls"]
    return {"value": -1 if paid is None else paid, "roles": made}


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
          metric=f"calls at which the seconds of LoRA's steps are paid back by fewer tokens a call, for the {ROLES[0]} of a "
                 "story (−1: never)", unit="calls",
          measure=measure_break_even, seeds=5),
    Claim(id="X00", kind="exact", lab=LAB,
          statement="The formula of a float gives the value that torch gives, for every pattern of bits.",
          metric="patterns that differ: all of bfloat16, float16 and two formats of 8 bits, "
                 f"{PATTERNS:,} of float32", at_most=0, measure=measure_formats, seeds=1),
]
