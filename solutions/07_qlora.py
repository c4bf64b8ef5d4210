# %% [markdown]
# # 07 · QLoRA
#
# **The question.** A model of 70 billion weights takes 140 GB in bfloat16, before anything has been learned. LoRA (Lab 06)
# makes what *learns* small; the frozen base is as large as ever. Nobody asks for its gradients, so need it be exact? How
# few bits may a frozen weight have, and what does the model lose?
#
# You will write the quantiser of QLoRA (Dettmers et al. 2023) from its parts: a scale, blocks, a codebook made for normal
# numbers, two codes in a byte. Then the forward pass, and a prediction of memory that you check in a fresh process.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import random
import statistics

import torch

import ftlab
from ftlab import profile
from ftlab.course import studies
from ftlab.measure import cost
from ftlab.show import plots, widgets
from ftlab.tune import lora, nf4, qlora
from ftlab.tune.bases import lab_base

torch.manual_seed(0)
lab = ftlab.lab("07_qlora")
measured = studies.load("07_qlora")

# %% [markdown]
# ## Formats
#
# A weight is bits, and a format says how to read them. **float32**: a sign, 8 bits of exponent, 23 of fraction.
# **bfloat16**: the same exponent, 7 of fraction. **int8**: whole numbers from −128 to 127. With 4 bits there are sixteen
# words, whatever one calls them. So the question is no longer how to write a number down, but *which sixteen numbers* one
# wants, and at what scale.
#
# ## Play: a quantiser
#
# 8,192 weights of a trained layer. Left: the weights over the scale of their block, and the levels (red) to which they
# are rounded. Right: the errors. Nothing is rounded until you drag.
#
# - 4 bits, one scale for the whole tensor, then smaller and smaller blocks. What happens to the left histogram, what to
#   the price in bits?
# - `int` against `nf` at 4 bits: where do the levels of each stand closest, and where do the weights?
# - Put in an outlier: `with outliers`. Which block sizes mind?
# - `int, asymmetric` spends a second number on each block. When is that worth it?

# %% ftlab="play"
base, tokenizer = lab_base(measured.BASE)
WEIGHTS = measured.trained_layer(base)[:64, :128].clone()
SPOILT = measured.with_outliers(WEIGHTS, 0)


def look(codebook, bits, block_size):
    """What the quantiser shows of one setting."""
    name, _, spoilt = codebook.partition(", with outliers")
    x = SPOILT if codebook.endswith("with outliers") else WEIGHTS
    seen = nf4.round_trip(x, name, bits, block_size)
    errors = seen["back"] - x
    return {"scaled": seen["scaled"].flatten().tolist(), "levels": seen["levels"].tolist(),
            "errors": errors.flatten().tolist(), "bits": seen["bits"], "mean_abs": errors.abs().mean().item(),
            "rms": errors.square().mean().sqrt().item(),
            "share": (errors.square().mean() / x.square().mean()).sqrt().item(),
            "note": "FP4 has 4 bits; the slider does not change it." if name == "fp4" and bits != 4 else ""}


widgets.quantiser(look, ["nf", "int", "int, asymmetric", "fp4", "nf, with outliers", "int, with outliers"])

# %% [markdown]
# ## Build
#
# ### 1. Absmax
#
# The oldest way: find the largest absolute value, call it the **scale** $s$, and write every weight as a share of it.
# Four bits with a sign reach from −7 to 7:
#
# $$s = \max_i |w_i|, \qquad c_i = \mathrm{round}\!\left(7\, \frac{w_i}{s}\right), \qquad w_i \approx \frac{s}{7}\, c_i .$$


# %% ftlab="exercise" id="absmax"
def quantise_int4(x):
    """(codes, scale) of a tensor x: codes of type int (torch.int32) in x's shape, from −7 to 7; scale, a scalar tensor."""
    ### BEGIN SOLUTION
    scale = x.abs().max()
    return (x / scale * 7).round().int(), scale
    ### END SOLUTION


# %% ftlab="check" id="absmax"
lab.check("absmax", quantise_int4)

# %% ftlab="probe" id="absmax"
generator = torch.Generator().manual_seed(lab.probe_seed("absmax"))
probe_x = torch.randn(4, 9, generator=generator)
probe_x[0, 0] = -probe_x.abs().max() - 0.5
lab.probe("absmax", [part.tolist() for part in quantise_int4(probe_x)])

