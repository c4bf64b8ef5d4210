"""Exercises of lab 07_qlora: texts, hints, mistakes and what each check knows."""

import functools

from ftlab.teach import Exercise, against

# -- absmax


def quantise_int4(x):
    scale = x.abs().max()
    return (x / scale * 7).round().int(), scale


def _int4_unsigned(x):
    scale = x.abs().max()
    return ((x / scale + 1) / 2 * 15).round().int(), scale


def _int4_largest(x):
    scale = x.max()
    return (x / scale * 7).round().int(), scale


def _int4_truncated(x):
    scale = x.abs().max()
    return (x / scale * 7).int(), scale


def _int4_eight(x):
    scale = x.abs().max()
    return (x / scale * 8).round().int(), scale


def int4_cases():
    import torch

    return [(torch.tensor([0.5, -1.0, 0.25]),), (torch.tensor([[0.2, -0.6], [-3.0, 1.3]]),),
            (torch.linspace(-0.7, 1.9, 24).view(4, 6),)]


# -- blockwise, onto a codebook

def quantise(x, book, block_size):
    import torch

    blocks = x.reshape(-1, block_size)
    scales = blocks.abs().amax(1)
    middles = (book[:-1] + book[1:]) / 2
    codes = torch.bucketize(blocks / scales[:, None], middles)
    return codes.view(x.shape), scales


