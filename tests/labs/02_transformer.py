"""Wrong answers to the exercises of lab 02_transformer: each must be named by its check, and fail its probe."""

COUNT = """
def count_pairs(words):
    counts = {}
    for word, count in words.items():
        for pair in zip(word, word[1:]):
            counts[pair] = counts.get(pair, 0) + count
    return counts
"""
MERGE = """
def merge(word, pair, new_id):
    merged, i = [], 0
    while i < len(word):
        if word[i:i + 2] == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return tuple(merged)
"""
TRAIN = """
def train_bpe(words, num_merges, first_id):
    merges = []
    for new_id in range(first_id, first_id + num_merges):
        counts = count_pairs(words)
        if not counts:
            break
        best = BEST
        merged = {}
        for word, count in words.items():
            word = merge(word, best, new_id)
            merged[word] = merged.get(word, 0) + count
        words = merged
        merges.append(best)
    return merges
"""
RIGHT = "min(counts, key=lambda pair: (-counts[pair], pair))"

SPLIT = """
def split_heads(x, num_heads):
    return x.view(x.shape[0], x.shape[1], num_heads, -1).transpose(1, 2)
"""
ATTENTION = """
def causal_attention(q, k, v):
    length, head_size = q.shape[-2:]
    scores = q @ k.transpose(-1, -2) / SCALE
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(AXIS) @ v
"""

ANGLES = """
def rotary_angles(length, head_size, theta=10000.0):
    frequencies = theta ** (-2 * torch.arange(head_size // 2) / head_size)
    return torch.arange(length)[:, None] * frequencies
"""
ROTATE = """
def rotate(x, angles):
    u, w = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([u * cos - w * sin, u * sin + w * cos], dim=-1)
"""

NORM = """
def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
"""
SWIGLU = """
def swiglu(x, gate, up, down):
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
"""

MODEL = """
class Block(nn.Module):
    def __init__(self, norm1, attention, norm2, mlp):
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    def forward(self, x):
        BODY


class Transformer(nn.Module):
    def __init__(self, embedding, layers, norm, head):
        super().__init__()
        self.embedding, self.layers, self.norm, self.head = embedding, nn.ModuleList(layers), norm, head

    def forward(self, ids):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(LAST)
"""
BLOCK = "x = x + self.attention(self.norm1(x)); return x + self.mlp(self.norm2(x))"


def model(body=BLOCK, last="self.norm(x)"):
    return MODEL.replace("BODY", body).replace("LAST", last)


NAMES = """
def hf_name(name):
    outer = {"embedding": "PREFIXembed_tokens", "norm": "PREFIXnorm", "head": "lm_head"}
    inner = {"norm1": "NORM1", "norm2": "NORM2",
             "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj",
             "attention.value": "self_attn.v_proj", "attention.output": "self_attn.o_proj",
             "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj"}
    part = name.removesuffix(".weight")
    if part in outer:
        return f"{outer[part]}.weight"
    _, index, part = part.split(".", 2)
    return f"PREFIXlayers.{index}.{inner[part]}.weight"
"""
WEIGHTS = """
def weights_from_hf(tensors, names):
    tensors = {"lm_head.weight": tensors["model.embed_tokens.weight"], **tensors}
    return {name: tensors[hf_name(name)]END for name in names}
"""


def names(prefix="model.", norms=("input_layernorm", "post_attention_layernorm")):
    return NAMES.replace("PREFIX", prefix).replace("NORM1", norms[0]).replace("NORM2", norms[1])


def weights(end=".float()"):
    return WEIGHTS.replace("END", end)


WRONG = {
    "bpe_merges": {
        "frequency_ignored": COUNT.replace("+ count", "+ 1") + MERGE + TRAIN.replace("BEST", RIGHT),
        "right_half_kept": COUNT + MERGE.replace("i += 2", "i += 1") + TRAIN.replace("BEST", RIGHT),
        "ties_first_seen": COUNT + MERGE + TRAIN.replace("BEST", "max(counts, key=counts.get)"),
        "ties_largest": COUNT + MERGE + TRAIN.replace("BEST", "max(counts, key=lambda pair: (counts[pair], pair))"),
        "counted_once": COUNT + MERGE + """
def train_bpe(words, num_merges, first_id):
    counts = count_pairs(words)
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[:num_merges]
""",
    },
    "attention": {
        "heads_by_view": """
def split_heads(x, num_heads):
    return x.view(x.shape[0], num_heads, x.shape[1], -1)
""" + ATTENTION.replace("SCALE", "head_size ** 0.5").replace("AXIS", "-1"),
        "not_scaled": SPLIT + ATTENTION.replace("SCALE", "1").replace("AXIS", "-1"),
        "scaled_by_size": SPLIT + ATTENTION.replace("SCALE", "head_size").replace("AXIS", "-1"),
        "masked_after_softmax": SPLIT + """
def causal_attention(q, k, v):
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return weights.tril() @ v
""",
        "wrong_axis": SPLIT + ATTENTION.replace("SCALE", "head_size ** 0.5").replace("AXIS", "-2"),
    },
    "rotary": {
        "exponent": ANGLES.replace("-2 * ", "-1 * ") + ROTATE,
        "from_one": ANGLES.replace("torch.arange(length)[", "torch.arange(1, length + 1)[") + ROTATE,
        "neighbours_paired": ANGLES + """
def rotate(x, angles):
    u, w = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([u * cos - w * sin, u * sin + w * cos], dim=-1).flatten(-2)
""",
        "turned_backwards": ANGLES + ROTATE.replace("u * cos - w * sin, u * sin + w * cos",
                                                    "u * cos + w * sin, w * cos - u * sin"),
    },
    "norm_swiglu": {
        "mean_subtracted": """
def rms_norm(x, weight, eps):
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
""" + SWIGLU,
        "sum_not_mean": NORM.replace(".mean(", ".sum(") + SWIGLU,
        "no_eps": NORM.replace(" + eps", "") + SWIGLU,
        "silu_on_up": NORM + SWIGLU.replace("F.silu(x @ gate.T) * (x @ up.T)", "(x @ gate.T) * F.silu(x @ up.T)"),
        "sigmoid": NORM + SWIGLU.replace("F.silu", "torch.sigmoid"),
    },
    "assemble": {
        "post_norm": model("x = self.norm1(x + self.attention(x)); return self.norm2(x + self.mlp(x))"),
        "no_residual": model("return self.mlp(self.norm2(self.attention(self.norm1(x))))"),
        "parallel": model("return x + self.attention(self.norm1(x)) + self.mlp(self.norm2(x))"),
        "no_final_norm": model(last="x"),
    },
    "load_weights": {
        "no_prefix": names(prefix="") + weights().replace('"model.embed', '"embed'),
        "norms_swapped": names(norms=("post_attention_layernorm", "input_layernorm")) + weights(),
        "head_missing": names() + """
def weights_from_hf(tensors, names):
    return {name: tensors[hf_name(name)].float() for name in names if hf_name(name) in tensors}
""",
        "transposed": names() + weights(".float().T"),
        "left_in_half": names() + weights(""),
    },
}
