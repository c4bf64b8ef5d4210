"""Claims of lab 07_qlora and how a study measures them, one seed at a time.

Settings and thresholds were fixed before any seed of a study ran.
"""

import functools

from ftlab.measure.claims import Claim

LAB = "07_qlora"
BASE = "base-small"
SIDE, BLOCK = 1024, 64
OUTLIERS, TIMES = 0.001, 20  # C31: share of the weights, and how many times as large
FAMILY, EXAMPLES, STEPS, TOKENS_PER_BATCH, LR, R, ALPHA = "answer", 1500, 100, 2048, 5e-3, 8, 16  # C35
ROUNDED = {"float32": (None, None), "8 bits": ("int", 8), "NF4": ("nf", 4), "int4, asymmetric": ("int, asymmetric", 4),
           "int4": ("int", 4), "FP4": ("fp4", 4), "NormalFloat of 3 bits": ("nf", 3),
           "NormalFloat of 2 bits": ("nf", 2)}  # C35c  # fmt: skip
STORIES = 200  # C35c: held-out ones
JUDGED = 2000  # C35: held-out prompts, the same for both methods
PEAKS = (("54M", "full"), ("54M", "lora"), ("54M", "qlora"), ("124M", "lora"), ("124M", "qlora"), ("302M", "full"),
         ("302M", "lora"), ("302M", "qlora"))  # C36
PEAK_SETTING = {"batch": 2, "tokens": 256}
FORMULA = {"precision": "bfloat16", "batch": 1, "tokens": 1024, "checkpointing": True, "r": 16}  # C36b
ROUGH_STEPS = 40  # M04


# -- tensors to quantise

def normal(seed, shape=(SIDE, SIDE), std=0.02):
    """Weights as a layer has them: normal, with a standard deviation of 0.02."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def with_outliers(x, seed):
    """A copy of x in which a share OUTLIERS of the weights is TIMES as large."""
    import torch

    chosen = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed + 1)) < OUTLIERS
    return torch.where(chosen, x * TIMES, x)


def errors(x, name, bits=4, block_size=BLOCK):
    """(mean absolute error, mean squared error, bits a weight) of a round trip."""
    from ftlab.tune import nf4

    seen = nf4.round_trip(x, name, bits, block_size)
    off = seen["back"] - x
    return off.abs().mean().item(), off.square().mean().item(), seen["bits"]


def measure_outliers(seed, report):
    x, by_block = with_outliers(normal(seed), seed), {}
    for block_size in (None, 4096, 1024, 256, 64):
        by_block[str(block_size)] = errors(x, "nf", block_size=block_size)[0]
    plain = {str(size): errors(normal(seed), "nf", block_size=size)[0] for size in (None, 64)}
    return {"value": by_block["64"] / by_block["None"], "by_block": by_block, "without_outliers": plain}


def measure_formats(seed, report):
    found = {name: errors(normal(seed), name) for name in ("nf", "int", "fp4", "int, asymmetric")}
    absolute, squared, _ = found["nf"]
    ratios = [absolute / found[name][0] for name in ("int", "fp4", "int, asymmetric")]
    ratios += [squared / found[name][1] for name in ("int", "fp4")]
    return {"value": max(ratios), "mean_abs": {name: one[0] for name, one in found.items()},
            "mean_squared": {name: one[1] for name, one in found.items()},
            "bits": {name: one[2] for name, one in found.items()}}


def measure_double(seed, report):
    """Bits a weight that double quantisation saves, counted in the bytes that a layer holds."""
    import torch

    from ftlab.tune.qlora import FourBitLinear

    linear = torch.nn.Linear(SIDE, SIDE, bias=False)
    with torch.no_grad():
        linear.weight.copy_(normal(seed))
    single, double = (FourBitLinear(linear, double_quant=both) for both in (False, True))
    bits = [8 * layer.bytes() / SIDE**2 for layer in (single, double)]
    off = [(layer.weight - linear.weight).abs().mean().item() for layer in (single, double)]
    return {"value": bits[0] - bits[1], "bits": bits, "mean_abs": off}


def trained_layer(model, layer=0):
    """A weight matrix of the MLP in a layer of any of the bases, (outputs, inputs), on the CPU, in rows of whole blocks."""
    from ftlab.tune import lora

    names = [name for name in lora.targets(model) if ".mlp." in name and f".{layer}." in name and "gate" not in name]
    # The first is the one that widens: up_proj, or GPT-2's c_fc.
    weight = lora.matrix(model.get_submodule(names[0])).detach().cpu()
    return weight[:, :weight.shape[1] // BLOCK * BLOCK].contiguous()


def tensors(seed):
    """{name: tensor} of several kinds, rows of whole blocks: normal, uniform, with outliers, and a trained layer."""
    import torch

    from ftlab.tune.bases import lab_base

    uniform = torch.rand(256, 512, generator=torch.Generator().manual_seed(seed)) - 0.5
    trained = trained_layer(lab_base(BASE)[0], seed % 2)
    return {"normal": normal(seed), "uniform": uniform, "outliers": with_outliers(normal(seed), seed), "trained": trained}


def measure_codes(seed, report):
    """How many of our packed codes and scales differ from bitsandbytes', over all tensors."""
    import bitsandbytes.functional as bnb

    from ftlab.tune import nf4

    different, counted, back = 0, 0, 0.0
    for x in tensors(seed).values():
        packed, state = bnb.quantize_4bit(x, blocksize=BLOCK, quant_type="nf4")
        codes, scales = nf4.quantise(x, nf4.codebook("nf4"), BLOCK)
        different += (nf4.unpack(packed.view(-1), x.numel()) != codes.view(-1)).sum().item()
        different += (scales != state.absmax).sum().item()
        counted += x.numel()
        off = nf4.dequantise(codes, scales, nf4.codebook("nf4"), BLOCK) - bnb.dequantize_4bit(packed, state)
        back = max(back, off.abs().max().item())
    return {"value": different, "codes": counted, "largest_difference_of_values": back}


