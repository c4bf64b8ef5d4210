"""Quantisation by hand: a weight becomes a 4-bit code into a small codebook, and a block of weights shares one scale.

    scale s = max |w| over a block        code = the codebook's nearest entry to w / s        w ≈ s · codebook[code]

Codebooks: int4 (evenly spaced), FP4 (a float of 4 bits), NF4 (quantiles of the normal distribution; Dettmers et al. 2023,
QLoRA, equation 4). The codes, the packing of two in a byte and the double quantisation of the scales are those of
`bitsandbytes`, code for code. Left out: fused kernels (here a weight is unpacked whole before it is used), and formats
that choose codes with a look at the data (GPTQ, AWQ).
"""

import functools

import torch

from ftlab.errors import UsageError

BLOCK, SCALE_BLOCK = 64, 256  # weights that share a scale; scales that share a scale of their own
FP4_VALUES = (0, 0.0625, 8, 12, 4, 6, 2, 3)  # by the bits of the code: sign, two of exponent, one of mantissa


# -- codebooks: what a code stands for, in [-1, 1]

def int_codebook(bits=4):
    """Evenly spaced and symmetric: (2^bits − 1,) values k / (2^(bits−1) − 1). One of the 2^bits codes stays unused."""
    top = 2 ** (bits - 1) - 1
    return torch.arange(-top, top + 1) / top


def normal_codebook(bits=4):
    """NormalFloat: 2^bits quantiles of the normal distribution, scaled to [-1, 1], with an exact zero.

    Each half is cut into equal shares of probability: 2^(bits−1) values below zero, one more above. The outermost
    quantile stands half a step, averaged over both halves, before infinity (Dettmers et al. 2023, section 3).
    """
    half = 2 ** (bits - 1)
    outer = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2  # 0.9677083 for 4 bits
    above = torch.special.ndtri(torch.linspace(outer, 0.5, half + 1, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(outer, 0.5, half, dtype=torch.float64)[:-1])
    values = torch.cat([below, torch.zeros(1, dtype=torch.float64), above]).sort().values
    return (values / values.max()).float()


def fp4_codebook():
    """FP4 as `bitsandbytes` has it: (16,) values by their bits, so not in rising order; two of them are zero."""
    values = torch.tensor(FP4_VALUES) / max(FP4_VALUES)
    return torch.cat([values, -values])


# NF4 is a standard, so the numbers of the paper's table (appendix E) stand here; `normal_codebook` shows where they
# come from, up to the seventh digit.
NF4_VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)  # fmt: skip


@functools.cache
def codebook(name):
    """The codebook called "nf4", "fp4" or "int4", float32. Raises UsageError for another name."""
    made = {"nf4": lambda: torch.tensor(NF4_VALUES), "fp4": fp4_codebook, "int4": int_codebook}
    if name not in made:
        raise UsageError(f"no codebook is called {name!r}; choose one of {', '.join(made)}")
    return made[name]()


# -- quantise and back

def absmax(x):
    """The scale of a tensor: its largest absolute value, a scalar tensor."""
    return x.abs().max()


def in_blocks(x, block_size):
    """x, flat, as (blocks, block_size); the last block is filled up with zeros. block_size None: all in one block."""
    flat = x.reshape(-1)
    size = block_size or max(1, len(flat))
    return torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)


def nearest(values, book):
    """The code (uint8) of the entry of `book` that is nearest to each value, the lower one where two are as near."""
    order = book.argsort(stable=True)
    rising = book[order]
    between = (rising[:-1] + rising[1:]) / 2
    return order[torch.bucketize(values, between)].to(torch.uint8)


def _check_finite(scales):
    if not scales.isfinite().all():
        raise UsageError("the numbers to quantise hold NaN or infinity, for which there is no code: the weights are damaged or "
                         "diverged")


def quantise(x, book, block_size=BLOCK):
    """(codes uint8 in x's shape, scales float32 (blocks,)): blockwise absmax quantisation onto a codebook.

    Blocks run through x as it lies in memory, row after row; with block_size None the whole tensor shares one scale.
    """
    blocks = in_blocks(x.float(), block_size)  # (blocks, block_size)
    scales = blocks.abs().amax(1)  # (blocks,)
    _check_finite(scales)
    # Times the reciprocal, as `bitsandbytes` does: a quotient would differ in the last bit now and then.
    codes = nearest(blocks * (1 / scales.clamp(min=1e-38))[:, None], book)
    return codes.view(-1)[:x.numel()].view(x.shape), scales


def dequantise(codes, scales, book, block_size=BLOCK):
    """What codes and scales stand for: float32 in the shape of `codes`."""
    values = in_blocks(book[codes.int()], block_size) * scales[:, None]
    return values.view(-1)[:codes.numel()].view(codes.shape)


