"""One new token a text, in fewer and larger operations than `Transformer.hidden` takes. Optional and for speed only.

On a CPU a step of a small model is over before Python has asked for the next one: what costs is the number of
operations. Here the norms' weights are folded into the projections behind them, and projections that read the same
input are one product. The readable model stays what it is; a test shows both to give the same logits.
"""

import torch
import torch.nn.functional as F

LOW_RANK = ("LoRALinear", "FastLoRALinear", "FourBitLinear")  # of ftlab.tune, which stands above this module
LARGEST_HIDDEN_SIZE = 1024  # from there on the products themselves cost the time, and the folded copy much memory


def one_token_decoder(model):
    """A OneTokenDecoder of `model`, or None where it would not be the same or no gain: other modules, hooks, a GPU."""
    if next(model.parameters()).device.type != "cpu" or model.config.hidden_size > LARGEST_HIDDEN_SIZE:
        return None
    # A learned prefix is not part of a step: it stands in the cache.
    modules = {name: module for name, module in model.named_modules() if not name.startswith("kv_prefix")}
    linear = [module for name, module in modules.items() if name.endswith(("_proj", "lm_head"))]
    # A LoRALinear's weight is W', its update included; a FourBitLinear's is what its codes stand for.
    plain = all(type(module).__name__ in ("Linear", *LOW_RANK) and module.bias is None for module in linear)
    expected = 7 * model.config.num_layers + 1
    known = {"Transformer", "PrefixedTransformer", "ModuleList", "Block", "SelfAttention", "MLP", "RMSNorm", "Linear",
             "Embedding", "Dropout", "Identity", *LOW_RANK}
    hooked = any(module._forward_hooks or module._forward_pre_hooks or type(module).__name__ not in known
                 for module in modules.values())
    return OneTokenDecoder(model) if plain and not hooked and len(linear) == expected else None


class OneTokenDecoder:
    """The weights of a Transformer, copied once into the form that a single token needs.

    Called with tokens (B,), a KVCache that holds the tokens before, their positions (B,) or None (all stand right
    behind the cache's), and a mask (B, 1, 1, past + 1) or None; returns logits (B, V) and fills the cache.
    """

    @torch.no_grad()
    def __init__(self, model):
        config = self.config = model.config
        self.embedding = model.embed_tokens.weight
        self.layers = [self._fold(layer, config) for layer in model.layers]
        self.head = (model.lm_head.weight * model.norm.weight * config.hidden_size ** 0.5).T.contiguous()
        half = config.head_size // 2
        self.cos, self.sin = model.cos, torch.cat([-model.sin[:, :half], model.sin[:, half:]], dim=1)
        self.eps = torch.tensor((config.hidden_size * config.rms_norm_eps) ** 0.5)

    @staticmethod
    def _fold(layer, config):
        """(queries, keys and values; output; gate and up; down) of a block, each (inputs, outputs)."""
        attention, mlp = layer.self_attn, layer.mlp
        # softmax(q kᵀ / √D): the root stands in q's weights; that of `_normed` and the norms' own weights too
        qkv = torch.cat([attention.q_proj.weight * config.head_size ** -0.5, attention.k_proj.weight,
                         attention.v_proj.weight]) * layer.input_layernorm.weight
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * layer.post_attention_layernorm.weight
        root = config.hidden_size ** 0.5
        return [weight.T.contiguous() for weight in (qkv * root, attention.o_proj.weight, gate_up * root,
                                                     mlp.down_proj.weight)]

    def _normed(self, x):
        """x / √(sum of squares + C · eps): RMSNorm but for a factor √C, which stands in the weights behind it."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.eps)

    @torch.inference_mode()
    def __call__(self, tokens, cache, positions=None, mask=None):
        batch, heads, size = len(tokens), self.config.num_heads, self.config.head_size
        self.config.check_length(cache.length + 1)
        if positions is None:
            cos, sin = self.cos[cache.length], self.sin[cache.length]  # (D,)
        else:
            cos, sin = self.cos[positions, None, None], self.sin[positions, None, None]  # (B, 1, 1, D)
        if mask is not None:
            mask = torch.zeros_like(mask, dtype=self.head.dtype).masked_fill(~mask, float("-inf"))[:, 0]  # (B, 1, T)
            mask = mask.repeat_interleave(heads, 0)  # (B · H, 1, T)
        x = self.embedding.index_select(0, tokens)  # (B, C)
        for index, (qkv, out, gate_up, down) in enumerate(self.layers):
            made = torch.mm(self._normed(x), qkv).view(batch, 3 * heads, 1, size)
            qk = made[:, :2 * heads]
            # rotate(): x · cos + [−second half, first half] · sin; the sign stands in the sine
            qk = torch.addcmul(qk * cos, qk.roll(size // 2, -1), sin)
            k, v = cache.layer(index).extend(qk[:, heads:], made[:, 2 * heads:])  # (B, H, T, D)
            scores = torch.bmm(qk[:, :heads].flatten(0, 1), k.flatten(0, 1).mT)  # (B · H, 1, T)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            x = torch.addmm(x, torch.bmm(weights, v.flatten(0, 1)).view(batch, -1), out)
            gate, up = torch.mm(self._normed(x), gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate).mul_(up), down)
        return torch.mm(self._normed(x), self.head)
