"""QLoRA by hand: a frozen base in 4 bits, and a LoRA in full precision that learns beside it (Dettmers et al. 2023).

    h = dequantise(codes, scales) x + (alpha / r) · B A x          (equation 5; only A and B learn)

A weight exists as a matrix only while it is used: `FrozenProduct` makes it, multiplies and lets it go, forwards and again
backwards. What stays in memory is a little over half a byte a weight. The saved adapter is a LoRA like any other.
With library=True the frozen layers are `bitsandbytes.nn.Linear4bit`. Left out: paged optimizers, offloading.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from ftlab import profile
from ftlab.errors import UsageError
from ftlab.tune import lora, nf4


class FrozenProduct(torch.autograd.Function):
    """x Wᵀ for a weight that is made anew each time. Plain autograd would keep W, whole, until the backward pass."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return F.linear(x, layer.dequantise().to(x.dtype))

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.layer.dequantise().to(grad.dtype), None  # to x; the codes learn nothing


class FourBitLinear(nn.Module):
    """A frozen linear layer (k -> n) whose weight is codes, two a byte, and scales. Its weights take about 0.52 bytes each.

    linear: an `nn.Linear` or GPT-2's `Conv1D`, which is read and not kept. quant_type: "nf4", "fp4" or "int4".
    block_size: weights that share a scale. double_quant: whether the scales are quantised, too.
    """

    def __init__(self, linear, quant_type="nf4", block_size=nf4.BLOCK, double_quant=True):
        super().__init__()
        self.in_features, self.out_features = lora.sizes(linear)
        self.dtype = linear.weight.dtype  # what the model computes in, and `unquantise` gives back
        self.quant_type, self.block_size, self.double_quant = quant_type, block_size, double_quant
        weight = (linear.weight.T if lora.is_conv1d(linear) else linear.weight).detach()  # (n, k)
        codes, scales = nf4.quantise(weight, nf4.codebook(quant_type).to(weight.device), block_size)
        self.packed = nn.Parameter(nf4.pack(codes), requires_grad=False)  # (n k / 2,) bytes
        if double_quant:
            scales, outer, offset = nf4.double_quantise(scales)
            self.register_buffer("scale_scales", outer)
            self.register_buffer("scale_offset", offset)
        self.register_buffer("scales", scales)  # bytes where double_quant, else float32
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.register_buffer("pairs", _pairs(nf4.codebook(quant_type)).to(weight.device), persistent=False)  # (256, 2)

    def dequantise(self):
        """The weight that the codes stand for: (n, k), float32."""
        scales = self.scales
        if self.double_quant:
            scales = nf4.undo_double(scales, self.scale_scales, self.scale_offset)
        values = F.embedding(self.packed.int(), self.pairs)  # (n k / 2, 2)
        count, size = self.out_features * self.in_features, self.block_size
        if count % size:
            values = nf4.in_blocks(values.view(-1)[:count], size)
        values = values.view(-1, size).mul_(scales[:, None])
        return values.view(-1)[:count].view(self.out_features, self.in_features)

    def forward(self, x):
        y = FrozenProduct.apply(x, self)
        return y if self.bias is None else y + self.bias

    @property
    def weight(self):
        """`dequantise()`: to read. It cannot be changed, so nothing can be merged into it."""
        return self.dequantise()

    @weight.setter
    def weight(self, value):
        raise UsageError("this layer's weights are 4-bit codes and nothing can be added to them: `qlora.unquantise` "
                         "makes the model's weights numbers again, then merge")

    def bytes(self):
        """Bytes that the weight takes, scales and all."""
        tensors = [self.packed, self.scales] + ([self.scale_scales, self.scale_offset] if self.double_quant else [])
        return sum(t.numel() * t.element_size() for t in tensors)


def _pairs(book):
    """(256, 2): the two values that each byte stands for; codes that the book has not, as in int4, are never used."""
    full = torch.cat([book, book.new_zeros(16 - len(book))])
    return torch.stack([full.repeat_interleave(16), full.repeat(16)], dim=1)


def attach_qlora(model, r=8, lora_alpha=16, lora_dropout=0.0, target_modules=lora.ALL_LINEAR, quant_type="nf4",
                 block_size=nf4.BLOCK, double_quant=True, library=None):
    """Quantise every linear layer of `model` but the head, and put LoRA beside those of `target_modules`; in place.

    r, lora_alpha, lora_dropout, target_modules: as in `lora.attach_lora`. quant_type, block_size, double_quant: as in
    `FourBitLinear`. library: whether the frozen layers are those of bitsandbytes; None: on a GPU, where it can. Raises
    UsageError.
    """
    if lora.layers(model):
        raise UsageError("this model has a LoRA already: merge it or detach it first")
    lora.check_numbers(r, lora_alpha, lora_dropout)
    lora.targets(model, target_modules)  # says what is wrong while the model is still whole
    if library is None:
        library = library_serves(model, quant_type, block_size)
    quantise(model, quant_type, block_size, double_quant, library)
    return lora.attach_lora(model, r, lora_alpha, lora_dropout, target_modules)