# -- C35: what the model loses

def rounded_base(codebook=None, bits=4):
    """The base with what a codebook leaves of its linear weights (None: as they are), in float32."""
    from ftlab.tune import lora, nf4
    from ftlab.tune.bases import lab_base

    base = lab_base(BASE)[0]
    for name in lora.targets(base) if codebook else ():
        weight = base.get_submodule(name).weight
        weight.data = nf4.round_trip(weight.detach(), codebook, bits, BLOCK)["back"]
    return base


def base_losses(seed, count=STORIES):
    """{codebook and bits: nats per token} of the base on held-out stories, before any fine-tuning."""
    from ftlab.text.examples import Example
    from ftlab.tune import sft
    from ftlab.tune.bases import lab_tokenizer
    from ftlab.world import World

    tokenizer = lab_tokenizer(BASE)
    stories = World("rich").sample(count, f"held out {seed}", "test")
    rows = sft.make_rows([Example("", story.text, form="text") for story in stories], tokenizer, loss="all")
    return {name: sft.rows_loss(rounded_base(codebook, bits), rows, tokenizer)
            for name, (codebook, bits) in ROUNDED.items()}


def measure_base(seed, report):
    losses = base_losses(seed)
    return {"value": losses["NF4"] - losses["float32"], "losses": losses}



def task_examples(seed, count=EXAMPLES, split="train"):
    """Questions about a story: the answer is a word."""
    from ftlab.world import World, tasks

    return tasks.make(World("rich"), FAMILY, count, seed, split)


def tune(seed, method, report, steps=STEPS, callbacks=(), model=None, **config):
    """(model, tokenizer, History) of `method` on the task, from the same A for every method of a seed."""
    import torch

    from ftlab.train.loop import train
    from ftlab.tune import attach, sft
    from ftlab.tune.bases import lab_base

    base, tokenizer = lab_base(BASE)
    torch.manual_seed(seed)
    model = attach(model or base, method, r=R, lora_alpha=ALPHA, **config)
    rows = sft.make_rows(task_examples(seed), tokenizer)
    batches = sft.make_batches(rows, tokenizer, TOKENS_PER_BATCH, seed)

    def told(event):
        if event["kind"] == "step" and event["step"] % 20 == 0:
            report(f"{method}, step {event['step']} of {steps}, loss {event['loss']:.3f}")

    config = sft.plan(steps, lr=sft.rate(model, LR), optimizer="adamw", seed=seed)
    return model, tokenizer, train(model, batches, config, callbacks=[told, *callbacks])


