"""The loss of `Transformer` with its gradient written out by hand: the same numbers as `Transformer.loss`, sooner.

Autograd remembers each small operation and goes back through them one by one. Here the chain rule of a whole model
is one function (`Transformer.loss` remains the definition, and the tests hold the two equal):

- a norm's weight goes into the matrix behind it, W' = W · diag(weight), so it costs nothing per token;
- one product for queries, keys and values, one for gate and up;
- rotation as one multiplication of complex numbers: rows of Wq and Wk are reordered so that the two halves of a pair
  stand side by side, which changes no score, as queries and keys are reordered alike;
- what each step writes goes into place, so few tensors are made.

Left out: everything `loss` accepts and `fits` refuses (packed rows, frozen weights, other layers, other devices).
Shapes as in `ftlab.model.transformer`; N = B · T tokens, I intermediate_size.
"""

import torch
import torch.nn.functional as F

from ftlab.model.transformer import is_plain

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_softmax_backward = torch.ops.aten._softmax_backward_data.default
_silu_backward = torch.ops.aten.silu_backward.grad_input
LONGEST_DIRECT = 128  # tokens of a row up to which attention by plain products is quicker than torch's kernel in tiles


def fits(model, batch):
    """Whether `loss` may stand for `model.loss`: the plain model on the CPU, every weight learning, or LoRA alone beside
    its layers; rows not packed."""
    return batch.positions is None and batch.segments is None and serves(model, batch.input_ids)


def serves(model, input_ids):
    """Whether the chain rule written here is that of `model` on rows that are not packed."""
    if (input_ids.device.type != "cpu" or not torch.is_grad_enabled()
            or any(p.dtype != torch.float32 for p in model.parameters())):
        return False
    return is_low_rank(model) or is_plain(model) and all(p.requires_grad for p in model.parameters())


def is_low_rank(model):
    """Whether only LoRA learns (`ftlab.tune.lora`, a floor above), in an else plain model and without dropout.

    Its layers say by `weight` what they do, W' = W + (alpha / r) B A. So the gradient of W' is worked out as for any
    weight, and autograd takes it on to A and B.
    """
    known = {"Transformer", "ModuleList", "Block", "SelfAttention", "MLP", "RMSNorm", "Linear", "Embedding", "Identity",
             "LoRALinear", "FastLoRALinear", "MaskedLoRALinear"}
    layers = [module for module in model.modules() if hasattr(module, "lora_B")]
    return (bool(layers) and not any(layer.merged for layer in layers)
            and all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())
            and all(type(module).__name__ in known and getattr(module, "bias", None) is None
                    and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
                    for module in model.modules()))


def loss(model, batch):
    """`model.loss(batch)` for a model and a batch that `fits` accepts."""
    model.config.check_length(batch.input_ids.shape[1])
    return _Loss.apply(model, batch, model.embed_tokens.weight, model.lm_head.weight, model.norm.weight,
                       *_layer_weights(model))


def hidden(model, input_ids):
    """`model.hidden(input_ids)` (B, T, C), by the chain rule written here where it serves: what reward models, PPO and DPO
    put their own losses on."""
    if not serves(model, input_ids):
        return model.hidden(input_ids)
    model.config.check_length(input_ids.shape[1])
    return _Hidden.apply(model, input_ids, model.embed_tokens.weight, model.norm.weight, *_layer_weights(model))


def _layer_weights(model):
    """Nine weights of each block, in the order in which `block` takes them."""
    weights = []
    for layer in model.layers:
        a, m = layer.self_attn, layer.mlp
        weights += [layer.input_layernorm.weight, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight, a.o_proj.weight,
                    layer.post_attention_layernorm.weight, m.gate_proj.weight, m.up_proj.weight, m.down_proj.weight]
    return weights


class _Loss(torch.autograd.Function):
    """Embedding, blocks, norm, head and cross-entropy, forwards and backwards."""

    @staticmethod
    def forward(ctx, model, batch, embedding, head, weight, *layers):
        ids, config = batch.input_ids, model.config
        shape = Shape(config, *ids.shape, rotation(model, ids.shape[1]))
        x, saved = blocks(embedding[ids.flatten()], layers, shape)  # (N, C)
        rows, targets = wanted(batch.labels, config.causal)
        hidden, scale = normalized(x[rows], shape.eps)  # (n, C), (n, 1)
        hidden_weighted = hidden * weight
        log_p = torch.log_softmax(hidden_weighted @ head.t(), -1)  # (n, V)
        value = -log_p.gather(1, targets[:, None]).mean()
        ctx.shape, ctx.saved, ctx.layers, ctx.tied = shape, saved, layers, head is embedding
        ctx.ends = ids, rows, targets, hidden, scale, hidden_weighted, log_p, head, weight, len(embedding)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        if ctx.ends is None:
            raise RuntimeError("backward through the same loss a second time: what it needs has been overwritten")
        ids, rows, targets, hidden, scale, hidden_weighted, log_p, head, weight, vocabulary = ctx.ends
        ctx.ends = None
        of_embedding, of_head = ctx.needs_input_grad[2:4]  # not of a frozen one
        # d loss / d logits = (softmax − one-hot) / n
        d = log_p.exp_()
        d[torch.arange(len(d)), targets] -= 1
        d.mul_(grad / len(d))
        d_head = d.t() @ hidden_weighted if of_head or ctx.tied and of_embedding else None
        d = d @ head  # (n, C)
        d_weight = (d * hidden).sum(0)
        d = normalized_backward(d.mul_(weight), hidden, scale, None)
        dx = d.new_zeros(ids.numel(), d.shape[1]).index_copy_(0, rows, d)  # (N, C)
        dx, grads = blocks_backward(dx, ctx.layers, ctx.saved, ctx.shape, of_embedding)
        d_embedding = None
        if of_embedding:
            d_embedding = d_head if ctx.tied else dx.new_zeros(vocabulary, dx.shape[1])
            d_embedding.index_add_(0, ids.flatten(), dx)
        return None, None, d_embedding, None if ctx.tied else d_head, d_weight, *grads


