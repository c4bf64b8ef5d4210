"""Wrong answers to the exercises of lab 07_qlora: each must be named by its check, and fail its probe."""

ABSMAX = '''
def quantise_int4(x):
    scale = {scale}
    return {codes}, scale
'''
RIGHT_ABSMAX = {"scale": "x.abs().max()", "codes": "(x / scale * 7).round().int()"}

BLOCKWISE = '''
def quantise(x, book, block_size):
    {first}
    blocks = x.reshape(-1, {size})
    scales = {scales}
    codes = torch.bucketize(blocks / scales[:, None], {borders}).clamp(max=len(book) - 1)
    return {codes}, {returned}
'''
RIGHT_BLOCKWISE = {"first": "pass", "size": "block_size", "scales": "blocks.abs().amax(1)", "returned": "scales",
                   "borders": "(book[:-1] + book[1:]) / 2", "codes": "codes.view(x.shape)"}  # fmt: skip

NORMAL = '''
def normal_float(bits):
    half = 2 ** (bits - 1)
    outer = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    above = torch.special.ndtri(torch.linspace(outer, 0.5, half + 1)[:-1])
    below = -torch.special.ndtri(torch.linspace(outer, 0.5, half)[:-1])
    values = torch.cat([below, torch.zeros(1), above]).sort().values
    return {result}
'''

PACK = '''
def pack(codes):
    {first}
    return (one * 16 + two).to(torch.uint8)

def unpack(packed):
    one, two = {halves}
    return {back}.view(-1).long()
'''
RIGHT_PACK = {"first": "one, two = codes[::2], codes[1::2]", "halves": "packed >> 4, packed & 15",
              "back": "torch.stack([one, two], dim=1)"}  # fmt: skip

FORWARD = '''
def qlora_forward(x, codes, scales, book, A, B, alpha):
    weight = ({values}.view(len(scales), -1) * {scales}).view(codes.shape)
    return x @ weight.T + {update}
'''
RIGHT_FORWARD = {"values": "book[codes]", "scales": "scales[:, None]", "update": "alpha / len(A) * (x @ A.T @ B.T)"}

PEAK = '''
def peak_bytes(method, linear, other, learned, activations):
    per = {per} if method == "qlora" else 4
    weights = per * linear + {embedding} * other + (0 if method == "full" else 4 * learned)
    count = {count}
    return float(weights + 8 * count + {last})
'''
RIGHT_PEAK = {"per": "(4 + 8 / 64 + 32 / (64 * 256)) / 8", "embedding": "4", "count": "learned",
              "last": "max(activations, 4 * count)"}  # fmt: skip

WRONG = {
    "absmax": {
        "unsigned": ABSMAX.format(**RIGHT_ABSMAX | {"codes": "((x / scale + 1) / 2 * 15).round().int()"}),
        "largest": ABSMAX.format(**RIGHT_ABSMAX | {"scale": "x.max()"}),
        "truncated": ABSMAX.format(**RIGHT_ABSMAX | {"codes": "(x / scale * 7).int()"}),
        "eight": ABSMAX.format(**RIGHT_ABSMAX | {"codes": "(x / scale * 8).round().int()"}),
    },
    "blockwise": {
        "per_tensor": BLOCKWISE.format(**RIGHT_BLOCKWISE | {
            "size": "x.numel()", "returned": "scales.repeat(x.numel() // block_size)"}),
        "down_columns": BLOCKWISE.format(**RIGHT_BLOCKWISE | {
            "first": "x = x.T.contiguous()", "codes": "codes.view(x.shape).T.contiguous()"}),
        "signed_scale": BLOCKWISE.format(**RIGHT_BLOCKWISE | {"scales": "blocks.amax(1)"}),
        "not_the_nearest": BLOCKWISE.format(**RIGHT_BLOCKWISE | {"borders": "book"}),
    },
    "normal_float": {
        "no_zero": "def normal_float(bits):\n"
                   "    half = 2 ** (bits - 1)\n"
                   "    outer = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2\n"
                   "    values = torch.special.ndtri(torch.linspace(1 - outer, outer, 2 ** bits))\n"
                   "    return values / values.max()",
        "not_normalised": NORMAL.format(result="values"),
        "more_below": NORMAL.format(result="-(values / values.max()).flip(0)"),
        "evenly_spaced": "def normal_float(bits):\n"
                         "    half = 2 ** (bits - 1)\n"
                         "    return torch.cat([torch.linspace(-1, 0, half), torch.linspace(0, 1, half + 1)[1:]])",
    },
    "pack": {
        "lower_first": PACK.format(**RIGHT_PACK | {
            "first": "two, one = codes[::2], codes[1::2]", "halves": "packed & 15, packed >> 4"}),
        "halves": PACK.format(**RIGHT_PACK | {
            "first": "one, two = codes[:len(codes) // 2], codes[len(codes) // 2:]", "back": "torch.cat([one, two])"}),
        "not_masked": PACK.format(**RIGHT_PACK | {"halves": "packed >> 4, packed"}),
    },
    "qlora_forward": {
        "alpha_only": FORWARD.format(**RIGHT_FORWARD | {"update": "alpha * (x @ A.T @ B.T)"}),
        "codes_as_numbers": FORWARD.format(**RIGHT_FORWARD | {"values": "codes.float()"}),
        "one_scale": FORWARD.format(**RIGHT_FORWARD | {"scales": "scales.max()"}),
        "no_update": FORWARD.format(**RIGHT_FORWARD | {"update": "0"}),
    },
    "peak_bytes": {
        "embeddings": PEAK.format(**RIGHT_PEAK | {"embedding": "per"}),
        "no_scales": PEAK.format(**RIGHT_PEAK | {"per": "4 / 8"}),
        "states": PEAK.format(**RIGHT_PEAK | {"count": "linear + other"}),
        "added": PEAK.format(**RIGHT_PEAK | {"last": "activations + 4 * count"}),
    },
}
