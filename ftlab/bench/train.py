"""`ftlab bench train`: our training loop against `transformers.Trainer` and TRL's `SFTTrainer`, on the CPU.

Three questions, each answered by runs that take turns:

1. Useful tokens (those with a label) per second. All start from the same weights (the peers' as a LlamaForCausalLM)
   and see the same batches in the same order: the peers' collator asks our batch source for them, so collation is the
   same work. AdamW (fused, torch's) on all sides, as that is the peers' default; ours with Muon as well. In batches
   of 4,096 tokens, and once more in the labs' own of 1,024, where a small model's step is over sooner than is asked for.
2. Floating-point operations, 6 · parameters · useful tokens, per second, as a share of the rate of a large float32
   matrix product measured in the same rounds; and a profile of where a step's time goes.
3. Time until 90 % of sampled stories of the small world keep hero and object. Ours is the labs' recipe (Muon) at five
   multiples of its rates; the peer is transformers.Trainer with AdamW at five rates with the recipe's number of planned
   steps, and, since its jump comes later, at the best of these also with twice as many (cosine, warmed up as the recipe
   is). Evaluation costs no time on either side and happens after the same numbers of tokens, by the same code. A run
   that is slower than the best of its kind so far is stopped, since it cannot be the best; a peer past five times our
   time is recorded as not there ("> 5").

The peers' settings: float32, use_cpu, no gradient checkpointing, no logging, no saving, no progress bar, gradients
clipped at 1; batches carry no attention mask (rows are padded on the right and the model is causal), which spares the
peers the work of one; SFTTrainer insists on a mask and gets all ones, which the model drops at once. The rest are their
defaults: Trainer's loss and its count of tokens, SFTTrainer's fused head with its entropy and accuracy metrics.
"""

import dataclasses
import functools
import math
import statistics
import tempfile
import time

import torch

from ftlab import profile
from ftlab.bench.common import against, alone, paired, take_turns, tell
from ftlab.library_messages import quiet_libraries
from ftlab.model import ModelConfig, Transformer, from_hf, to_hf
from ftlab.text.batching import RowBatches
from ftlab.train import TrainConfig, train
from ftlab.train.recipes import small_recipe, small_tokenizer
from ftlab.train.schedule import factor

SIZES = {
    "0.46 M": ({"vocab_size": 512, "hidden_size": 128, "num_layers": 2, "num_heads": 4, "intermediate_size": 344}, 0.55),
    "2.9 M": ({"vocab_size": 2048, "hidden_size": 224, "num_layers": 4, "num_heads": 7, "intermediate_size": 600}, 0.65),
}
TOKENS_AND_STEPS = {4096: 10, 1024: 30}  # of a batch; measured steps
TINY = {"vocab_size": 512, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 24}
PEERS = ("transformers.Trainer", "TRL SFTTrainer")
OURS_FACTORS = (1.0, 0.5, 2.0, 0.7, 1.4)  # on both of the recipe's rates, the likeliest best first
PEER_RATES = (4e-3, 2e-3, 8e-3, 1e-3, 1.6e-2)
GIVE_UP = 5.0  # times our time
TARGET = 0.9


def run(report=None, quick=False):
    """All rows; several minutes on two cores."""
    with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
        stories = small_recipe(steps=20 if quick else 400).batches
        rows = []
        for label, (shape, limit) in SIZES.items():
            for tokens, steps in TOKENS_AND_STEPS.items():
                batches = RowBatches(stories.rows, tokens, stories.seed, stories.pad_id)
                name = label if tokens == 4096 else f"{label}, {tokens:,} tokens a batch"
                counts = (1, 3, 2) if quick else (3, steps, 5)
                rows += speed(name, TINY if quick else shape, limit, batches, scratch, report, counts)
        rows += time_to_target(scratch, report, quick)
    return {"machine": profile.machine(measure=not quick), "rows": rows}


# 1 and 2: speed.


def speed(label, shape, limit, batches, scratch, report, counts):
    """Rows of tokens per second, of the share of a matrix product's rate, and of where a step's time goes.

    counts: steps before the clock runs, steps on the clock, rounds.
    """
    warm, steps, rounds = counts
    torch.manual_seed(0)
    start = Transformer(ModelConfig(**shape))
    runners = {f"ours, {name}": functools.partial(_ours_rate, start, batches, name, warm, steps)
               for name in ("adamw", "muon")}
    for peer in PEERS:
        runners[peer] = functools.partial(_peer_rate, peer, start, batches, warm, steps, scratch)
    runners["matrix product, GFLOP/s"] = (lambda: profile.matmul_gflops(256)) if steps < 5 else profile.matmul_gflops
    results = take_turns(runners, rounds, report, f"{label}, tokens/s, round")
    rows = [paired(f"train, {label}, AdamW, against {peer}", results["ours, adamw"], results[peer], "useful tokens/s")
            for peer in PEERS]
    rows += [paired(f"train, {label}, Muon, against {peer} with AdamW", results["ours, muon"], results[peer],
                    "useful tokens/s") for peer in PEERS]
    parameters = start.num_parameters()
    for name in ("adamw", "muon"):
        shares = [6 * parameters * tokens / 1e9 / product for tokens, product in
                  zip(results[f"ours, {name}"], results["matrix product, GFLOP/s"], strict=True)]
        rows.append(alone(f"train, {label}, {name}, operations against a large matrix product",
                          statistics.median(shares), "share", limit))
        for group, share in breakdown(start, batches, name, min(steps, 8)).items():
            rows.append(alone(f"train, {label}, {name}, time in {group}", share, "share of a step"))
    return rows


