"""Claims of lab 06_lora and how a study measures them, one seed at a time.

One base (base-small, 0.72 M parameters), three families of tasks with one-word answers, AdamW, 50 steps. Rates are
chosen by the loss on validation examples, scores are taken on others. Runs that serve several claims are made once a
seed. Settings and margins were fixed before any seed of a study ran; steps and rates after a pilot on seed 101, in which
100 steps brought every rank and either method to 0.91 to 0.96, and 50 told them apart.
"""

import statistics
import tempfile
import time

from ftlab.course.studies import Once
from ftlab.measure.claims import Claim

LAB = "06_lora"
BASE = "base-small"
SHORT = ("answer", "extract", "classify")
EXAMPLES, VALIDATION, JUDGED = 300, 60, 60  # of each family
STEPS, TOKENS_PER_BATCH = 50, 2048

RANK, SCALE = 4, 2  # 4.0 % of the parameters beside every linear layer; alpha = SCALE · rank unless said otherwise
LORA_RATE = 2e-2  # where only one rate is run
FULL_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
LORA_RATES = (5e-3, 1e-2, 2e-2, 4e-2, 8e-2)
MUON_RATES = {"lr": 3e-3, "muon_lr": 0.01}  # C24b

RANKS = (1, 2, 4, 8, 16, 32)  # C25, M10
KNEE = 8
QV_RANK = 19  # C26: query and value alone at the parameters that all layers have at rank 4
FORGET_EVERY = 5  # C28
ALPHAS = (2, 8, 32)  # C30, at rank 4
RELATIVE_STEPS = 40  # M06


# -- data

def examples(seed, per_family, families=SHORT, split="train"):
    """Tasks about stories of the rich world, `per_family` of each family."""
    from ftlab.world import World, tasks

    world = World("rich")
    return [task for family in families for task in tasks.make(world, family, per_family, seed, split)]


def validation_rows(seed, tokenizer):
    """Rows by whose loss a rate is chosen."""
    from ftlab.tune import sft

    return sft.make_rows(examples(f"validation {seed}", VALIDATION, split="test"), tokenizer)


def score(model, tokenizer, seed, families=SHORT, judged=None):
    """Mean score of greedy answers to held-out tasks."""
    from ftlab.measure.score import instruction_score

    asked = examples(f"held out {seed}", judged or JUDGED, families, "test")
    return instruction_score(model, tokenizer, asked, max_new_tokens=16).mean


# -- runs, each made once a seed

once = Once()


def prepared(seed, method, start=None, **config):
    """A base (or a copy of `start`) with the method attached; what is random depends on the seed."""
    import copy

    import torch

    from ftlab.tune import attach
    from ftlab.tune.bases import lab_base

    model = lab_base(BASE)[0] if start is None else copy.deepcopy(start)
    torch.manual_seed(seed)
    return attach(model, method, **config)


def run(seed, method, lr, report=None, steps=None, families=SHORT, callbacks=(), **config):
    """{"model", "loss" (validation), "losses", "lr", "trainable"} of a run; made once a seed. config: the method's."""
    def make():
        from ftlab.tune import sft
        from ftlab.tune.bases import lab_tokenizer

        tokenizer = lab_tokenizer(BASE)
        settings = {"muon_lr": config.pop("muon_lr"), "optimizer": "muon"} if "muon_lr" in config else {}
        model = prepared(seed, method, **config)
        said = ", ".join(f"{name} {value}" for name, value in config.items())
        tell(report, f"{method} {said}, rate {lr:g}")
        history = sft.tune(model, tokenizer, examples(seed, EXAMPLES, families), steps=steps or STEPS, lr=lr, seed=seed,
                           tokens_per_batch=TOKENS_PER_BATCH, callbacks=callbacks, **settings)
        return {"model": model, "loss": sft.rows_loss(model, validation_rows(seed, tokenizer), tokenizer), "lr": lr,
                "losses": history.losses, "trainable": model.num_parameters(trainable=True), "score": None}

    key = (method, lr, steps, families, *(f"{name}={value}" for name, value in sorted(config.items())))
    return once(key, seed, make)