# %% [markdown]
# ### 2. Blockwise, onto a codebook
#
# One outlier, and the scale is so large that all other weights share three or four levels. The remedy is crude: let it
# spoil its neighbours only. Every `block_size` consecutive weights get a scale of their own.
#
# And let the levels be anything. A **codebook** $q$ is a rising list of numbers in $[-1, 1]$; a **code** is a place in
# it, counted from 0, so it has no sign:
#
# $$c_i = \arg\min_j \left| \frac{w_i}{s_{b(i)}} - q_j \right|, \qquad w_i \approx s_{b(i)}\, q_{c_i} .$$
#
# `torch.bucketize(values, borders)` says between which borders each value lies.


# %% ftlab="exercise" id="blockwise"
def quantise(x, book, block_size):
    """(codes, scales): codes (torch.int64) in x's shape, places in `book`; scales (number of blocks,).

    x: its number of elements is a multiple of block_size, and blocks run through it row after row (no block is all
    zero). book: a rising tensor of levels in [-1, 1]. The nearest level is taken.
    """
    ### BEGIN SOLUTION
    blocks = x.reshape(-1, block_size)  # (blocks, block_size)
    scales = blocks.abs().amax(1)
    borders = (book[:-1] + book[1:]) / 2
    codes = torch.bucketize(blocks / scales[:, None], borders)
    return codes.view(x.shape), scales
    ### END SOLUTION


# %% ftlab="check" id="blockwise"
lab.check("blockwise", quantise)

# %% ftlab="probe" id="blockwise"
generator = torch.Generator().manual_seed(lab.probe_seed("blockwise"))
probe_x = torch.randn(6, 8, generator=generator)
probe_x[1, 2] = -8.0
probe_book = torch.tensor([-1.0, -0.6, -0.25, 0.0, 0.2, 0.5, 0.8, 1.0])
lab.probe("blockwise", [part.tolist() for part in quantise(probe_x, probe_book, 12)])

# %% [markdown]
# ### 3. The NF4 codebook
#
# Which sixteen numbers? Trained weights are about normal: many near zero, few far out. Evenly spaced levels spend half of
# their words where hardly any weight is. **NormalFloat** takes *quantiles* of the normal distribution, so that every word
# is used about equally often, and scales them to end at 1.
#
# Two details make it the format of the paper. Zero must be exact (padding, and many a weight, is zero), so the halves are
# made apart: with $h = 2^{bits - 1}$, $h$ values above zero and $h - 1$ below. And the outermost quantile cannot be that
# of probability 1, which is infinite; it is taken at
#
# $$p = 1 - \frac12 \left( \frac{1}{4h} + \frac{1}{4h - 2} \right), \qquad
# \text{above: } \Phi^{-1} \text{ of } h + 1 \text{ even steps from } p \text{ to } \tfrac12, \text{ without the last};$$
#
# below: the same with $h$ steps and a minus. $\Phi^{-1}$ is `torch.special.ndtri`.


# %% ftlab="exercise" id="normal_float"
def normal_float(bits):
    """The codebook of NormalFloat: a rising float32 tensor (2^bits,) with an exact 0, from −1 to 1."""
    ### BEGIN SOLUTION
    half = 2 ** (bits - 1)
    outer = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    above = torch.special.ndtri(torch.linspace(outer, 0.5, half + 1)[:-1])
    below = -torch.special.ndtri(torch.linspace(outer, 0.5, half)[:-1])
    values = torch.cat([below, torch.zeros(1), above]).sort().values
    return values / values.max()
    ### END SOLUTION


# %% ftlab="check" id="normal_float"
lab.check("normal_float", normal_float)

# %% ftlab="probe" id="normal_float"
random.seed(lab.probe_seed("normal_float"))
probe_weights = [random.uniform(0.5, 1.5) for _ in range(16)]  # the sums change with the seed, the codebooks do not
lab.probe("normal_float", [sum(w * v for w, v in zip(probe_weights, normal_float(bits).tolist())) for bits in (2, 3, 4)])

# %%
plots.bars({f"code {i:2d}": value for i, value in enumerate(normal_float(4).tolist())}, "level", title="your NF4")

# %% [markdown]
# ### 4. Two codes in a byte
#
# A tensor's smallest element is a byte, and a code needs half of one. The first of two neighbours goes into the upper
# four bits, the second into the lower.