class _Hidden(torch.autograd.Function):
    """Embedding, blocks and norm, forwards and backwards."""

    @staticmethod
    def forward(ctx, model, ids, embedding, weight, *layers):
        shape = Shape(model.config, *ids.shape, rotation(model, ids.shape[1]))
        x, saved = blocks(embedding[ids.flatten()], layers, shape)  # (N, C)
        h, scale = normalized(x, shape.eps)
        ctx.shape, ctx.saved, ctx.layers, ctx.ends = shape, saved, layers, (ids, h, scale, weight, len(embedding))
        return (h * weight).view(*ids.shape, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d):
        if ctx.ends is None:
            raise RuntimeError("backward through the same states a second time: what it needs has been overwritten")
        ids, h, scale, weight, vocabulary = ctx.ends
        ctx.ends = None
        d = d.reshape(h.shape)  # (N, C)
        d_weight = (d * h).sum(0)
        dx = normalized_backward(d * weight, h, scale, None)
        of_embedding = ctx.needs_input_grad[2]
        dx, grads = blocks_backward(dx, ctx.layers, ctx.saved, ctx.shape, of_embedding)
        d_embedding = dx.new_zeros(vocabulary, dx.shape[1]).index_add_(0, ids.flatten(), dx) if of_embedding else None
        return None, None, d_embedding, d_weight, *grads


class Shape:
    """The numbers and the rotation that all blocks of a step share."""

    def __init__(self, config, batch, length, turn):
        self.batch, self.length, self.turn = batch, length, turn
        self.heads, self.head_size, self.width = config.num_heads, config.head_size, config.hidden_size
        self.eps, self.causal = config.rms_norm_eps, config.causal
        self.mask = torch.zeros(length, length)
        if config.causal:
            self.mask.fill_(float("-inf")).triu_(1)

    def pairs(self, qkv):
        """(N, 3C), or a part of it -> the same memory of q and k as complex numbers (B, T, C)."""
        qk = qkv.view(self.batch, self.length, -1)[..., :2 * self.width]
        return torch.view_as_complex(qk.unflatten(-1, (self.width, 2)))

    def heads_of(self, qkv):
        """(N, 3C) -> q, k, v, each (B, H, T, D), in the same memory."""
        return qkv.view(self.batch, self.length, 3, self.heads, self.head_size).permute(2, 0, 3, 1, 4).unbind(0)


def rotation(model, length):
    """cos + i·sin for each token and each pair of q and k, (T, C) complex."""
    half, heads = model.config.head_size // 2, model.config.num_heads
    turn = torch.complex(model.cos[:length, :half], model.sin[:length, :half])  # (T, D/2)
    return turn.repeat(1, 2 * heads)  # (T, C): H heads of q, then H of k


def wanted(labels, causal):
    """Rows of the (N, C) hidden states that a label asks of, and these labels: (n,), (n,)."""
    if causal:
        labels = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), -100)], dim=1)
    labels = labels.flatten()
    rows = (labels != -100).nonzero().squeeze(1)
    return rows, labels[rows]


def normalized(x, eps):
    """x / rms(x), without weight, and 1 / rms(x) (N, 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return x * scale, scale


def normalized_backward(d, hidden, scale, residual):
    """Gradient at x of h = x / rms(x), given d at h: (d − h · mean(d · h)) / rms(x), plus `residual`."""
    mean = (d * hidden).mean(-1, keepdim=True)
    d = d.addcmul_(hidden, mean, value=-1)
    return d.mul_(scale) if residual is None else torch.addcmul(residual, d, scale)


def side_by_side(weight, heads):
    """Rows (q_i, …, q_{i+D/2}, …) of each head -> rows (q_i, q_{i+D/2}), …"""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def apart(weight, heads):
    """The way back of `side_by_side`."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def blocks(x, layers, shape):
    """What stands behind all blocks (N, C), and what each one's gradient needs."""
    saved = []
    for i in range(0, len(layers), 9):
        x, kept = block(x, layers[i:i + 9], shape)
        saved.append(kept)
    return x, saved