def tell(report, text):
    """Say where a study is, where somebody listens."""
    if report is not None:
        report(text)


def lora(seed, lr, report=None, r=RANK, lora_alpha=None, **more):
    """A run of LoRA; alpha is SCALE · r unless said otherwise."""
    return run(seed, "lora", lr, report, r=r, lora_alpha=lora_alpha or SCALE * r, **more)


def scored(one, seed):
    """The score of a run's model, taken once."""
    if one["score"] is None:
        from ftlab.tune.bases import lab_tokenizer

        one["score"] = score(one["model"], lab_tokenizer(BASE), seed)
    return one["score"]


def best(runs):
    """The run with the lowest validation loss."""
    return min(runs, key=lambda one: one["loss"])


def full_runs(seed, report):
    return [run(seed, "full", lr, report) for lr in FULL_RATES]


def lora_runs(seed, report, lora_alpha=None):
    return [lora(seed, lr, report, lora_alpha=lora_alpha) for lr in LORA_RATES]


def ends(runs):
    """{rate: validation loss} as it is committed."""
    return {f"{one['lr']:g}": round(one["loss"], 4) for one in runs}


def best_rate(runs):
    """The vertex of the parabola through the lowest loss and its neighbours, over the logarithm of the rate."""
    from ftlab.train import sweeps

    return sweeps.best_rate([one["lr"] for one in runs], [one["loss"] for one in runs])


# -- C22, C23: the same as PEFT, merged the same as unmerged

def shaken(seed, r=8, lora_alpha=16):
    """Our base in float64 with a LoRA whose B is not zero, and a batch: a start at zero would hide mistakes.

    In float32 the base alone, computed in another order of sums, differs by 1e-4 in its logits of up to 33.
    """
    import torch

    from ftlab.tune import lora as by_hand
    from ftlab.tune import sft
    from ftlab.tune.bases import lab_tokenizer

    model, tokenizer = prepared(seed, "lora", r=r, lora_alpha=lora_alpha), lab_tokenizer(BASE)
    for layer in by_hand.layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.02)
    batch = sft.make_batches(sft.make_rows(examples(seed, 4), tokenizer), tokenizer, 1024)(0)
    return model.double(), batch


def with_peft(model, r=8, lora_alpha=16):
    """The same base with PEFT's layers, which hold the numbers of our `model`'s."""
    from peft import LoraConfig, inject_adapter_in_model

    from ftlab.tune import lora as by_hand
    from ftlab.tune.bases import lab_base

    ours = by_hand.layers(model)
    config = LoraConfig(r=r, lora_alpha=lora_alpha, target_modules=sorted({name.split(".")[-1] for name in ours}))
    theirs = inject_adapter_in_model(config, lab_base(BASE)[0]).double()
    for name, layer in ours.items():
        peer = theirs.get_submodule(name)
        peer.lora_A["default"].weight.data.copy_(layer.lora_A.data)
        peer.lora_B["default"].weight.data.copy_(layer.lora_B.data)
    return theirs


def measure_same(seed, report):
    """Largest difference of logits and of gradients between our LoRA and PEFT's on the same base."""
    import torch

    model, batch = shaken(seed)
    theirs = with_peft(model)
    with torch.no_grad():
        logits = (model(batch.input_ids) - theirs(batch.input_ids)).abs().max().item()
    model.loss(batch).backward()
    theirs.loss(batch).backward()
    peer = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    gradients = max((p.grad - peer[f"{name}.default.weight"]).abs().max().item()
                    for name, p in model.named_parameters() if p.requires_grad)
    return {"value": max(logits, gradients), "logits": logits, "gradients": gradients, "tensors": len(peer)}