def _per_tensor(x, book, block_size):
    codes, scales = quantise(x, book, x.numel())
    return codes, scales.repeat(x.numel() // block_size)


def _down_columns(x, book, block_size):
    codes, scales = quantise(x.T.contiguous(), book, block_size)
    return codes.T.contiguous(), scales


def _signed_scale(x, book, block_size):
    import torch

    blocks = x.reshape(-1, block_size)
    scales = blocks.amax(1)
    codes = torch.bucketize(blocks / scales[:, None], (book[:-1] + book[1:]) / 2)
    return codes.view(x.shape), scales


def _not_the_nearest(x, book, block_size):
    import torch

    blocks = x.reshape(-1, block_size)
    scales = blocks.abs().amax(1)
    return torch.bucketize(blocks / scales[:, None], book).clamp(max=len(book) - 1).view(x.shape), scales


def block_cases():
    import torch

    generator = torch.Generator().manual_seed(1)
    book = torch.tensor([-1.0, -0.5, -0.2, 0.0, 0.3, 0.6, 1.0])
    outlier = torch.randn(6, 8, generator=generator)
    outlier[2, 3] = -9.0
    return [(torch.tensor([[0.1, 0.32, -0.2, 0.6], [-1.2, -2.0, 1.1, 0.3]]), book, 4),
            (torch.randn(4, 6, generator=generator), book, 8), (outlier, book, 16)]


# -- NormalFloat

def normal_float(bits):
    import torch

    half = 2 ** (bits - 1)
    outer = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    above = torch.special.ndtri(torch.linspace(outer, 0.5, half + 1)[:-1])
    below = -torch.special.ndtri(torch.linspace(outer, 0.5, half)[:-1])
    values = torch.cat([below, torch.zeros(1), above]).sort().values
    return values / values.max()


def _no_zero(bits):
    import torch

    half = 2 ** (bits - 1)
    outer = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    values = torch.special.ndtri(torch.linspace(1 - outer, outer, 2 * half))
    return values / values.max()


def _not_normalised(bits):
    import torch

    half = 2 ** (bits - 1)
    outer = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    above = torch.special.ndtri(torch.linspace(outer, 0.5, half + 1)[:-1])
    below = -torch.special.ndtri(torch.linspace(outer, 0.5, half)[:-1])
    return torch.cat([below, torch.zeros(1), above]).sort().values


def _more_below(bits):
    return -normal_float(bits).flip(0)


def _evenly_spaced(bits):
    import torch

    half = 2 ** (bits - 1)
    return torch.cat([torch.linspace(-1, 0, half), torch.linspace(0, 1, half + 1)[1:]])


# -- two codes a byte

def pack(codes):
    import torch

    pairs = codes.reshape(-1, 2)
    return (pairs[:, 0] * 16 + pairs[:, 1]).to(torch.uint8)


def unpack(packed):
    import torch

    return torch.stack([packed >> 4, packed & 15], dim=1).view(-1).long()


def run_pack(pack, unpack, codes, packed):
    """Both ways: {"packed", "unpacked"}."""
    return {"packed": pack(codes), "unpacked": unpack(packed)}


def _pack_with(codes, packed, upper_first=True, halves=False, masked=True):
    import torch

    count = len(codes) // 2
    first, second = (codes[:count], codes[count:]) if halves else (codes[::2], codes[1::2])
    upper, lower = (first, second) if upper_first else (second, first)
    up, low = (packed >> 4).long(), (packed & 15).long() if masked else packed.long()
    one, two = (up, low) if upper_first else (low, up)
    back = torch.cat([one, two]) if halves else torch.stack([one, two], dim=1).view(-1)
    return {"packed": (upper * 16 + lower).to(torch.uint8), "unpacked": back}


def pack_cases():
    import torch

    return [(torch.tensor([1, 2]), torch.tensor([18], dtype=torch.uint8)),
            (torch.tensor([15, 0, 7, 8]), torch.tensor([240, 120], dtype=torch.uint8)),
            (torch.tensor([3, 1, 4, 1, 5, 9, 2, 6]), torch.tensor([49, 65, 89, 38, 255], dtype=torch.uint8))]


# -- the forward pass

def qlora_forward(x, codes, scales, book, A, B, alpha):
    weight = (book[codes].view(len(scales), -1) * scales[:, None]).view(codes.shape)
    return x @ weight.T + alpha / len(A) * (x @ A.T @ B.T)


def _alpha_only(x, codes, scales, book, A, B, alpha):
    return qlora_forward(x, codes, scales, book, A, B, alpha * len(A))


def _codes_as_numbers(x, codes, scales, book, A, B, alpha):
    weight = (codes.float().view(len(scales), -1) * scales[:, None]).view(codes.shape)
    return x @ weight.T + alpha / len(A) * (x @ A.T @ B.T)


def _one_scale(x, codes, scales, book, A, B, alpha):
    return x @ (book[codes] * scales.max()).T + alpha / len(A) * (x @ A.T @ B.T)


def _no_update(x, codes, scales, book, A, B, alpha):
    return qlora_forward(x, codes, scales, book, A, B, 0.0)


def forward_cases():
    import torch

    cases = []
    for n, k, r, block, alpha in ((2, 4, 1, 4, 2.0), (3, 8, 2, 4, 8.0), (6, 4, 3, 8, 5.0)):
        generator = torch.Generator().manual_seed(n)
        codes = torch.randint(0, 16, (n, k), generator=generator)
        scales = torch.rand(n * k // block, generator=generator) + 0.2
        a, b = torch.randn(r, k, generator=generator), torch.randn(n, r, generator=generator)
        cases.append((torch.randn(3, k, generator=generator), codes, scales, normal_float(4), a, b, alpha))
    return cases


# -- memory

def peak_bytes(method, linear, other, learned, activations):
    per_weight = (4 + 8 / 64 + 32 / (64 * 256)) / 8 if method == "qlora" else 4
    weights = per_weight * linear + 4 * other + (0 if method == "full" else 4 * learned)
    return float(weights + 8 * learned + max(activations, 4 * learned))


def _peak(method, linear, other, learned, activations, embeddings=False, scales=True, states=False, added=False):
    per = ((4 + (8 / 64 + 32 / (64 * 256) if scales else 0)) / 8) if method == "qlora" else 4
    weights = per * linear + (per if embeddings else 4) * other + (0 if method == "full" else 4 * learned)
    count = linear + other if states else learned
    last = activations + 4 * count if added else max(activations, 4 * count)
    return float(weights + 8 * count + last)


PEAK_CASES = [
    ("full", 1000, 200, 1200, 3000.0), ("lora", 1000, 200, 100, 5000.0), ("lora", 1_000_000, 200_000, 50_000, 40.0),
    ("qlora", 1_000_000, 200_000, 50_000, 3_000_000.0), ("qlora", 64_000, 10_000, 2_000, 10.0),
    ("full", 50_000, 20_000, 70_000, 9_000_000.0),
]

EXERCISES = [
    Exercise(
        id="absmax", title="Absmax", points=3, minutes=8, difficulty=1,
        hints=(
            "Which number must become 7 or −7, and nothing beyond it?",
            "The scale is the largest absolute value, x.abs().max(). x / scale lies in [−1, 1]; stretch it to [−7, 7] and "
            "round.",
            "scale = x.abs().max(); codes = (x / scale * 7).round().int(), where .int() comes after .round(); then return "
            "codes, scale.",
        ),
        mistakes={
            "unsigned": "Your codes run from 0 to 15; these have a sign and run from −7 to 7, with zero at 0.",
            "largest": "Your scale is the largest value; a large negative one then falls outside: take absolute values.",
            "truncated": "You cut the decimals off, which pulls every weight towards zero; round to the nearest.",
            "eight": "You stretched by 8, so that the largest weight has the code 8 or −8; 4 bits with a sign reach 7.",
        },
        check=against(quantise_int4, int4_cases, mistakes={
            "unsigned": _int4_unsigned, "largest": _int4_largest, "truncated": _int4_truncated, "eight": _int4_eight}),
        withheld=("ftlab.tune.nf4.quantise", "ftlab.tune.nf4.round_trip"),
    ),
    Exercise(
        id="blockwise", title="Blockwise, onto a codebook", points=5, minutes=15, difficulty=2,
        hints=(
            "Give the tensor another shape first, in which every row is a block.",
            "blocks = x.reshape(-1, block_size); scales = the largest absolute value of each row. The border between two "
            "neighbouring entries of the codebook lies in their middle.",
            "blocks = x.reshape(-1, block_size); scales = blocks.abs().amax(1); codes = torch.bucketize(blocks / scales[:, "
            "None], (book[:-1] + book[1:]) / 2); return codes.view(x.shape), scales.",
        ),
        mistakes={
            "per_tensor": "You use one scale for the whole tensor; each block of block_size weights has its own.",
            "down_columns": "Your blocks run down the columns; they run along the rows, as the tensor lies in memory.",
            "signed_scale": "Your scale is the largest value of the block, without its sign taken off: take absolute "
                            "values first.",
            "not_the_nearest": "You take the next entry above instead of the nearest: the borders lie in the middle of two "
                               "neighbours.",
        },
        check=against(quantise, block_cases, mistakes={
            "per_tensor": _per_tensor, "down_columns": _down_columns, "signed_scale": _signed_scale,
            "not_the_nearest": _not_the_nearest}),
        withheld=("ftlab.tune.nf4.quantise", "ftlab.tune.nf4.nearest", "ftlab.tune.nf4.round_trip"),
    ),
    Exercise(
        id="normal_float", title="The NF4 codebook", points=5, minutes=18, difficulty=3,
        hints=(
            "Work on the two halves apart: 2^(bits−1) values above zero, one fewer below, then a zero.",
            "Above: torch.special.ndtri of torch.linspace(outer, 0.5, half + 1) without its last entry, which would be the "
            "zero. Below: the same with half instead of half + 1, with a minus.",
            "above = torch.special.ndtri(torch.linspace(outer, 0.5, half + 1)[:-1]), below the same with half and a minus; "
            "values = torch.cat([below, torch.zeros(1), above]).sort().values; return values / values.max().",
        ),
        mistakes={
            "no_zero": "Your codebook has no zero: equal shares from end to end miss it. Make the halves apart, and put a "
                       "zero between them.",
            "not_normalised": "Your quantiles are right, but not yet scaled: divide by the largest, so that they end at 1.",
            "more_below": "You gave the additional value to the negative side; NormalFloat has it above zero.",
            "evenly_spaced": "Your values are evenly spaced; they must be quantiles, which are closest where weights are "
                             "most frequent.",
        },
        check=against(normal_float, [(4,), (3,), (2,)], mistakes={
            "no_zero": _no_zero, "not_normalised": _not_normalised, "more_below": _more_below,
            "evenly_spaced": _evenly_spaced}),
        withheld=("ftlab.tune.nf4.normal_codebook", "ftlab.tune.nf4.codebook", "ftlab.tune.nf4.NF4_VALUES"),
    ),
    Exercise(
        id="pack", title="Two codes in a byte", points=4, minutes=10, difficulty=2,
        hints=(
            "A code has 4 bits, a byte has 8. Moving a number up by 4 bits is multiplying it by 16.",
            "pairs = codes.reshape(-1, 2); a byte is 16 times the first plus the second. Back: packed >> 4 is the upper "
            "half, packed & 15 the lower.",
            "pairs = codes.reshape(-1, 2); return (pairs[:, 0] * 16 + pairs[:, 1]).to(torch.uint8). And back: return "
            "torch.stack([packed >> 4, packed & 15], dim=1).view(-1).long().",
        ),
        mistakes={
            "lower_first": "You put the first code of a pair into the lower half; bitsandbytes has it in the upper one.",
            "halves": "You pair the first half of the codes with the second half; a byte holds two neighbours.",
            "not_masked": "Unpacking, you left the upper half in the second code: keep its last 4 bits with & 15.",
        },
        check=against(functools.partial(run_pack, pack, unpack), pack_cases, using=run_pack, mistakes={
            "lower_first": functools.partial(_pack_with, upper_first=False),
            "halves": functools.partial(_pack_with, halves=True),
            "not_masked": functools.partial(_pack_with, masked=False)}),
        withheld=("ftlab.tune.nf4.pack", "ftlab.tune.nf4.unpack"),
    ),
    Exercise(
        id="qlora_forward", title="The QLoRA forward pass", points=5, minutes=15, difficulty=2,
        hints=(
            "Two terms that do not know of each other: a linear layer with the weight that the codes stand for, and LoRA's.",
            "book[codes] looks every code up. With a block a row, it can be multiplied by scales[:, None]; then it takes "
            "the shape of codes again.",
            "weight = (book[codes].view(len(scales), -1) * scales[:, None]).view(codes.shape); return x @ weight.T + alpha "
            "/ len(A) * (x @ A.T @ B.T).",
        ),
        mistakes={
            "alpha_only": "You scaled the update by alpha, not by alpha / r; r is the number of rows of A.",
            "codes_as_numbers": "You multiplied with the codes themselves, unsigned numbers from 0 to 15; a code is a place "
                                "in the codebook: book[codes].",
            "one_scale": "You used one scale for the whole matrix; each block of weights has its own.",
            "no_update": "The update of LoRA is missing: nothing would be learned.",
        },
        check=against(qlora_forward, forward_cases, mistakes={
            "alpha_only": _alpha_only, "codes_as_numbers": _codes_as_numbers, "one_scale": _one_scale,
            "no_update": _no_update}),
        withheld=("ftlab.tune.nf4.dequantise", "ftlab.tune.qlora.FourBitLinear", "ftlab.tune.qlora.attach_qlora"),
    ),
    Exercise(
        id="peak_bytes", title="Predict the memory", points=5, minutes=18, difficulty=3,
        hints=(
            "Go through the table above row by row; what does a frozen weight need, and what one that learns?",
            "Weights: 4 bytes each, but linear ones under QLoRA (4 + 8/64 + 32/(64·256)) / 8; what LoRA adds is 4 each on "
            "top. AdamW needs 8 for each number that learns.",
            "per = (4 + 8/64 + 32/(64*256)) / 8 for qlora, else 4; weights = per * linear + 4 * other, and 4 * learned more "
            "unless full; the peak is float(weights + 8 * learned + max(activations, 4 * learned)).",
        ),
        mistakes={
            "embeddings": "You quantised the embedding and the norms as well; only the linear layers are held in 4 bits.",
            "no_scales": "You counted 4 bits flat; the scales cost a little, too: 8/64 + 32/(64·256) bits a weight.",
            "states": "You counted gradients and AdamW's numbers for frozen weights; only what learns has any.",
            "added": "You added gradients to activations; the peak has the larger of the two, as one goes while the other "
                     "comes.",
        },
        check=against(peak_bytes, PEAK_CASES, rtol=1e-6, mistakes={
            "embeddings": functools.partial(_peak, embeddings=True), "no_scales": functools.partial(_peak, scales=False),
            "states": functools.partial(_peak, states=True), "added": functools.partial(_peak, added=True)}),
        withheld=("ftlab.measure.cost.memory",),
    ),
]