def blocks_backward(d, layers, saved, shape, at_input=True):
    """Gradients before the first block (N, C; None where nobody asks) and at all weights, given d (N, C) behind the last."""
    grads = []
    for i in reversed(range(len(saved))):
        d, more = block_backward(d, layers[9 * i:9 * i + 9], saved.pop(), shape, i > 0 or at_input)
        grads = more + grads
    return d, grads


def block(x, weights, shape):
    """One block's output (N, C) and what its gradient needs. x: (N, C)."""
    norm1, q, k, v, o, norm2, gate, up, down = weights
    w_qkv = torch.cat([side_by_side(q, shape.heads), side_by_side(k, shape.heads), v]).mul_(norm1)  # (3C, C)
    h1, scale1 = normalized(x, shape.eps)
    qkv = h1 @ w_qkv.t()  # (N, 3C)
    shape.pairs(qkv).mul_(shape.turn)
    y, kept = attention(shape.heads_of(qkv), shape)  # (B, H, T, D)
    flat = y.transpose(1, 2).reshape(-1, shape.width)  # (N, C)
    x = torch.addmm(x, flat, o.t())
    w_gu = torch.cat([gate, up]).mul_(norm2)  # (2I, C)
    h2, scale2 = normalized(x, shape.eps)
    gu = h2 @ w_gu.t()  # (N, 2I)
    g, u = gu.chunk(2, dim=-1)
    s = F.silu(g)
    a = s * u
    return torch.addmm(x, a, down.t()), (w_qkv, h1, scale1, kept, flat, w_gu, h2, scale2, gu, s, a)


def block_backward(d, weights, saved, shape, at_input=True):
    """Gradients at a block's input (N, C; None where nobody asks) and at its nine weights, given d (N, C) at its output."""
    norm1, q, k, v, o, norm2, gate, up, down = weights
    w_qkv, h1, scale1, kept, flat, w_gu, h2, scale2, gu, s, a = saved
    d_down = d.t() @ a
    da = d @ down  # (N, I)
    g, u = gu.chunk(2, dim=-1)
    d_gu = torch.empty_like(gu)
    dg, du = d_gu.chunk(2, dim=-1)
    torch.mul(da, s, out=du)
    _silu_backward(da.mul_(u), g, grad_input=dg)
    d_gate, d_up, d_norm2 = unfold(d_gu.t() @ h2, norm2, gate, up)
    d = normalized_backward(d_gu @ w_gu, h2, scale2, d)
    d_o = d.t() @ flat
    dy = (d @ o).view(shape.batch, shape.length, shape.heads, shape.head_size).transpose(1, 2)
    d_qkv = dy.new_empty(len(d), 3 * shape.width)
    attention_backward(dy, kept, shape.heads_of(d_qkv), shape)
    shape.pairs(d_qkv).mul_(shape.turn.conj())
    rows = side_by_side(q, shape.heads), side_by_side(k, shape.heads), v
    d_q, d_k, d_v, d_norm1 = unfold(d_qkv.t() @ h1, norm1, *rows)
    d = normalized_backward(d_qkv @ w_qkv, h1, scale1, d) if at_input else None
    return d, [d_norm1, apart(d_q, shape.heads), apart(d_k, shape.heads), d_v, d_o, d_norm2, d_gate, d_up, d_down]


def attention(qkv, shape):
    """softmax(q kᵀ / √D + mask) v (B, H, T, D) of q, k, v (B, H, T, D each), and what its gradient needs."""
    if shape.length > LONGEST_DIRECT:
        y, log_sum = _attend(*qkv, is_causal=shape.causal)
        return y, (*qkv, y, log_sum)
    q, k, v = (part.flatten(0, 1) for part in qkv)  # (B · H, T, D)
    scores = torch.baddbmm(shape.mask, q, k.mT, alpha=shape.head_size ** -0.5)  # (B · H, T, T)
    p = scores.softmax(-1)
    return torch.bmm(p, v).view_as(qkv[0]), (q, k, v, p)


def attention_backward(d, kept, places, shape):
    """Write the gradients of q, k and v to `places` (B, H, T, D each), given d (B, H, T, D) at the output."""
    if shape.length > LONGEST_DIRECT:
        q, k, v, y, log_sum = kept
        grads = _attend_backward(d, q, k, v, y, log_sum, 0.0, shape.causal)
    else:
        (q, k, v, p), d = kept, d.flatten(0, 1)
        dv = torch.bmm(p.mT, d)
        ds = _softmax_backward(torch.bmm(d, v.mT), p, -1, p.dtype).mul_(shape.head_size ** -0.5)
        grads = torch.bmm(ds, k), torch.bmm(ds.mT, q), dv
    for grad, place in zip(grads, places, strict=True):
        place.copy_(grad.view(place.shape))


def unfold(d, norm, *matrices):
    """From the gradient of W' = W · diag(norm), matrices stacked: those of each matrix, then that of `norm`."""
    d_norm = torch.zeros_like(norm)
    parts = d.split([len(matrix) for matrix in matrices])
    for part, matrix in zip(parts, matrices, strict=True):
        d_norm += (part * matrix).sum(0)
        part.mul_(norm)
    return *parts, d_norm
