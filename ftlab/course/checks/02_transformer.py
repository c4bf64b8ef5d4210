"""Exercises of lab 02_transformer: texts, hints, mistakes, what each check knows, and the reference for all of it.

The reference transformer stands here whole (`modules`), since the checks and the study of C08 both need one that is
not the student's.
"""

import functools
import itertools
import types

from ftlab.teach import Exercise, against, call, expect, expect_close, mistake

# ---- byte pair encoding --------------------------------------------------------------------------------------------


def count_pairs(words):
    """{(left, right): count} of neighbours in words {tuple of ids: count}."""
    counts = {}
    for word, count in words.items():
        for pair in itertools.pairwise(word):
            counts[pair] = counts.get(pair, 0) + count
    return counts


def merge(word, pair, new_id):
    """`word` with each occurrence of `pair`, from left to right, replaced by `new_id`."""
    merged, i = [], 0
    while i < len(word):
        found = word[i : i + 2] == pair
        merged.append(new_id if found else word[i])
        i += 2 if found else 1
    return tuple(merged)


def train_bpe(words, num_merges, first_id, best=lambda counts: min(counts, key=lambda pair: (-counts[pair], pair))):
    """The merges, most frequent pair first; among pairs that are equally frequent the smallest (as `tokenizers` does).

    best: chooses the pair from the counts; only the models of mistakes give another.
    """
    merges = []
    for new_id in range(first_id, first_id + num_merges):
        counts = count_pairs(words)
        if not counts:
            break
        merges.append(best(counts))
        renewed = {}
        for word, count in words.items():
            word = merge(word, merges[-1], new_id)
            renewed[word] = renewed.get(word, 0) + count
        words = renewed
    return merges


def counted_once(words, num_merges, first_id):
    """A mistake: the commonest pairs of the first count, never counted again."""
    counts = count_pairs(words)
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[:num_merges]


def merge_keeping_right_half(word, pair, new_id):
    """A mistake: after a merge it moves on by one."""
    return tuple(new_id if word[i : i + 2] == pair else word[i] for i in range(len(word)))


WORDS = [
    {(1, 2): 1},
    {(1, 2, 1, 2): 3, (2, 1): 2, (7,): 4},
    {(5, 5, 5): 2, (5, 6, 5): 1},
    {(9, 4, 3): 2, (8, 2, 3): 2, (4, 3, 8, 2): 1, (1, 9, 4, 3, 8): 1},
]
MERGES = [
    ((1, 2, 3), (1, 2), 9),
    ((3, 1, 2, 1, 2), (1, 2), 9),
    ((1, 1, 1), (1, 1), 9),
    ((1,), (1, 2), 9),
    ((2, 1), (1, 2), 9),
]
TRAININGS = [
    ({(1, 2): 1}, 1, 10),
    ({(1, 2, 3): 2, (2, 3): 1}, 2, 10),
    ({(9, 4, 3): 2, (8, 2, 3): 2, (5, 5, 5): 1}, 4, 10),
    ({(1, 2, 3, 4): 3, (2, 3): 2, (4, 1): 4, (3, 4): 1}, 9, 10),
]


def check_bpe(student_count, student_merge, student_train):
    """The three functions, one after the other."""
    against(count_pairs, [(words,) for words in WORDS], {
        "frequency_ignored": lambda words: count_pairs(dict.fromkeys(words, 1)),
    })(student_count)
    against(merge, MERGES, {"right_half_kept": merge_keeping_right_half})(student_merge)
    against(train_bpe, TRAININGS, {
        "ties_first_seen": functools.partial(train_bpe, best=lambda counts: max(counts, key=counts.get)),
        "ties_largest": functools.partial(train_bpe, best=lambda counts: max(counts, key=lambda p: (counts[p], p))),
        "counted_once": counted_once,
    })(student_train)


# ---- attention and rotary positions --------------------------------------------------------------------------------