# %% ftlab="exercise" id="pack"
def pack(codes):
    """(n / 2,) bytes (torch.uint8) of n codes (torch.int64, below 16; n even): the first of a pair in the upper half."""
    ### BEGIN SOLUTION
    pairs = codes.reshape(-1, 2)
    return (pairs[:, 0] * 16 + pairs[:, 1]).to(torch.uint8)
    ### END SOLUTION


def unpack(packed):
    """(2 m,) codes (torch.int64) of m bytes."""
    ### BEGIN SOLUTION
    return torch.stack([packed >> 4, packed & 15], dim=1).view(-1).long()
    ### END SOLUTION


# %% ftlab="check" id="pack"
lab.check("pack", pack, unpack)

# %% ftlab="probe" id="pack"
generator = torch.Generator().manual_seed(lab.probe_seed("pack"))
probe_codes = torch.randint(0, 16, (20,), generator=generator)
probe_bytes = torch.randint(0, 256, (10,), generator=generator).to(torch.uint8)
lab.probe("pack", {"packed": pack(probe_codes).tolist(), "unpacked": unpack(probe_bytes).tolist()})

# %% [markdown]
# ### 5. The forward pass
#
# The frozen weight is made from its codes when it is needed, used, and forgotten; LoRA's part is as in Lab 06, in full
# precision (equation 5 of the paper):
#
# $$y = x\, W^\top + \frac{\alpha}{r}\, x A^\top B^\top, \qquad W = \text{what codes and scales stand for.}$$


# %% ftlab="exercise" id="qlora_forward"
def qlora_forward(x, codes, scales, book, A, B, alpha):
    """y (T, n) of x (T, k): codes (n, k) into `book`, a scale for each len(codes.view(-1)) / len(scales) weights in a row;
    A (r, k), B (n, r)."""
    ### BEGIN SOLUTION
    weight = (book[codes].view(len(scales), -1) * scales[:, None]).view(codes.shape)  # (n, k)
    return x @ weight.T + alpha / len(A) * (x @ A.T @ B.T)
    ### END SOLUTION


# %% ftlab="check" id="qlora_forward"
lab.check("qlora_forward", qlora_forward)

# %% ftlab="probe" id="qlora_forward"
generator = torch.Generator().manual_seed(lab.probe_seed("qlora_forward"))
probe_codes = torch.randint(0, 7, (6, 8), generator=generator)
probe_book = torch.tensor([-1.0, -0.6, -0.25, 0.0, 0.2, 0.5, 1.0])
probe_parts = [torch.randn(*shape, generator=generator) for shape in ((2, 8), (3, 8), (6, 3))]
lab.probe("qlora_forward", qlora_forward(probe_parts[0], probe_codes, torch.rand(12, generator=generator) + 0.5,
                                         probe_book, probe_parts[1], probe_parts[2], 5.0))

# %% [markdown]
# ### 6. Predict the memory
#
# What a training step needs at its peak, in float32 with AdamW. A weight that learns needs itself, a gradient, and two
# running means; a frozen one needs itself alone:
#
# | | full | LoRA | QLoRA |
# |---|---|---|---|
# | linear weights | 4 bytes each | 4 | $(4 + \frac{8}{64} + \frac{32}{64 \cdot 256}) / 8$ |
# | other weights (embedding, norms) | 4 | 4 | 4 |
# | A and B | none | 4 | 4 |
# | AdamW | 8 for each number that learns | 8 | 8 |
# | passing | the larger of activations, and 4 for each that learns | the same | the same |
#
# The odd number is a code of 4 bits, a scale of 8 bits for every 64, and a scale of these scales, 32 bits, for every 256
# of them: **double quantisation**. The last row: at the end of the forward pass all activations are there and no
# gradient; at the end of the backward pass it is the other way round.


# %% ftlab="exercise" id="peak_bytes"
def peak_bytes(method, linear, other, learned, activations):
    """Bytes at the peak, a float. method: "full", "lora" or "qlora"; linear, other: how many weights of the base are in
    linear layers, and how many are not; learned: how many numbers learn; activations: bytes."""
    ### BEGIN SOLUTION
    per_weight = (4 + 8 / 64 + 32 / (64 * 256)) / 8 if method == "qlora" else 4
    weights = per_weight * linear + 4 * other + (0 if method == "full" else 4 * learned)
    return float(weights + 8 * learned + max(activations, 4 * learned))
    ### END SOLUTION