def quantise_affine(x, bits=4, block_size=BLOCK):
    """Asymmetric integers: (codes uint8, steps (blocks,), lows (blocks,)), code = round((x − low) / step).

    2^bits levels reach from the least to the largest value of each block, so nothing is wasted where a block is lopsided;
    the price is a second number a block, and that zero need not be among the levels.
    """
    flat, size = x.float().reshape(-1), block_size or max(1, x.numel())
    blocks = in_blocks(flat, block_size)
    if len(flat) % size:
        blocks.view(-1)[len(flat):] = flat[-1]  # so that what fills up the last block does not widen its range
    lows, highs = blocks.amin(1), blocks.amax(1)
    _check_finite(highs - lows)
    steps = (highs - lows) / (2**bits - 1)
    codes = ((blocks - lows[:, None]) / steps.clamp(min=1e-38)[:, None]).round().to(torch.uint8)
    return codes.view(-1)[:x.numel()].view(x.shape), steps, lows


def dequantise_affine(codes, steps, lows, block_size=BLOCK):
    """low + code · step, float32 in the shape of `codes`."""
    values = in_blocks(codes.float(), block_size) * steps[:, None] + lows[:, None]
    return values.view(-1)[:codes.numel()].view(codes.shape)


def round_trip(x, name="nf", bits=4, block_size=BLOCK):
    """What quantisation makes of x: dict(back, scaled, levels, bits).

    name: "int", "int, asymmetric", "nf" (NormalFloat) or "fp4" (4 bits, whatever `bits` says). back: x as it comes back;
    scaled: x over the scales of its blocks, in [-1, 1]; levels: the codebook (of asymmetric integers, which have none,
    the levels of the first block over its largest value); bits: per weight, with plain float32 scales.
    """
    size, bits = block_size or x.numel(), 4 if name == "fp4" else bits
    scaled = in_blocks(x.float(), size)
    scaled = (scaled / scaled.abs().amax(1, keepdim=True).clamp(min=1e-38)).view(-1)[:x.numel()].view(x.shape)
    if name == "int, asymmetric":
        codes, steps, lows = quantise_affine(x, bits, size)
        back = dequantise_affine(codes, steps, lows, size)
        levels = lows[0] + steps[0] * torch.arange(2**bits, device=x.device)
        levels = levels / in_blocks(x, size)[0].abs().max().clamp(min=1e-38)
        return {"back": back, "scaled": scaled, "levels": levels, "bits": bits + 64 / size}
    books = {"int": int_codebook, "nf": lambda bits: codebook("nf4") if bits == 4 else normal_codebook(bits),
             "fp4": lambda bits: codebook("fp4")}  # fmt: skip
    if name not in books:
        raise UsageError(f"no codebook is called {name!r}; choose one of {', '.join([*books, 'int, asymmetric'])}")
    book = books[name](bits).to(x.device)
    back = dequantise(*quantise(x, book, size), book, size)
    return {"back": back, "scaled": scaled, "levels": book, "bits": bits + 32 / size}


# -- two codes a byte

def pack(codes):
    """(ceil(n / 2),) bytes of n codes below 16: the first of each pair in the upper half of its byte."""
    flat = in_blocks(codes, 2)
    return flat[:, 0] << 4 | flat[:, 1]


def unpack(packed, count):
    """(count,) codes, uint8, of packed bytes."""
    return torch.stack([packed >> 4, packed & 15], dim=1).view(-1)[:count]


# -- double quantisation: the scales are numbers, too

@functools.cache
def dynamic_codebook():
    """(256,) values for scales in 8 bits: the fewer leading zeros, the more bits of fraction (Dettmers 2016, section 3.2).

    Seven decades; the one from 10^(−7+i) to 10^(−6+i) is cut into 2^i steps on either side of zero.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = 10 ** (i - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(values))


def double_quantise(scales):
    """(codes uint8 (blocks,), scales of the scales (blocks / 256,), offset): float32 scales in 8 bits each.

    Scales are all positive, so their mean is taken off first (Dettmers et al. 2023, section 3).
    """
    offset = scales.mean()
    blocks = in_blocks(scales - offset, SCALE_BLOCK)
    outer = blocks.abs().amax(1)
    codes = nearest(blocks / outer.clamp(min=1e-38)[:, None], dynamic_codebook().to(scales.device))
    return codes.view(-1)[:len(scales)], outer, offset


def undo_double(codes, outer, offset):
    """The scales that `double_quantise` stored, float32 (blocks,)."""
    return dequantise(codes, outer, dynamic_codebook().to(codes.device), SCALE_BLOCK) + offset


def bits_per_parameter(bits=4, block_size=BLOCK, double=True):
    """Bits that a weight takes with its share of the scales: 4 + 32/64 = 4.5, or 4 + 8/64 + 32/(64 · 256) = 4.127."""
    return bits + (8 / block_size + 32 / (block_size * SCALE_BLOCK) if double else 32 / block_size)