def quantise(model, quant_type="nf4", block_size=nf4.BLOCK, double_quant=True, library=False):
    """Every linear layer but the head becomes a frozen 4-bit one; embeddings, norms and head stay. Returns the model."""
    if not (isinstance(block_size, int) and block_size >= 2 and block_size % 2 == 0):
        raise UsageError(f"block_size is {block_size!r}; it must be an even whole number, at least 2 (such as 64)")
    nf4.codebook(quant_type)  # says so where there is none of that name
    for name in lora.targets(model):
        linear = model.get_submodule(name)
        if not is_quantised(linear):
            make = library_layer if library else FourBitLinear
            lora._replace(model, name, make(linear, quant_type, block_size, double_quant))
    return model


def is_quantised(module):
    """Whether a linear layer's weight is held in 4 bits, by us or by bitsandbytes."""
    return isinstance(module, FourBitLinear) or type(module).__name__ == "Linear4bit"


def unquantise(model):
    """Each 4-bit layer becomes a linear layer with the weights that its codes stand for; returns the model.

    A LoRA on it stays, and can now be merged: into the rounded weights, beside which it was trained.
    """
    for name, layer in list(model.named_modules()):
        if is_quantised(layer):
            weight = layer.dequantise().to(layer.dtype) if isinstance(layer, FourBitLinear) else _library_weight(layer)
            linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
            linear.weight = nn.Parameter(weight, requires_grad=False)
            if layer.bias is not None:
                linear.bias = nn.Parameter(layer.bias.clone(), requires_grad=False)
            lora._replace(model, name, linear)
    return model


def library_serves(model, quant_type="nf4", block_size=nf4.BLOCK):
    """Whether bitsandbytes' layers are to be taken: the weights lie on a GPU, it takes the format, and it is there and
    knows that GPU's CUDA (`ftlab doctor` says where it does not)."""
    if not next(model.parameters()).is_cuda or quant_type not in ("nf4", "fp4") or block_size != 64:
        return False
    try:
        from bitsandbytes.cextension import lib
    except (ImportError, OSError, RuntimeError):
        return False
    return bool(getattr(lib, "compiled_with_cuda", False))


def keep_precision(model):
    """Let every layer of bitsandbytes in `model` compute on a CPU in the type of its input, whatever the processor.

    On one with AVX-512-BF16 such a layer, in evaluation and without a gradient, would change for good: weights in another
    layout, scales rounded to bfloat16, a product in bfloat16 that no gradient passes. Returns the model.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # bitsandbytes looks at it in each forward pass
    return model


def _library_weight(layer):
    """The weight that a layer of bitsandbytes stands for: (n, k), float32."""
    import bitsandbytes.functional as functional

    packed, state = layer.weight.data, layer.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):  # see keep_precision; `dequantize_4bit` would misread it
        scales = state.absmax.T.reshape(-1).float()  # they lie there by columns
        state = copy.copy(state)
        state.original_nested = False
        packed, state = functional._convert_weight_packed_for_cpu_inverse(packed, state)
        state.absmax, state.dtype = scales, torch.float32
    return functional.dequantize_4bit(packed, state).float()


def library_layer(linear, quant_type, block_size, double_quant):
    """The same layer by bitsandbytes, which takes blocks of 64 and no int4."""
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise UsageError("bitsandbytes is not installed: install it, or leave library=True away") from error
    if quant_type not in ("nf4", "fp4") or block_size != 64:
        raise UsageError("bitsandbytes' layer takes nf4 or fp4 in blocks of 64")
    k, n = lora.sizes(linear)
    weight = (linear.weight.T if lora.is_conv1d(linear) else linear.weight).detach().contiguous()
    if weight.device.type == "cpu" and k % block_size:
        raise UsageError(f"bitsandbytes misreads rows of {k} weights on the CPU, where rows must be whole blocks of "
                         f"{block_size}: leave library=True away")
    low = weight.is_cuda and profile.current().dtype == "bfloat16"
    layer = bnb.nn.Linear4bit(k, n, bias=linear.bias is not None, compute_dtype=torch.bfloat16 if low else weight.dtype,
                              quant_type=quant_type, compress_statistics=double_quant, device="meta")
    layer.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, compress_statistics=double_quant,
                                     quant_type=quant_type, blocksize=block_size, module=layer)
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    return keep_precision(layer.to(weight.device))  # which quantises


def weight_bytes(model):
    """{"linear": bytes of the linear layers but the head, "other": bytes of all else, LoRA aside}."""
    linear, counted = 0, set()
    for name in lora.targets(model):
        layer = model.get_submodule(name)
        base = getattr(layer, "base", layer)
        counted |= {id(p) for p in base.parameters()}
        linear += base.bytes() if isinstance(base, FourBitLinear) else _library_bytes(base)
    learned = {id(p) for layer in lora.layers(model).values() for p in (layer.lora_A, layer.lora_B)}
    other = sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in counted | learned)
    return {"linear": linear, "other": other}


def _library_bytes(base):
    total = base.weight.numel() * base.weight.element_size()
    state = getattr(base, "quant_state", None)
    if state is not None:
        total += state.absmax.numel() * state.absmax.element_size()
        total += state.state2.absmax.numel() * 4 + 4 if state.nested else 0
    return total


adapter_state, load_adapter_state = lora.adapter_state, lora.load_adapter_state


def adapter_config(model):
    """That of `lora.adapter_config`: PEFT's file says nothing of the precision of the base."""
    return lora.adapter_config(model)