# %% ftlab="check" id="peak_bytes"
lab.check("peak_bytes", peak_bytes)

# %% ftlab="probe" id="peak_bytes"
random.seed(lab.probe_seed("peak_bytes"))
probe_sizes = [random.randint(1000, 9000) for _ in range(3)]
lab.probe("peak_bytes", [peak_bytes(method, 64 * size, 10 * size, 74 * size if method == "full" else size, activations)
                         for method in ("full", "lora", "qlora") for size, activations in zip(probe_sizes, (9e6, 10.0, 5e4))])

# %% [markdown]
# ## The library does it too, and agrees
#
# `bitsandbytes` is what everybody uses. Your quantiser, your codebook, your packing against its bytes:

# %%
import bitsandbytes.functional as bnb

x = measured.normal(0, (256, 512))
packed, state = bnb.quantize_4bit(x, blocksize=64, quant_type="nf4")
codes, scales = quantise(x, normal_float(4), 64)
print(f"codebook: largest difference {(normal_float(4) - bnb.get_4bit_type('nf4', device='cpu')).abs().max():.0e}")
print(f"scales that differ: {(scales != state.absmax).sum()} of {len(scales)}")
print(f"bytes that differ: {(pack(codes) != packed.view(-1)).sum()} of {packed.numel()}")
mine = (normal_float(4)[codes].view(-1, 64) * scales[:, None]).view(x.shape)
print(f"values: largest difference {(mine - bnb.dequantize_4bit(packed, state)).abs().max():.0e}")

# %% [markdown]
# Should a byte in a hundred thousand differ, look at your codebook: it is right to seven digits, the library's table has
# a few more, and a weight may lie just on a border. `ftlab.tune.nf4` uses the paper's table; there, none differs:

# %% ftlab="result" claim="C34"
lab.claim("C34", measured.measure_codes(0, lambda text: None)["value"])

# %% [markdown]
# One thing to know before using the library on a CPU: its kernel there takes each *row* to be made of whole blocks. Where
# rows are not a multiple of 64 long (our small bases have such layers), it reads the right bytes with the wrong scales:

# %%
odd = measured.normal(1, (96, 160))
packed, state = bnb.quantize_4bit(odd, blocksize=64, quant_type="nf4")
theirs = bnb.dequantize_4bit(packed, state)
ours = nf4.dequantise(*nf4.quantise(odd, nf4.codebook("nf4")), nf4.codebook("nf4"))
print(f"rows of 160: mean error of ours {(ours - odd).abs().mean():.5f}, of theirs on this machine "
      f"{(theirs - odd).abs().mean():.5f}")

# %% [markdown]
# And the layer: yours, `ftlab.tune.qlora`'s, and `bitsandbytes.nn.Linear4bit` under the same A and B.

# %%
linear = torch.nn.Linear(128, 192, bias=False)
layers = {}
for name, library in (("ftlab", False), ("bitsandbytes", True)):
    make = qlora.library_layer if library else qlora.FourBitLinear
    layers[name] = lora.LoRALinear(make(linear, "nf4", 64, False), r=4, lora_alpha=8)
A, B = torch.randn(4, 128) * 0.1, torch.randn(192, 4) * 0.1
for layer in layers.values():
    layer.lora_A.data.copy_(A)
    layer.lora_B.data.copy_(B)
x = torch.randn(5, 128)
codes, scales = quantise(linear.weight.detach(), normal_float(4), 64)
mine = qlora_forward(x, codes, scales, normal_float(4), A, B, 8.0)
for name, layer in layers.items():
    print(f"yours against {name}: largest difference {(mine - layer(x)).abs().max():.0e}")

# %% [markdown]
# ## Predict, then run
#
# ### Which format?
#
# Sixteen levels, three ways, on normal weights and on weights with outliers.

# %% ftlab="play"
lab.predict("outliers", "One weight in a thousand is made 20 times as large. By what factor does the mean error of NF4 "
            "grow with one scale for the whole matrix?", low=1, high=20, unit="times")

# %% ftlab="experiment"
x = measured.normal(0)
spoilt = measured.with_outliers(x, 0)
rows = {}
for name in ("nf", "int", "int, asymmetric", "fp4"):
    for block_size in (None, 64):
        rows[f"{name}, {'one scale' if block_size is None else 'blocks of 64'}"] = [
            measured.errors(one, name, block_size=block_size)[0] / x.abs().mean().item() for one in (x, spoilt)]