def measure_merge(seed, report):
    """Largest difference of logits by merging, and of weights by merging and unmerging."""
    import torch

    from ftlab.tune import lora as by_hand

    model, batch = shaken(seed)
    before = {name: layer.base.weight.clone() for name, layer in by_hand.layers(model).items()}
    with torch.no_grad():
        unmerged = model(batch.input_ids)
        merged = by_hand.merge(model)(batch.input_ids)
        by_hand.unmerge(model)
    logits = (merged - unmerged).abs().max().item()
    weights = max((layer.base.weight - before[name]).abs().max().item() for name, layer in by_hand.layers(model).items())
    return {"value": max(logits, weights), "logits": logits, "weights": weights}


# -- C24: the spectrum of a full update

def updates(model):
    """{name: ΔW}, on the CPU, of the hidden matrices of a model that was fully fine-tuned from BASE."""
    from ftlab.tune import lora as by_hand
    from ftlab.tune.bases import lab_base

    start, after = (dict(one.named_parameters()) for one in (lab_base(BASE)[0], model))
    names = [f"{name}.weight" for name in by_hand.targets(model)]
    return {name: (after[name] - start[name]).detach().cpu() for name in names}


def energy_in(delta, share):
    """Share of Σ σ² that the largest `share` of the singular values of a matrix hold."""
    import torch

    squares = torch.linalg.svdvals(delta).square()
    return (squares[:round(share * len(squares))].sum() / squares.sum()).item()


def measure_spectrum(seed, report):
    found = {name: energy_in(delta, 0.25) for name, delta in updates(best(full_runs(seed, report))["model"]).items()}
    return {"value": statistics.fmean(found.values()), "by_matrix": {name: round(v, 4) for name, v in found.items()}}


def measure_spectrum_muon(seed, report):
    one = run(seed, "full", MUON_RATES["lr"], report, muon_lr=MUON_RATES["muon_lr"])
    found = {name: energy_in(delta, 0.25) for name, delta in updates(one["model"]).items()}
    return {"value": statistics.fmean(found.values()), "by_matrix": {name: round(v, 4) for name, v in found.items()}}


# -- C25, M10, M01: the rank

def rank_scores(seed, report):
    """{rank: score}, all at one rate and one scale."""
    return {r: scored(lora(seed, LORA_RATE, report, r=r), seed) for r in RANKS}


def measure_knee(seed, report):
    scores = rank_scores(seed, report)
    first, knee, last = scores[RANKS[0]], scores[KNEE], scores[RANKS[-1]]
    return {"value": (knee - first) - abs(last - knee), "scores": {str(r): round(s, 4) for r, s in scores.items()},
            "losses": {str(r): round(lora(seed, LORA_RATE, r=r)["loss"], 4) for r in RANKS}}


def measure_larger(seed, report):
    scores = rank_scores(seed, report)
    return {"value": scores[RANKS[-1]] - scores[KNEE], "scores": {str(r): round(s, 4) for r, s in scores.items()}}


def measure_pairs(seed, report):
    """What rank 1 gains over the base; the number of pairs of matrices does not depend on the rank."""
    from ftlab.tune import lora as by_hand
    from ftlab.tune.bases import lab_base

    model, tokenizer = lab_base(BASE)
    before = score(model, tokenizer, seed)
    pairs = {r: len(by_hand.layers(prepared(seed, "lora", r=r))) for r in (1, 32)}
    after = scored(lora(seed, LORA_RATE, report, r=1), seed)
    return {"value": after - before, "base": before, "rank_1": after, "pairs": {str(r): n for r, n in pairs.items()}}


# -- C26: which matrices

def measure_targets(seed, report):
    everywhere = best([lora(seed, lr, report) for lr in LORA_RATES[1:4]])
    some = best([lora(seed, lr, report, r=QV_RANK, target_modules=("q_proj", "v_proj")) for lr in LORA_RATES[1:4]])
    return {"value": scored(everywhere, seed) - scored(some, seed), "all": scored(everywhere, seed),
            "query_value": scored(some, seed), "parameters": [everywhere["trainable"], some["trainable"]],
            "losses": [round(everywhere["loss"], 4), round(some["loss"], 4)]}


# -- C27, C46, C30: against full fine-tuning, and the rates