def _copy(model):
    other = Transformer(model.config)
    other.load_state_dict(model.state_dict())
    return other


def _ours_rate(start, batches, optimizer, warm, steps):
    """Useful tokens per second of our loop after `warm` steps."""
    model, marks = _copy(start), {}

    def clock(event):
        if event["kind"] == "step":
            marks[event["step"]] = time.perf_counter(), event["history"].tokens

    train(model, batches, TrainConfig(warm + steps, lr=1e-3, optimizer=optimizer, schedule="constant"), callbacks=[clock])
    (began, before), (ended, after) = marks[warm], marks[warm + steps]
    return (after - before) / (ended - began)


def _peer_rate(peer, start, batches, warm, steps, scratch):
    """Useful tokens per second of a peer after `warm` steps."""
    from transformers import TrainerCallback

    marks = {}

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **rest):
            marks[state.global_step] = time.perf_counter()

    trainer = make_peer(peer, to_hf(start), batches, warm + steps, scratch, [Clock()])
    trainer.train()
    tokens = sum(batches(step).num_tokens() for step in range(warm, warm + steps))
    return tokens / (marks[warm + steps] - marks[warm])


def make_peer(peer, model, batches, steps, scratch, callbacks=(), lr=1e-3, lr_factor=None):
    """A peer's trainer that will take `steps` steps. lr_factor(step): its schedule, else its default (linear to 0).

    Its dataset holds the numbers of the steps; its collator makes the batch of each, as our loop does.
    """
    from transformers import PrinterCallback

    settings = {
        "output_dir": scratch, "max_steps": steps, "per_device_train_batch_size": 1, "learning_rate": lr,
        "train_sampling_strategy": "sequential", "remove_unused_columns": False, "use_cpu": True, "bf16": False,
        "fp16": False, "gradient_checkpointing": False, "save_strategy": "no", "logging_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "seed": 0}
    numbers = [{"step": step} for step in range(steps)]
    collate = functools.partial(_collate, batches, peer == "TRL SFTTrainer")
    data = {"data_collator": collate, "callbacks": list(callbacks)}
    if lr_factor is not None:
        # Trainer's own default optimizer, built here because a schedule of one's own comes only with an optimizer.
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
                                      fused=True)
        data["optimizers"] = optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    model.train()
    if peer == "transformers.Trainer":
        from transformers import Trainer, TrainingArguments

        trainer = Trainer(model, TrainingArguments(**settings), train_dataset=numbers, **data)
    else:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(**settings, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
        trainer = SFTTrainer(model, arguments, train_dataset=Dataset.from_list(numbers),
                             processing_class=small_tokenizer().to_hf(), **data)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _collate(batches, with_mask, items):
    batch = batches(items[0]["step"])
    mask = {"attention_mask": torch.ones_like(batch.input_ids)} if with_mask else {}
    return {"input_ids": batch.input_ids, "labels": batch.labels} | mask


GROUPS = {
    # Of the batched products and softmaxes, only attention's are outside the optimizer.
    "attention": ("scaled_dot_product", "aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::softmax"),
    "the embedding": ("embedding",),
    "matrix products": ("aten::mm", "aten::addmm", "aten::matmul", "aten::linear"),
    "the loss": ("log_softmax", "nll_loss", "cross_entropy", "aten::index", "aten::nonzero"),
}


def breakdown(start, batches, optimizer, steps=8):
    """{group: share of the time of a training step}; what no operation of torch took is Python and dispatch."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    model = _copy(start)
    config = TrainConfig(steps, lr=1e-3, optimizer=optimizer, schedule="constant")
    train(model, batches, config)
    with torch_profile(activities=[ProfilerActivity.CPU]) as recorded:
        history = train(model, batches, config)
    total = history.seconds * 1e6
    shares = dict.fromkeys([*GROUPS, "elementwise and the rest", "the optimizer"], 0.0)
    for event in recorded.events():
        group = _group(event)
        if group is not None:
            shares[group] += event.self_cpu_time_total / total
    shares["Python and dispatch"] = max(0.0, 1 - sum(shares.values()))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _group(event):
    """The group of a profiler's event: that of the operation it is part of; None where it is none of torch's."""
    chain = []
    while event is not None:
        chain.append(event.name)
        event = event.cpu_parent
    if any(name.startswith("Optimizer.step") for name in chain):
        return "the optimizer"
    for group, parts in GROUPS.items():
        if any(part in name for name in chain for part in parts):
            return group
    return "elementwise and the rest" if chain[0].startswith("aten::") else None


# 3: time until nine stories in ten keep hero and object.


def time_to_target(scratch, report, quick):
    """One row: seconds of our best of five rates against Trainer's best of five rates."""
    target = 0.0 if quick else TARGET
    changes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 24} if quick else {}
    recipe = small_recipe(**({"steps": 4} if quick else {}), **changes)
    # As many stories as the longest run of the peer needs, so that nobody sees one twice.
    recipe.batches = small_recipe(steps=2 * recipe.config.steps).batches
    every = 2 if quick else 40
    judge = functools.partial(_share, recipe, samples=4 if quick else 200)
    best_ours = math.inf
    for multiple in OURS_FACTORS[:2] if quick else OURS_FACTORS:
        seconds = _ours_time(recipe, multiple, judge, target, every, best_ours)
        tell(report, f"ours, rates x {multiple}: " + _said(seconds, best_ours))
        best_ours = min(best_ours, seconds)
    name = f"time to {TARGET:.0%} hero and object, against transformers.Trainer with AdamW"
    if best_ours == math.inf:
        return [against(name + " (ours did not get there)", None, None, "s", higher_is_better=False)]
    best_peer, limit, shares = math.inf, GIVE_UP * best_ours, {}
    runs = [(rate, 1) for rate in (PEER_RATES[:2] if quick else PEER_RATES)] + [(None, 2)]
    for rate, planned in runs:
        rate = rate or max(shares, key=shares.get)
        slowest = min(best_peer, limit)
        seconds, share = _peer_time(recipe, rate, planned * recipe.config.steps, judge, target, every, slowest, scratch)
        shares.setdefault(rate, share)
        tell(report, f"transformers.Trainer, rate {rate}, {planned} x steps: {share:.0%}, " + _said(seconds, slowest))
        best_peer = min(best_peer, seconds)
    if best_peer == math.inf:
        return [against(f"{name} (> {GIVE_UP:g})", best_ours, None, "s", higher_is_better=False)]
    return [against(name, best_ours, best_peer, "s", higher_is_better=False)]