for name, (plain, with_outliers) in rows.items():
    print(f"{name:30} mean error {100 * plain:5.1f} % of a weight, with outliers {100 * with_outliers:6.1f} %")
one_scale = [measured.errors(one, "nf", block_size=None)[0] for one in (x, spoilt)]
plots.prediction_vs_result(lab.prediction("outliers"), one_scale[1] / one_scale[0],
                           label="error with outliers over error without", unit="times")

# %% ftlab="result" claim="C31"
lab.claim("C31", measured.measure_outliers(0, lambda text: None)["value"])

# %% ftlab="result" claim="C32"
formats = measured.measure_formats(0, lambda text: None)
lab.claim("C32", formats["value"], mean_abs=formats["mean_abs"], mean_squared=formats["mean_squared"])

# %% [markdown]
# **What to look at:** with blocks of 64, the *squared* error of asymmetric int4. NF4 is made so that all words are used
# equally often, which is good for the mean error; it is not the best in every measure, and asymmetric int4 spends twice
# as many bits on scales.

# %% ftlab="experiment"
plots.bars({name: value for name, value in formats["mean_squared"].items()}, "mean squared error",
           title="normal weights, blocks of 64")

# %% [markdown]
# ### Double quantisation
#
# A float32 scale for every 64 weights costs half a bit a weight. Scales are numbers, too: take their mean off, and write
# what is left in 8 bits, with a scale for every 256 of them.

# %% ftlab="result" claim="C33"
double = measured.measure_double(0, lambda text: None)
print(f"bits a weight: {double['bits'][0]:.3f} with plain scales, {double['bits'][1]:.3f} with double quantisation; mean "
      f"error {double['mean_abs'][0]:.6f} and {double['mean_abs'][1]:.6f}")
lab.claim("C33", double["value"])

# %% [markdown]
# ### Does the model mind?
#
# First the base alone, before any fine-tuning: its loss on held-out stories with its linear weights rounded. **What to
# look at:** where the loss begins to rise, and which of the errors above orders the 4-bit formats as the loss does: the mean
# error or the squared one?

# %% ftlab="result" claim="C35c"
losses = measured.base_losses(0)
plots.bars({name: value - losses["float32"] for name, value in losses.items() if name != "float32"},
           "loss above that of float32 (nats per token)", title=f"the base, not fine-tuned ({losses['float32']:.3f} as it is)").show()
lab.claim("C35c", losses["NF4"] - losses["float32"])

# %% [markdown]
# Then the base is asked about a story (who, what, where?) and fine-tuned to answer: by LoRA beside the float32 base, and
# by QLoRA beside the same base in 4 bits. Same data, same steps, same rate, the same A at the start.

# %% ftlab="play"
lab.predict("loss", "How many points (of 100) does QLoRA lose against LoRA?", low=0, high=20, unit="points")

# %% ftlab="experiment"
STEPS, ASKED = profile.steps(measured.STEPS, 3), profile.steps(300, 6)
runs = {}
for method in ("lora", "qlora"):
    model, tokenizer, history = measured.tune(0, method, lambda text: None, STEPS,
                                              callbacks=[widgets.LivePlot(title=method)])
    runs[method] = (measured.judge(model, tokenizer, 0, ASKED), history)
    print(f"{method}: score {runs[method][0].mean:.3f} on {ASKED} held-out prompts; {history.seconds:.0f} s of training")
plots.loss_curve({name: history for name, (_, history) in runs.items()}, title="the same data, the same steps")

# %% ftlab="experiment"
points = 100 * (runs["lora"][0].mean - runs["qlora"][0].mean)
plots.prediction_vs_result(lab.prediction("loss"), points, label="LoRA minus QLoRA, this run", unit="points")

# %% [markdown]
# On a few hundred prompts a difference of a point is noise; the study asks 2,000 of them, the same for both methods, and
# keeps the held-out *loss* of both besides: in each of its five runs that is a little higher for QLoRA, where the scores
# show nothing. (Its first version asked how a story ends. Both methods answered all 2,000
# rightly, so it could not have told them apart.)

# %% ftlab="result" claim="C35"
lab.claim("C35", points / 100)