def split_heads(x, num_heads):
    """(B, T, C) -> (B, H, T, D)"""
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def causal_attention(q, k, v, scale=None, after=False, axis=-1):
    """softmax(q kᵀ / √D + mask) v, all (B, H, T, D). The last three arguments make the models of mistakes."""
    import torch

    scores = q @ k.transpose(-1, -2) / (q.shape[-1] ** 0.5 if scale is None else scale)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    if after:
        return scores.softmax(-1).masked_fill(future, 0.0) @ v
    # The diagonal is never masked, so no row and no column is all −inf.
    return scores.masked_fill(future, float("-inf")).softmax(axis) @ v


def _randn(*shape, seed=0):
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def split_cases():
    import torch

    return [(torch.arange(8.0).view(1, 2, 4), 2), (_randn(2, 3, 6), 3)]


def attention_cases():
    import torch

    shapes = [(1, 1, 2, 2), (1, 1, 3, 4), (2, 3, 5, 4)]
    return [tuple((2 * torch.eye(2)).view(1, 1, 2, 2) for _ in range(3)),
            *(tuple(_randn(*shape, seed=i) for i in range(3)) for shape in shapes)]  # fmt: skip


def check_attention(student_split, student_attention):
    """Splitting, then attention."""
    against(split_heads, split_cases, {
        "heads_by_view": lambda x, num_heads: x.view(x.shape[0], num_heads, x.shape[1], -1),
    })(student_split)
    against(causal_attention, attention_cases, {
        "not_scaled": lambda q, k, v: causal_attention(q, k, v, scale=1.0),
        "scaled_by_size": lambda q, k, v: causal_attention(q, k, v, scale=q.shape[-1]),
        "masked_after_softmax": lambda q, k, v: causal_attention(q, k, v, after=True),
        "wrong_axis": lambda q, k, v: causal_attention(q, k, v, axis=-2),
    })(student_attention)


def rotary_angles(length, head_size, theta=10000.0, factor=2):
    """(T, D/2): position · theta^(−2i/D). `factor` makes the model of a mistake."""
    import torch

    frequencies = theta ** (-factor * torch.arange(head_size // 2) / head_size)
    return torch.arange(length)[:, None] * frequencies


def rotate(x, angles, sign=1):
    """Each pair (x_i, x_{i+D/2}) of x (B, H, T, D) turned by its position's angle."""
    import torch

    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), sign * angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def rotate_neighbours(x, angles):
    """A mistake beside Llama's code: pairs (x_2i, x_2i+1), as in the paper."""
    import torch

    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], dim=-1).flatten(-2)


def rotate_cases():
    import math

    import torch

    quarter = torch.tensor([[0.0], [math.pi / 2]])
    return [(torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 2, 2), quarter),
            (_randn(1, 2, 3, 4), rotary_angles(3, 4)), (_randn(2, 2, 5, 8, seed=1), rotary_angles(5, 8))]  # fmt: skip


def check_rotary(student_angles, student_rotate):
    """The angles, then the turning."""
    against(rotary_angles, [(2, 2, 100.0), (4, 4, 100.0), (6, 8, 10000.0)], {
        "exponent": lambda length, head_size, theta: rotary_angles(length, head_size, theta, factor=1),
        "from_one": lambda length, head_size, theta: rotary_angles(length + 1, head_size, theta)[1:],
    })(student_angles)
    against(rotate, rotate_cases, {
        "neighbours_paired": rotate_neighbours,
        "turned_backwards": lambda x, angles: rotate(x, angles, sign=-1),
    })(student_rotate)


# ---- RMSNorm and SwiGLU --------------------------------------------------------------------------------------------


def rms_norm(x, weight, eps):
    """x / √(mean(x²) + eps) · weight, over the last axis."""
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def swiglu(x, gate, up, down):
    """down (silu(gate x) · (up x)); matrices as nn.Linear keeps them: (outputs, inputs)."""
    import torch.nn.functional as F

    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


def norm_cases():
    import torch

    return [(torch.tensor([[3.0, 4.0]]), torch.ones(2), 1e-5), (torch.tensor([[0.002, -0.001]]), torch.ones(2), 1e-5),
            (_randn(2, 3, 4), 1 + _randn(4, seed=1), 1e-5), (torch.zeros(1, 3), torch.ones(3), 1e-5)]  # fmt: skip