def judge(model, tokenizer, seed, count=JUDGED):
    """The Score of greedy answers to held-out prompts, the same `count` for every method of a seed."""
    from ftlab.measure.score import instruction_score

    return instruction_score(model, tokenizer, task_examples(f"held out {seed}", count, "test"), max_new_tokens=12)


@functools.lru_cache(maxsize=4)
def both(seed, report, steps=STEPS, count=JUDGED):
    """{method: dict(score, losses, bytes)} of LoRA and QLoRA, and the bases' own scores."""
    from ftlab.tune import qlora, sft
    from ftlab.tune.bases import lab_base

    found = {}
    for method in ("lora", "qlora"):
        model, tokenizer, history = tune(seed, method, report, steps)
        report(f"{method}: {count} held-out prompts")
        rows = sft.make_rows(task_examples(f"held out {seed}", min(count, 400), "test"), tokenizer)
        found[method] = {"score": judge(model, tokenizer, seed, count), "losses": history.losses,
                         "loss": sft.rows_loss(model, rows, tokenizer),
                         "bytes": qlora.weight_bytes(model), "seconds": history.seconds}
    base, tokenizer = lab_base(BASE)
    found["base"] = {"score": judge(base, tokenizer, seed, min(count, 200)), "parameters": base.num_parameters()}
    return found


def measure_qlora(seed, report, steps=STEPS, count=JUDGED):
    found = both(seed, report, steps, count)
    one, two = (found[method]["score"] for method in ("lora", "qlora"))
    differ = sum(a != b for a, b in zip(one.answers, two.answers, strict=True))
    return {"value": one.mean - two.mean, "held_out_loss": {method: found[method]["loss"] for method in ("lora", "qlora")},
            "lora": one.mean, "qlora": two.mean, "base": found["base"]["score"].mean,
            "prompts": len(one.scores), "different_answers": differ,
            "seconds": {method: round(found[method]["seconds"], 1) for method in ("lora", "qlora")},
            "losses": {method: [round(loss, 4) for loss in found[method]["losses"][::5]] for method in ("lora", "qlora")}}


def measure_bytes(seed, report):
    from ftlab.tune import lora, qlora
    from ftlab.tune.bases import lab_base

    base = lab_base(BASE)[0]
    count = sum(base.get_submodule(name).weight.numel() for name in lora.targets(base))
    held = qlora.weight_bytes(qlora.quantise(base))
    whole = 2 * count + held["other"] / 2  # in bf16, embedding and norms included
    return {"value": held["linear"] / (2 * count), "linear": held["linear"], "linear_bf16": 2 * count,
            "other_float32": held["other"], "whole_model": (held["linear"] + held["other"] / 2) / whole}


# -- C36: memory

def measure_memory(seed, report, peaks=PEAKS):
    from ftlab.measure import cost

    found = {}
    for size, method in peaks:
        report(f"{method} on {size}")
        found[f"{method}, {size}"] = cost.compare(cost.MEASURED[size], method, seed=seed, **PEAK_SETTING)
    return {"value": max(abs(one["error"]) for one in found.values()), "peaks": found}


def measure_formula(seed, report):
    from ftlab.measure import cost

    table = {name: {method: cost.memory(shape, method, **FORMULA).peak / 2**30 for method in ("full", "lora", "qlora")}
             for name, shape in cost.SIZES.items()}
    return {"value": table["70B (Llama 3.1)"]["qlora"], "gib": table}


# -- misconceptions

def measure_bits(seed, report, steps=ROUGH_STEPS):
    """Bits of the numbers that learn: LoRA beside a base of 32 and of 8 bits, QLoRA beside one of 4."""
    import statistics

    learned, ends = {}, {}
    for name, method, bits in (("LoRA, base in 32 bits", "lora", None),
                               ("LoRA, base in 8 bits", "lora", 8), ("QLoRA, base in 4 bits", "qlora", None)):
        model, _, history = tune(seed, method, report, steps, model=rounded_base("int" if bits else None, bits))
        learned[name] = sorted({8 * p.element_size() for p in model.parameters() if p.requires_grad})
        ends[name] = statistics.fmean(history.losses[-5:])
    return {"value": max(abs(bits - 32) for found in learned.values() for bits in found), "bits": learned, "losses": ends}