# %% ftlab="result" claim="C35b"
held = measured.measure_bytes(0, lambda text: None)
print(f"linear weights: {held['linear']:,} bytes against {held['linear_bf16']:,} in bfloat16. The whole model, embedding "
      f"and norms left in bfloat16: {100 * held['whole_model']:.0f} % of what it was.")
lab.claim("C35b", held["value"])

# %% [markdown]
# ### Memory: predict, then measure
#
# A random model of 54 million parameters, LoRA with r = 8, 2 rows of 256 tokens. The activations are counted for you, the
# rest is your formula. The measurement starts a fresh Python process, takes two steps there and reads the highest
# resident memory.

# %% ftlab="experiment"
shape = cost.MEASURED["54M"]
setting, live = {"batch": 2, "tokens": 256}, {}
for method in profile.steps(("full", "lora", "qlora"), ("lora",)):
    counted = cost.memory(shape, method, **setting)
    yours = peak_bytes(method, shape.linear, shape.other, counted.trainable, counted.activations + counted.logits)
    peak = cost.measure_peak(shape, method, **setting)
    live[method] = counted.peak / peak - 1
    print(f"{method:5} yours {cost.gib(yours):>9}, the package's {cost.gib(counted.peak):>9}, measured {cost.gib(peak):>9}")

# %% [markdown]
# **What to look at:** in full fine-tuning nearly all is weights, gradients and AdamW's numbers. LoRA takes the gradients
# and AdamW's numbers away, and the activations stand out. QLoRA takes the weights away, and *only* the activations are
# left. (Small things, such as the weight that QLoRA makes anew for each layer, are in the package's formula and not in
# yours.)

# %% ftlab="result" claim="C36"
lab.claim("C36", max(map(abs, live.values())), errors=live)

# %% [markdown]
# Now for models that do not fit here. The formula, for any size, method, precision and optimizer. *Checkpointing* keeps
# only each layer's input and computes the rest again on the way back; a *paged* optimizer keeps its numbers in the CPU's
# memory and moves them page by page when they are due.
#
# - What is the largest model that can be fully fine-tuned on a card of 24 GB? With LoRA? With QLoRA?
# - QLoRA, 8 B, long rows: what is in the way now, and which of the controls helps?

# %% ftlab="play"
def peaks(size, precision, optimizer, batch, tokens, r, checkpointing):
    """The parts of the peak of three methods."""
    return {method: cost.memory(cost.SIZES[size], method, precision, optimizer, batch, tokens, checkpointing, r).parts()
            for method in ("full", "lora", "qlora")}


widgets.memory_explorer(
    peaks, {"size": list(cost.SIZES), "precision": list(cost.PRECISIONS), "optimizer": list(cost.OPTIMIZERS),
            "batch": [1, 2, 4, 8, 16], "tokens": [256, 512, 1024, 2048, 4096, 8192], "r": [1, 4, 8, 16, 64, 256],
            "checkpointing": [False, True]},
    {"size": "8B (Llama 3.1)", "precision": "bfloat16", "optimizer": "adamw", "batch": 1, "tokens": 1024, "r": 16,
     "checkpointing": False})

# %% ftlab="result" claim="C36b"
formula = measured.measure_formula(0, lambda text: None)
for name, by_method in formula["gib"].items():
    print(f"{name:16}", ", ".join(f"{method} {value:7.1f} GiB" for method, value in by_method.items()))
lab.claim("C36b", formula["value"])

# %% [markdown]
# ## What we measured
#
# The committed study of LoRA and QLoRA, seed by seed.

# %% ftlab="experiment"
for entry in lab.study("C35"):
    data = entry["data"]
    print(f"seed {entry['seed']}: LoRA {data['lora']:.3f}, QLoRA {data['qlora']:.3f}, the base itself {data['base']:.3f}; "
          f"{data['different_answers']} of {data['prompts']:,} answers differ; held-out loss {data['held_out_loss']['lora']:.4f} "
          f"and {data['held_out_loss']['qlora']:.4f}")
for entry in lab.study("C36"):
    for name, one in entry["data"]["peaks"].items():
        print(f"{name:12} measured {cost.gib(one['measured']):>9}, formula {cost.gib(one['predicted']):>9} "
              f"({100 * one['error']:+.0f} %)")

# %% ftlab="play"
def another_seed(report):
    result = measured.measure_qlora(7, report, STEPS, ASKED)
    return f"LoRA {result['lora']:.3f}, QLoRA {result['qlora']:.3f} on {ASKED} prompts"