def measure_close(seed, report):
    full, ours = best(full_runs(seed, report)), best(lora_runs(seed, report))
    return {"value": scored(ours, seed) - scored(full, seed), "lora": scored(ours, seed), "full": scored(full, seed),
            "share": ours["trainable"] / full["trainable"], "rates": [ours["lr"], full["lr"]]}


def measure_rates(seed, report):
    full, ours = full_runs(seed, report), lora_runs(seed, report)
    rates = best_rate(ours), best_rate(full)
    return {"value": rates[0] / rates[1], "lora": ends(ours), "full": ends(full), "best": rates}


def measure_alpha(seed, report):
    import math

    found = {alpha: lora_runs(seed, report, lora_alpha=alpha) for alpha in ALPHAS}
    rates = {alpha: best_rate(runs) for alpha, runs in found.items()}
    slope = statistics.linear_regression([math.log(a) for a in rates], [math.log(r) for r in rates.values()]).slope
    return {"value": slope, "best": {str(a): r for a, r in rates.items()},
            "ends": {str(a): ends(runs) for a, runs in found.items()}}


# -- C28: forgetting at an equal score

def story_rows(seed, tokenizer, count=80):
    """Rows of bare stories, all of whose tokens carry a loss: what the base knew before."""
    from ftlab.text.examples import Example
    from ftlab.tune import sft
    from ftlab.world import World

    stories = World("rich").sample(count, f"stories {seed}", "test")
    return sft.make_rows([Example(response=story.text, form="text") for story in stories], tokenizer, loss="all")


def forgetting(seed, method, lr, report, **config):
    """[{"step", "loss" on held-out instructions, "stories"}] along a run, its start included; made once a seed."""
    def make():
        from ftlab.tune import sft
        from ftlab.tune.bases import lab_tokenizer

        model, tokenizer = prepared(seed, method, **config), lab_tokenizer(BASE)
        stories, asked = story_rows(seed, tokenizer), validation_rows(seed, tokenizer)

        def evaluate(model, step):
            tell(report, f"forgetting, {method}, step {step}")
            return {"loss": sft.rows_loss(model, asked, tokenizer), "stories": sft.rows_loss(model, stories, tokenizer)}

        start = {"step": 0, **evaluate(model, 0)}
        history = sft.tune(model, tokenizer, examples(seed, EXAMPLES), steps=STEPS, lr=lr, seed=seed,
                           tokens_per_batch=TOKENS_PER_BATCH, evaluate=evaluate, eval_every=FORGET_EVERY)
        return [start, *history.evals]

    return once(("forgetting", method, lr), seed, make)


def forgotten_at(evals, loss):
    """Rise of the stories' loss where the loss on the new task first falls to `loss`, between two evaluations by a
    straight line."""
    for before, after in zip(evals, evals[1:]):
        if after["loss"] <= loss:
            way = (before["loss"] - loss) / (before["loss"] - after["loss"])
            return before["stories"] + way * (after["stories"] - before["stories"]) - evals[0]["stories"]
    return evals[-1]["stories"] - evals[0]["stories"]


def measure_forgetting(seed, report):
    full = forgetting(seed, "full", best(full_runs(seed, report))["lr"], report)
    ours = forgetting(seed, "lora", best(lora_runs(seed, report))["lr"], report, r=RANK, lora_alpha=SCALE * RANK)
    level = max(min(e["loss"] for e in evals) for evals in (full, ours))  # the better both of them reach
    lost = {"full": forgotten_at(full, level), "lora": forgotten_at(ours, level)}
    return {"value": lost["full"] - lost["lora"], "level": level, "forgotten": lost,
            "full": [{k: round(v, 4) for k, v in e.items()} for e in full],
            "lora": [{k: round(v, 4) for k, v in e.items()} for e in ours]}


# -- C29: two tasks, one base, two small files