def _said(seconds, limit):
    if seconds < math.inf:
        return f"there after {seconds:.1f} s"
    return "not there" + (f" after {limit:.1f} s" if limit < math.inf else "")


def _share(recipe, model, step, samples):
    """Share of sampled stories that keep hero and object."""
    return recipe.shares(recipe.sample(model, samples, seed=step))["hero_and_object"]


def _ours_time(recipe, multiple, judge, target, every, limit):
    """Training seconds until `judge` gives `target`; inf where that takes `limit` seconds or never happens."""
    config = dataclasses.replace(recipe.config, lr=multiple * recipe.config.lr, eval_every=every,
                                 muon_lr=multiple * recipe.config.muon_lr)
    clock = [0.0]

    def follow(event):
        if event["kind"] == "step":
            clock[0] = event["history"].seconds

    history = train(recipe.model(), recipe.batches, config, callbacks=[follow],
                    evaluate=lambda model, step: {"share": judge(model, step)},
                    stop=lambda metrics: metrics["share"] >= target or clock[0] >= limit)
    there = history.evals[-1]["share"] >= target and clock[0] < limit
    return clock[0] if there else math.inf


def _peer_time(recipe, rate, planned, judge, target, every, limit, scratch, peer="transformers.Trainer"):
    """(seconds as of `_ours_time`, the best share seen) of a peer; its schedule ends at `planned` steps."""
    from transformers import TrainerCallback

    model, config = to_hf(recipe.model()), recipe.config
    warmup = round(config.warmup * config.steps) if 0 < config.warmup < 1 else int(config.warmup)
    state = {"seconds": 0.0, "since": None, "there": False, "share": 0.0}

    class Judge(TrainerCallback):
        """Stops the clock while it evaluates."""

        def on_step_begin(self, args, trainer_state, control, **rest):
            if state["since"] is None:
                state["since"] = time.perf_counter()

        def on_step_end(self, args, trainer_state, control, **rest):
            step = trainer_state.global_step
            if step % every and step != planned:
                return
            state["seconds"] += time.perf_counter() - state["since"]
            share = judge(from_hf(model), step)
            state["share"], state["there"] = max(share, state["share"]), share >= target
            control.should_training_stop = state["there"] or state["seconds"] >= limit
            state["since"] = time.perf_counter()

    make_peer(peer, model, recipe.batches, planned, scratch, [Judge()], rate,
              lambda step: factor(min(step, planned), planned, config.schedule, warmup, config.final_lr)).train()
    return state["seconds"] if state["there"] and state["seconds"] < limit else math.inf, state["share"]
