"""The transformer of the Llama family in plain PyTorch, made to be read from top to bottom.

Embedding, then `num_layers` blocks (RMSNorm, self-attention with rotary positions, RMSNorm, SwiGLU), RMSNorm, head.
Module names are those of `transformers.LlamaForCausalLM`, so weights go to and fro (`ftlab.model.hub`).
With `causal=False` the same body sees both sides and is trained on masked tokens: the BERT contrast of Lab 01.

Left out, to stay short: grouped-query attention, rotary scaling, dropout, mixed precision, tensor parallelism.
Shapes: B batch, T tokens, C hidden_size, H num_heads, D head_size = C / H, V vocab_size.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class ModelConfig:
    """The numbers that fix a model's shape. `causal=False` makes the bidirectional body of a masked language model."""

    vocab_size: int
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    intermediate_size: int = 344
    max_position_embeddings: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    causal: bool = True
    tie_word_embeddings: bool = True

    @property
    def head_size(self):
        """Width D of one attention head."""
        return self.hidden_size // self.num_heads

    def check_length(self, tokens):
        """Raises ValueError where there is no position for so many tokens."""
        if tokens > self.max_position_embeddings:
            raise ValueError(f"{tokens} tokens, but the model was made for {self.max_position_embeddings} "
                             "(max_position_embeddings)")


class RMSNorm(nn.Module):
    """x / rms(x) · weight, with rms over the last axis (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rotary_tables(config, length, device=None):
    """cos and sin of the angle position · theta^(−2i/D), each (length, D) (Su et al. 2021, eq. 15).

    The D/2 angles stand twice side by side, since `rotate` pairs dimension i with i + D/2, as Llama's code does.
    """
    half = torch.arange(0, config.head_size, 2, device=device).float() / config.head_size
    angles = torch.arange(length, device=device).float()[:, None] / config.rope_theta ** half  # (T, D/2)
    angles = torch.cat([angles, angles], dim=-1)  # (T, D)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Turn each pair (x_i, x_{i+D/2}) of x (B, H, T, D) by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class SelfAttention(nn.Module):
    """Multi-head self-attention, softmax(q kᵀ / √D + mask) v (Vaswani et al. 2017, eq. 1), with rotary positions."""

    def __init__(self, config):
        super().__init__()
        self.num_heads, self.head_size = config.num_heads, config.head_size
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size, bias=False))

    def split(self, x):
        """(B, T, C) -> (B, H, T, D)"""
        return x.view(*x.shape[:2], self.num_heads, self.head_size).transpose(1, 2)

    def forward(self, x, cos, sin, mask, is_causal, cache=None):
        q, k, v = self.split(self.q_proj(x)), self.split(self.k_proj(x)), self.split(self.v_proj(x))  # (B, H, T, D)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, H, past + T, D)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)  # (B, H, T, D)
        return self.o_proj(y.transpose(1, 2).flatten(2))  # (B, T, C)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer 2020, eq. 6)."""

    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin, mask, is_causal, cache=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, is_causal, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """The whole model. `forward` gives logits, `loss` the mean cross-entropy that training minimises."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(self._init_weights)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        cos, sin = rotary_tables(config, config.max_position_embeddings)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)

    def hidden(self, input_ids, positions=None, segments=None, cache=None, mask=None):
        """Last hidden state (B, T, C) of input_ids (B, T).

        positions (B, T): position of each token, by default 0 … T−1 (after the cache's tokens, if there is one).
        segments (B, T): with several documents packed in a row, tokens see only those of their own segment.
        mask (B, 1, T, past + T), True where attention is allowed: replaces the mask built here.
        """
        batch, length = input_ids.shape
        past = cache.length if cache is not None else 0
        self.config.check_length(past + length)
        if positions is None:
            cos, sin = self.cos[past:past + length], self.sin[past:past + length]  # (T, D)
        else:
            cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)  # (B, 1, T, D)
        if segments is not None:
            mask = segment_mask(segments, self.config.causal)
        # One new token after a cache sees everything before it, which needs no mask at all.
        is_causal = self.config.causal and mask is None and length > 1
        if is_causal and past:
            mask, is_causal = torch.ones(length, past + length, dtype=torch.bool, device=input_ids.device).tril(past), False
        x = self.embed_tokens(input_ids)  # (B, T, C)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, mask, is_causal, cache.layer(index) if cache is not None else None)
        return self.norm(x)

    def forward(self, input_ids, positions=None, segments=None, cache=None, mask=None):
        """Logits (B, T, V): row t scores the token after position t (with causal=False: the token at t)."""
        return self.lm_head(self.hidden(input_ids, positions, segments, cache, mask))

    def loss(self, batch):
        """Mean cross-entropy in nats over the labels of a `Batch` that are not −100.

        Labels stand beside their own tokens, as in Hugging Face; a causal model predicts label t from position t − 1.
        Logits are computed only where a label asks for one.
        """
        x, labels = self.hidden(batch.input_ids, batch.positions, batch.segments), batch.labels
        if self.config.causal:
            x, labels = x[:, :-1], labels[:, 1:]
        wanted = labels != -100
        return F.cross_entropy(self.lm_head(x[wanted]), labels[wanted])

    @torch.no_grad()
    def attention_maps(self, input_ids):
        """For each layer the attention weights (B, H, T, T): row t shows where token t looks. Slow and plain."""
        length = input_ids.shape[1]
        x, maps = self.embed_tokens(input_ids), []
        cos, sin = self.cos[:length], self.sin[:length]
        for layer in self.layers:
            h, attention = layer.input_layernorm(x), layer.self_attn
            q, k = (rotate(attention.split(p(h)), cos, sin) for p in (attention.q_proj, attention.k_proj))
            scores = q @ k.transpose(-1, -2) / attention.head_size ** 0.5
            if self.config.causal:
                future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
                scores = scores.masked_fill(future, float("-inf"))
            maps.append(scores.softmax(-1))
            x = layer(x, cos, sin, None, self.config.causal)
        return maps

    def num_parameters(self, trainable=False):
        """Number of parameters, a shared one counted once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)


def segment_mask(segments, causal=True):
    """(B, T) segment numbers -> (B, 1, T, T) mask, True where row's token may see column's: same segment, not later."""
    same = segments[:, :, None] == segments[:, None, :]
    return (same.tril() if causal else same).unsqueeze(1)


def is_plain(model):
    """Whether a model is made of the classes of this module alone, without biases or hooks: then a quicker way
    to the same numbers (`ftlab.model.backprop`) may stand for it."""
    known = {Transformer, nn.ModuleList, Block, SelfAttention, MLP, RMSNorm, nn.Linear, nn.Embedding}
    return all(type(module) in known and getattr(module, "bias", None) is None and not module._forward_hooks
               and not module._forward_pre_hooks and not module._backward_hooks for module in model.modules())