def swiglu_cases():
    return [tuple(_randn(*shape, seed=i) for i, shape in enumerate([(1, 2), (1, 2), (1, 2), (2, 1)])),
            tuple(_randn(*shape, seed=i) for i, shape in enumerate([(2, 3, 4), (6, 4), (6, 4), (4, 6)]))]  # fmt: skip


def check_norm(student_norm, student_swiglu):
    """The norm, then the feed-forward layer."""
    import torch

    against(rms_norm, norm_cases, {
        "mean_subtracted": lambda x, weight, eps: rms_norm(x - x.mean(-1, keepdim=True), weight, eps),
        "sum_not_mean": lambda x, weight, eps: x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * weight,
        "no_eps": lambda x, weight, eps: rms_norm(x, weight, 0.0),
    })(student_norm)
    against(swiglu, swiglu_cases, {
        "silu_on_up": lambda x, gate, up, down: swiglu(x, up, gate, down),
        "sigmoid": lambda x, gate, up, down: (torch.sigmoid(x @ gate.T) * (x @ up.T)) @ down.T,
    })(student_swiglu)


# ---- the whole model -----------------------------------------------------------------------------------------------


@functools.cache
def modules():
    """The reference as torch modules: RMSNorm, SelfAttention, SwiGLU, Block, Transformer, make_model."""
    import torch
    from torch import nn

    class RMSNorm(nn.Module):
        def __init__(self, size, eps):
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

        def forward(self, x):
            return rms_norm(x, self.weight, self.eps)

    class SelfAttention(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.num_heads, self.theta = config.num_heads, config.rope_theta
            for name in ("query", "key", "value", "output"):
                setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size, bias=False))

        def forward(self, x):
            q, k, v = (split_heads(layer(x), self.num_heads) for layer in (self.query, self.key, self.value))
            angles = rotary_angles(x.shape[1], q.shape[-1], self.theta)
            y = causal_attention(rotate(q, angles), rotate(k, angles), v)
            return self.output(y.transpose(1, 2).flatten(2))

    class SwiGLU(nn.Module):
        def __init__(self, size, inner):
            super().__init__()
            self.gate, self.up = nn.Linear(size, inner, bias=False), nn.Linear(size, inner, bias=False)
            self.down = nn.Linear(inner, size, bias=False)

        def forward(self, x):
            return swiglu(x, self.gate.weight, self.up.weight, self.down.weight)

    class Block(nn.Module):
        def __init__(self, norm1, attention, norm2, mlp):
            super().__init__()
            self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

        def forward(self, x):
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class Transformer(nn.Module):
        def __init__(self, embedding, layers, norm, head):
            super().__init__()
            self.embedding, self.layers, self.norm, self.head = embedding, nn.ModuleList(layers), norm, head

        def forward(self, ids):
            x = self.embedding(ids)
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x))

    def make_model(config):
        size, eps = config.hidden_size, config.rms_norm_eps
        layers = [Block(RMSNorm(size, eps), SelfAttention(config), RMSNorm(size, eps),
                        SwiGLU(size, config.intermediate_size)) for _ in range(config.num_layers)]  # fmt: skip
        model = Transformer(nn.Embedding(config.vocab_size, size), layers, RMSNorm(size, eps),
                            nn.Linear(size, config.vocab_size, bias=False))  # fmt: skip
        model.head.weight = model.embedding.weight
        return model

    return types.SimpleNamespace(**locals())


def _forward_with_our_parts(Block, Transformer, ids, num_layers, block=None, final_norm=True):
    """Logits of the student's classes around parts of ours (attention and MLP are stand-ins: small layers).

    block(parts, x), where given, takes the place of Block.forward: the models of mistakes.
    """
    import torch
    from torch import nn

    torch.manual_seed(7)
    norm = modules().RMSNorm

    def scaled(size):
        made = norm(size, 1e-5)
        made.weight.data = 0.5 + torch.rand(size)
        return made

    class Attention(nn.Linear):
        def forward(self, x):
            return super().forward(x).cumsum(1)

    embedding, head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
    parts = [(scaled(4), Attention(4, 4, bias=False), scaled(4), nn.Sequential(nn.Linear(4, 4), nn.SiLU()))
             for _ in range(num_layers)]  # fmt: skip
    last = scaled(4)
    with torch.no_grad():
        if block is None and final_norm:
            return Transformer(embedding, [Block(*p) for p in parts], last, head)(ids)
        x = embedding(ids)
        for p in parts:
            x = block(p, x) if block else modules().Block(*p)(x)
        return head(last(x) if final_norm else x)