def measure_swap(seed, report, judged=40):
    from ftlab.model.ask import ask
    from ftlab.tune import files
    from ftlab.tune.bases import lab_base

    (model, tokenizer), bytes_, seconds, first = lab_base(BASE), {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        for task in ("classify", "extract"):
            one = lora(seed, LORA_RATE, report, families=(task,))["model"]
            bytes_[task] = files.save_adapter(one, f"{folder}/{task}", BASE)
            first[task] = ask(one, tokenizer, examples(f"held out {seed}", judged, (task,), "test"), max_new_tokens=16)
        again, crossed = {}, {}
        for task, other in (("classify", "extract"), ("extract", "classify"), ("classify", "extract")):
            began = time.perf_counter()
            files.load_adapter(model, f"{folder}/{task}")
            seconds.append(time.perf_counter() - began)
            again[task] = ask(model, tokenizer, examples(f"held out {seed}", judged, (task,), "test"), max_new_tokens=16)
            crossed[task] = score(model, tokenizer, seed, (other,), judged)
    differ = sum(a != b for task in first for a, b in zip(first[task], again[task], strict=True))
    return {"value": differ, "bytes": bytes_, "base_bytes": 4 * model.num_parameters(), "swap_seconds": min(seconds),
            "own": {task: score(lora(seed, LORA_RATE, families=(task,))["model"], tokenizer, seed, (task,), judged)
                    for task in first}, "other": crossed}


# -- M06: a LoRA on other bases

def stranger(model, seed=0):
    """A model that computes the very same function with its hidden channels in another order: another base of the same
    shape, as another seed of pretraining would give it, but certainly as good."""
    import copy

    import torch

    other = copy.deepcopy(model)
    order = torch.randperm(model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, p in other.named_parameters():
            if p.ndim == 1 or name.startswith("embed_tokens") or name.endswith(("q_proj.weight", "k_proj.weight",
                                                                               "v_proj.weight", "gate_proj.weight",
                                                                               "up_proj.weight")):
                p.copy_(p[..., order])  # what reads the stream
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                p.copy_(p[order])  # what writes to it
    return other


def relative(seed, report):
    """The base after a short full fine-tuning on another family of tasks."""
    from ftlab.tune import sft
    from ftlab.tune.bases import lab_tokenizer

    tell(report, "a relative of the base")
    model, tokenizer = prepared(seed, "full"), lab_tokenizer(BASE)
    sft.tune(model, tokenizer, examples(f"relative {seed}", 100, ("write",)), steps=RELATIVE_STEPS, lr=1e-3, seed=seed,
             tokens_per_batch=TOKENS_PER_BATCH)
    return model


def measure_stranger(seed, report):
    from ftlab.tune import lora as by_hand
    from ftlab.tune.bases import lab_base

    base, tokenizer = lab_base(BASE)
    learned = lora(seed, LORA_RATE, report)
    saved = by_hand.adapter_state(learned["model"]), by_hand.adapter_config(learned["model"])
    found = {"base": scored(learned, seed)}
    for name, model in (("relative", relative(seed, report)), ("stranger", stranger(base, seed))):
        found[f"{name}_without"] = score(model, tokenizer, seed)
        found[name] = score(by_hand.load_adapter_state(model, *saved), tokenizer, seed)
    return {"value": found["relative"] - found["stranger"], **{name: round(v, 4) for name, v in found.items()}}


SCORE = "score on held-out tasks with one-word answers"
MORE = "The interval of the first three seeds was too wide to decide; five more were run, and all count."
CLAIMS = [
    Claim(id="C22", kind="exact", lab=LAB, statement="Our LoRA equals PEFT's, outputs and gradients.",
          metric="largest difference of logits and of gradients on a batch of instructions, float64", at_most=1e-5,
          measure=measure_same, seeds=1),
    Claim(id="C23", kind="exact", lab=LAB, statement="Merged equals unmerged, and unmerging restores the weights.",
          metric="largest difference of logits, and of weights after unmerging, float64", at_most=1e-4, measure=measure_merge,
          seeds=1),
    Claim(id="C24", kind="measured", lab=LAB,
          statement="At least 90 % of the energy of a full fine-tuning update by AdamW lies in a quarter of its directions.",
          metric="share of the squared singular values of the update in the largest quarter, mean over matrices",
          at_least=0.9, measure=measure_spectrum, seeds=8, note=MORE),
    Claim(id="C24b", kind="measured", lab=LAB,
          statement="So it does by Muon, whose every step has all directions alike.",
          metric="the same for Muon at its usual rates", at_least=0.9, measure=measure_spectrum_muon,
          note="Steps that are rich add up to an update that is rich."),
    Claim(id="C25", kind="measured", lab=LAB,
          statement="The score rises with the rank, then flattens: rank 1 to 8 brings more than 8 to 32 changes.",
          metric=f"{SCORE}: gain from rank 1 to {KNEE} minus the change from {KNEE} to {RANKS[-1]}, one rate and scale",
          at_least=0.02, measure=measure_knee, seeds=8,
          note=f"Rank 1 is behind rank 8, but rank 32 is behind it too, at the one rate of all ranks. {MORE}"),
    Claim(id="C26", kind="measured", lab=LAB,
          statement="LoRA beside all linear layers beats LoRA beside query and value at an equal number of parameters.",
          metric=f"{SCORE}, rank {RANK} everywhere minus rank {QV_RANK} beside query and value, each at its best of "
                 "three rates", at_least=0.01, measure=measure_targets, seeds=8, note=MORE),
    Claim(id="C27", kind="measured", lab=LAB,
          statement="LoRA with less than 5 % of the parameters comes within 2 points of full fine-tuning, each at its own "
                    "best of five rates (AdamW).",
          metric=f"{SCORE}, LoRA of rank {RANK} minus full", at_least=-0.02, measure=measure_close, seeds=8, note=MORE),
    Claim(id="C28", kind="measured", lab=LAB,
          statement="LoRA forgets less than full fine-tuning where both are equally good at the new task.",
          metric="rise of the loss on bare stories at an equal loss on the new task, full minus LoRA", unit="nats per token",
          at_least=0.02, measure=measure_forgetting,
          note="What is forgotten follows the rate: full fine-tuning forgot 0.01 and 0.02 at 2e-3, 0.63 at 8e-3, LoRA 0.02 at "
               "1e-2, 0.14 at 2e-2 and 1.75 at 4e-2, each the best rate of its seed for the new task."),
    Claim(id="C29", kind="exact", lab=LAB,
          statement="Two tasks, one base, two small files: after swapping there and back each task's answers are the same.",
          metric="answers that differ, of 80", at_most=0, measure=measure_swap, seeds=1),
    Claim(id="C30", kind="measured", lab=LAB,
          statement=f"At rank {RANK} the best rate falls as alpha grows.",
          metric="slope of log best rate against log alpha", at_most=-0.2, measure=measure_alpha),
    Claim(id="C46", kind="measured", lab=LAB,
          statement="LoRA's best rate is several times that of full fine-tuning (AdamW for both).",
          metric="best rate of LoRA over best rate of full fine-tuning", unit="times", at_least=2.0,
          measure=measure_rates, seeds=8, note=MORE),
    Claim(id="M01", kind="measured", lab=LAB,
          statement="The rank is not the number of update matrices, nor must it be 8: rank 1, with as many pairs of matrices "
                    "as rank 32, learns the tasks.",
          metric=f"{SCORE}, rank 1 minus the base", at_least=0.2, measure=measure_pairs),
    Claim(id="M06", kind="measured", lab=LAB,
          statement="A LoRA fits its base and close relatives: on a stranger of the same shape, which computes the very same "
                    "function with its channels in another order, it is noise.",
          metric=f"{SCORE}, on a relative minus on the stranger", at_least=0.2, measure=measure_stranger),
    Claim(id="M10", kind="measured", lab=LAB,
          statement="A larger rank is not always better: rank 32 gains less than a point over rank 8.",
          metric=f"{SCORE}, rank {RANKS[-1]} minus rank {KNEE}", at_most=0.01, measure=measure_larger, seeds=8,
          note=f"Rank {RANKS[-1]} is behind, at the one rate of all ranks. {MORE}"),
]