widgets.run_live_button("Run both with another seed", another_seed, note="about a minute")

# %% [markdown]
# ## What people get wrong
#
# > **"LoRA is 8-bit, QLoRA is 4-bit."**
#
# LoRA says nothing of the base: it may have 32 bits, 16 or 8. And in QLoRA nothing that learns has 4 bits: gradients are
# far too small to move a weight from one of sixteen levels to the next. Three short runs; look at the bits of what learns.

# %% ftlab="result" claim="M04"
rough = measured.measure_bits(0, lambda text: None, profile.steps(measured.ROUGH_STEPS, 2))
for name, bits in rough["bits"].items():
    print(f"{name}: what learns has {bits} bits; training loss at the end {rough['losses'][name]:.3f}")
lab.claim("M04", rough["value"])

# %% [markdown]
# > **"Quantisation is float64 to float32."**
#
# A cast keeps the idea of the format and drops digits nobody misses. Quantisation gives the format up: sixteen words, and
# what they mean is in a codebook and a scale. Without a scale the same 4 bits lose everything, since every weight of 0.02
# rounds to 0.

# %% ftlab="result" claim="M07"
casts = measured.measure_cast(0, lambda text: None)
print(f"error in shares of the weights' size: cast to float32 {casts['cast']:.0e}, NF4 {casts['nf4']:.3f}, 4-bit integers "
      f"without a scale {casts['integers_without_scale']:.3f}")
lab.claim("M07", casts["value"])

# %% [markdown]
# ## Go further
#
# **A model of your own.** `ftlab tune qlora --base NAME --data FILE --out FOLDER` takes any causal model of the Hub or of a
# folder, ours included; what is written is a LoRA in PEFT's format, and `PeftModel.from_pretrained` loads it. Its base can
# be had in any precision.
#
# **Merging.** A LoRA that was learned beside rounded weights fits the *rounded* weights best. `qlora.unquantise(model)`
# makes numbers of the codes; after that `lora.merge` works as in Lab 06. Try merging into the unrounded base instead, and
# ask both.

# %% ftlab="play"
def merge_both_ways(report):
    model, tokenizer, _ = measured.tune(0, "qlora", report, STEPS)
    beside = measured.judge(model, tokenizer, 0, ASKED).mean
    state, config = lora.adapter_state(model), lora.adapter_config(model)
    exact = lora.merge(lora.load_adapter_state(lab_base(measured.BASE)[0], state, config))
    onto_exact = measured.judge(lora.detach_lora(exact), tokenizer, 0, ASKED).mean
    rounded = lora.detach_lora(lora.merge(qlora.unquantise(model)))
    onto_rounded = measured.judge(rounded, tokenizer, 0, ASKED).mean
    return f"beside the 4-bit base {beside:.3f}, merged into what it stands for {onto_rounded:.3f}, into the exact base " \
           f"{onto_exact:.3f}"


widgets.run_live_button("Merge both ways", merge_both_ways, note="about a minute")

# %% [markdown]
# **Discuss.**
#
# 1. Blocks of 64 cost half a bit a weight, blocks of 16 two bits. With a budget of 5 bits, would you rather have smaller
#    blocks or more levels? Ask the quantiser.
# 2. The embedding stays in 16 or 32 bits. In which models is that most of what is left, and what would go wrong if it
#    were quantised, too?
# 3. QLoRA's step is slower than LoRA's, since weights are made anew twice. On which machine is it nevertheless faster?
#
# **Read.**
#
# - Dettmers, Pagnoni, Holtzman, Zettlemoyer (2023), *QLoRA: Efficient Finetuning of Quantized LLMs*: section 3 is this lab.
# - Dettmers, Lewis, Shleifer, Zettlemoyer (2022), *8-bit Optimizers via Block-wise Quantization*: blocks, and the dynamic
#   format of the scales.
# - Dettmers and Zettlemoyer (2023), *The case for 4-bit precision: k-bit Inference Scaling Laws*.
# - Yoshida (2023), *NF4 Isn't Information Theoretically Optimal (and that's Good)*: what blocks do to the argument of
#   quantiles.
# - Frantar et al. (2023), *GPTQ*; Lin et al. (2024), *AWQ*: choosing codes with a look at the data.
# - Rajbhandari et al. (2020), *ZeRO*, section 3: where the memory goes.

# %%
lab.progress()