def _post_norm(parts, x):
    norm1, attention, norm2, mlp = parts
    x = norm1(x + attention(x))
    return norm2(x + mlp(x))


def _no_residual(parts, x):
    norm1, attention, norm2, mlp = parts
    return mlp(norm2(attention(norm1(x))))


def _parallel(parts, x):
    norm1, attention, norm2, mlp = parts
    return x + attention(norm1(x)) + mlp(norm2(x))


def assemble_cases():
    import torch

    return [(torch.tensor([[3]]), 1), (torch.tensor([[3, 1, 4]]), 1), (torch.tensor([[3, 1, 4], [1, 5, 9]]), 2)]


def check_assemble(Block, Transformer):
    """Both classes around parts of ours, so that no earlier exercise matters."""

    def with_block(block=None, final_norm=True):
        return lambda ids, num_layers: _forward_with_our_parts(None, None, ids, num_layers, block, final_norm)

    def reference(ids, num_layers):
        return _forward_with_our_parts(modules().Block, modules().Transformer, ids, num_layers)

    against(reference, assemble_cases, {
        "post_norm": with_block(_post_norm), "no_residual": with_block(_no_residual),
        "parallel": with_block(_parallel), "no_final_norm": with_block(final_norm=False),
    }, using=_forward_with_our_parts)(Block, Transformer)  # fmt: skip


# ---- weights under other names -------------------------------------------------------------------------------------

OUTER = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
INNER = {
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm", "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj", "attention.value": "self_attn.v_proj", "attention.output": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj",
}  # fmt: skip


def hf_name(name, inner=INNER):
    """The name in LlamaForCausalLM of the lab model's parameter `name`; `inner` makes the model of a mistake."""
    part = name.removesuffix(".weight")
    if part in OUTER:
        return OUTER[part] + ".weight"
    _, index, rest = part.split(".", 2)
    return f"model.layers.{index}.{inner[rest]}.weight"


def weights_from_hf(tensors, names):
    """{our name: float32 tensor} for each of `names`; a head that the file leaves out is the embedding."""
    found = {name: tensors.get(hf_name(name)) for name in names}
    return {name: (tensors[hf_name("embedding.weight")] if tensor is None else tensor).float()
            for name, tensor in found.items()}  # fmt: skip


def our_names(num_layers):
    """All parameter names of the lab's model."""
    return ["embedding.weight", *(f"layers.{i}.{part}.weight" for i in range(num_layers) for part in INNER),
            "norm.weight", "head.weight"]  # fmt: skip


def load_cases():
    """A small file's tensors in float16 (square matrices, so that a transposed one fits), tied and untied."""
    def tensors(num_layers, tied):
        names = [name for name in our_names(num_layers) if not (tied and name == "head.weight")]
        return {hf_name(name): _randn(*((3,) if "norm" in name else (3, 3)), seed=i).half()
                for i, name in enumerate(names)}  # fmt: skip

    return [(tensors(1, False), our_names(1)), (tensors(2, True), our_names(2))]


def check_load(student_name, student_weights):
    """Names first, then the tensors under them."""
    swapped = INNER | {"norm1": INNER["norm2"], "norm2": INNER["norm1"]}
    against(hf_name, [(name,) for name in [*our_names(1), *our_names(12)[-11:]]], {
        "no_prefix": lambda name: hf_name(name).removeprefix("model."),
        "norms_swapped": lambda name: hf_name(name, swapped),
    })(student_name)
    for tensors, names in load_cases():
        wanted = weights_from_hf(tensors, names)
        try:
            got = call(student_weights, tensors, names)
        except Exception as found:  # a KeyError of the missing head is a mistake of its own
            if "lm_head" in str(found) and "KeyError" in str(found):
                mistake("head_missing")
            raise
        if isinstance(got, dict):
            _name_wrong_tensors(got, wanted)
        expect_close(got, wanted, given=f"{len(tensors)} tensors, {len(names)} names")