def measure_cast(seed, report):
    """Errors of a cast and of quantisation, in shares of the weights' own size."""
    x = normal(seed).double() + 1e-9  # float64, with digits that float32 has not
    own = x.square().mean().sqrt().item()
    cast = (x.float().double() - x).square().mean().sqrt().item() / own
    plain = (x.round().clamp(-8, 7) - x).square().mean().sqrt().item() / own  # to 4-bit integers, without a scale
    nf = errors(x.float(), "nf")[1] ** 0.5 / own
    return {"value": nf / cast, "cast": cast, "integers_without_scale": plain, "nf4": nf}


CLAIMS = [
    Claim(
        id="C31", kind="exact", lab=LAB,
        statement="Where there are outliers (a weight in a thousand, 20 times as large), a scale for every 64 weights "
                  "leaves less than a third of the error that one scale leaves.",
        metric="mean absolute error, blocks of 64 over one scale (NF4)", at_most=1 / 3, measure=measure_outliers,
    ),
    Claim(
        id="C32", kind="exact", lab=LAB,
        statement="On normal weights in blocks of 64, NF4 has the smallest mean absolute error of four 4-bit formats, and "
                  "a smaller squared error than symmetric int4 and FP4.",
        metric="the largest of NF4's error ratios: absolute over that of int4, FP4 and asymmetric int4, squared over that "
               "of int4 and FP4", at_most=1.0, measure=measure_formats,
    ),
    Claim(
        id="C33", kind="exact", lab=LAB,
        statement="Double quantisation saves about 0.37 bits a parameter at blocks of 64.",
        metric="bits a parameter, plain scales minus double quantisation", unit="bits", at_least=0.36, at_most=0.38,
        measure=measure_double,
    ),
    Claim(
        id="C34", kind="exact", lab=LAB,
        statement="Our NF4 codes and scales are those of bitsandbytes, every one of them.",
        metric="codes and scales that differ, of some 2.3 million", at_most=0, measure=measure_codes,
    ),
    Claim(
        id="C35", kind="measured", lab=LAB,
        statement="QLoRA scores within a point of LoRA: r = 8, the same task, data, steps and rate, 2,000 held-out prompts.",
        metric="instruction score, LoRA minus QLoRA", at_most=0.01, measure=measure_qlora,
        seeds=5, version=2,
        note="Version 1 asked for a story's ending; both methods answered all of 2,000 prompts rightly in each of five "
             "runs, and nothing could be told from that.",
    ),
    Claim(
        id="C35b", kind="exact", lab=LAB,
        statement="Quantised linear weights, their scales included, take at most 0.30 of their size in bfloat16.",
        metric="bytes held over bytes in bfloat16", at_most=0.30, measure=measure_bytes, seeds=1,
    ),
    Claim(
        id="C35c", kind="report", lab=LAB,
        statement="What rounding the linear weights to NF4 costs the base before any fine-tuning, on held-out stories.",
        metric="held-out loss, NF4 minus float32", unit="nats per token", measure=measure_base,
    ),
    Claim(
        id="C36", kind="exact", lab=LAB,
        statement="The memory formula agrees within 10 % with peaks measured in fresh processes: full fine-tuning, LoRA "
                  "and QLoRA of random models of 54 to 302 million parameters.",
        metric="largest relative error of eight", at_most=0.10, measure=measure_memory, seeds=1,
    ),
    Claim(
        id="C36b", kind="report", lab=LAB,
        statement="From 1 B to 70 B by formula: the peak of QLoRA of a 70 B model in bfloat16, one row of 1,024 tokens, "
                  "checkpointing, r = 16.",
        metric="peak memory", unit="GiB", measure=measure_formula, seeds=1,
    ),
    Claim(
        id="M04", kind="exact", lab=LAB,
        statement="LoRA is not 8-bit and QLoRA not 4-bit: what learns has 32 bits in both, beside a base of 32, 8 or 4.",
        metric="largest distance of a learning number's bits from 32", unit="bits", at_most=0, measure=measure_bits,
        seeds=1, version=2,
    ),
    Claim(
        id="M07", kind="exact", lab=LAB,
        statement="Quantisation is no cast: NF4's error is at least 100,000 times that of float64 to float32, and without "
                  "a scale 4 bits would lose all.",
        metric="RMS error, NF4 over the cast to float32", unit="times", at_least=1e5, measure=measure_cast,
    ),
]