def _name_wrong_tensors(got, wanted):
    """The mistakes that show in the tensors."""
    import torch

    if set(wanted) - set(got) == {"head.weight"}:
        mistake("head_missing")
    tensors = [(got[name], want) for name, want in wanted.items() if isinstance(got.get(name), torch.Tensor)]
    matrices = [(a, b) for a, b in tensors if b.ndim == 2 and a.shape == b.shape]
    if matrices and all(torch.equal(a.float(), b.T) for a, b in matrices):
        mistake("transposed")
    expect(all(a.is_floating_point() for a, _ in tensors), "A weight is a tensor of floating-point numbers.")
    if tensors and all(a.dtype == torch.float16 for a, _ in tensors):
        mistake("left_in_half")
    expect(all(a.dtype == torch.float32 for a, _ in tensors), "All weights are to be float32.")


EXERCISES = [
    Exercise(
        id="bpe_merges", title="Byte pair encoding: count, merge, repeat", points=5, minutes=25, difficulty=3,
        hints=(
            "Three small functions. `zip(word, word[1:])` gives the pairs of neighbours of a word; each counts as "
            "often as the word occurs.",
            "In merge, walk with an index i: where word[i:i + 2] == pair, append new_id and go on at i + 2, else "
            "append word[i] and go on at i + 1. Return a tuple.",
            "In train_bpe, for new_id in range(first_id, first_id + num_merges): count the pairs (stop when there are "
            "none); pair = min(counts, key=lambda p: (-counts[p], p)); note the pair; merge it in every word, adding "
            "up the counts of words that become equal.",
        ),
        mistakes={
            "frequency_ignored": "You counted each word once; a pair counts as often as the words that hold it occur.",
            "right_half_kept": "After a merge you went on at the next place; its right half is used up, so skip it.",
            "ties_first_seen": "Among equally frequent pairs you took the one seen first; take the smallest pair.",
            "ties_largest": "Among equally frequent pairs you took the largest; take the smallest pair.",
            "counted_once": "You counted pairs once, at the start; count again after every merge, since merges make "
                            "new pairs.",
        },
        check=check_bpe,
    ),
    Exercise(
        id="attention", title="Causal self-attention", points=4, minutes=20, difficulty=3,
        hints=(
            "A head is a run of D neighbouring features of each token: which reshape keeps them together, and which "
            "swap of axes then brings the heads to the front?",
            "split_heads: x.view(B, T, num_heads, -1).transpose(1, 2). Attention: scores q kᵀ / √D first, then −inf "
            "above the diagonal, then a softmax over the last axis, then times v.",
            "scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5; "
            "future = torch.ones(T, T, dtype=torch.bool).triu(1), with T = q.shape[-2]; "
            "return scores.masked_fill(future, float('-inf')).softmax(-1) @ v.",
        ),
        mistakes={
            "heads_by_view": "You viewed (B, T, C) as (B, H, T, D) at once, which mixes tokens; view as (B, T, H, D), "
                             "then swap the two middle axes.",
            "not_scaled": "You did not divide the scores by √D.",
            "scaled_by_size": "You divided the scores by D; divide by its square root.",
            "masked_after_softmax": "You masked after the softmax: the rows no longer sum to 1. Set the scores to −inf "
                                    "before it.",
            "wrong_axis": "Your softmax runs over the queries; each query's weights over the keys (the last axis) must "
                          "sum to 1.",
        },
        check=check_attention,
        withheld=("ftlab.model.transformer",),
    ),
    Exercise(
        id="rotary", title="Rotary positions", points=3, minutes=15, difficulty=3,
        hints=(
            "angles[t, i] is position t, counted from 0, times the frequency of pair i. The first pair turns by one "
            "radian a token, the last one very slowly.",
            "Frequencies: theta ** (-2 * torch.arange(D // 2) / D). A turn by a takes (u, w) to "
            "(u cos a − w sin a, u sin a + w cos a); here u is the first half of the features, w the second.",
            "u, w = x.chunk(2, dim=-1); cos, sin = angles.cos(), angles.sin(); "
            "return torch.cat([u * cos - w * sin, u * sin + w * cos], dim=-1); and angles = "
            "torch.arange(length)[:, None] * frequencies.",
        ),
        mistakes={
            "exponent": "Your exponent is −i/D; pair i turns at theta ** (−2i/D).",
            "from_one": "Your positions start at 1; the first token stands at position 0.",
            "neighbours_paired": "You paired neighbours (2i, 2i + 1), as the paper does; Llama's code pairs i with "
                                 "i + D/2, and the weights know it.",
            "turned_backwards": "You turned the other way: (u, w) goes to (u cos a − w sin a, u sin a + w cos a).",
        },
        check=check_rotary,
        withheld=("ftlab.model.transformer",),
    ),
    Exercise(
        id="norm_swiglu", title="RMSNorm and SwiGLU", points=3, minutes=10, difficulty=2,
        hints=(
            "RMS: root of the mean of the squares, over the last axis (keepdim=True keeps it there to divide by). No "
            "mean is subtracted.",
            "rms_norm: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight. A weight matrix is kept as "
            "(outputs, inputs), so a layer is x @ matrix.T.",
            "swiglu: only the gate goes through the SiLU, z · sigmoid(z): "
            "return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T; rms_norm as the hint before says.",
        ),
        mistakes={
            "mean_subtracted": "You subtracted the mean: that is LayerNorm. RMSNorm only divides.",
            "sum_not_mean": "You divided by the root of the sum of squares; it is the root of their mean.",
            "no_eps": "You left out eps, which stands under the root and keeps a vector of zeros from becoming NaN.",
            "silu_on_up": "You put the SiLU on the up branch; it belongs on the gate.",
            "sigmoid": "Your gate is a sigmoid (that is GLU); SwiGLU's is SiLU, z · sigmoid(z).",
        },
        check=check_norm,
        withheld=("ftlab.model.transformer",),
    ),
    Exercise(
        id="assemble", title="The block and the whole model", points=3, minutes=10, difficulty=2,
        hints=(
            "The stream x runs through the whole model; each part reads a normed copy of it and adds what it found.",
            "In the block: x = x + attention(norm1(x)), then the same with norm2 and the MLP, from the new x. In the "
            "model: embedding, every layer, the last norm, the head.",
            "Block: x = x + self.attention(self.norm1(x)); return x + self.mlp(self.norm2(x)). Transformer: "
            "x = self.embedding(ids); for layer in self.layers: x = layer(x); return self.head(self.norm(x)).",
        ),
        mistakes={
            "post_norm": "You normed after adding (as the transformer of 2017 does); Llama norms what goes into each "
                         "part and leaves the stream alone.",
            "no_residual": "Your parts replace x; each must add to it.",
            "parallel": "Your MLP reads the x from before attention; it must read what attention has left.",
            "no_final_norm": "You left out the norm before the head.",
        },
        check=check_assemble,
        withheld=("ftlab.model.transformer",),
    ),
    Exercise(
        id="load_weights", title="Weights under other names", points=2, minutes=15, difficulty=2,
        hints=(
            "Print the names of both sides next to each other. Two small dicts do it: one for the three outer parts, "
            "one for the nine parts of a layer.",
            "For a layer: _, index, part = name.removesuffix('.weight').split('.', 2), and the answer is "
            "f'model.layers.{index}.{INNER[part]}.weight'. norm1 comes before attention: input_layernorm.",
            "weights_from_hf: for each name take tensors[hf_name(name)].float(); if there is no 'lm_head.weight' in "
            "tensors, the head is tensors[hf_name('embedding.weight')]. nn.Linear keeps matrices as the file does.",
        ),
        mistakes={
            "no_prefix": "You left out the prefix `model.` that all names but the head's begin with.",
            "norms_swapped": "You swapped the norms: norm1 (before attention) is input_layernorm, norm2 is "
                             "post_attention_layernorm.",
            "head_missing": "The file has no lm_head.weight, since the head is tied: use the embedding's tensor.",
            "transposed": "You transposed the matrices; nn.Linear keeps (outputs, inputs), just as the file does.",
            "left_in_half": "You left the weights in float16; the model computes in float32: use .float().",
        },
        check=check_load,
        withheld=("ftlab.model.hub",),
    ),
]  # fmt: skip
