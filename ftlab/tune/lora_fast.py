"""The same LoRA in fewer operations. Optional and for speed only: `ftlab.tune.lora` is the one to read.

For models of transformers; our Transformer trains by `ftlab.model.backprop`, which knows LoRA, without asking.

The layer multiplies by W' = W + (alpha / r) B A, put together anew at each step, which costs as much as r tokens would;
so the forward pass is that of the base. Backwards, the chain rule through W' without ever forming its gradient:

    dx = dy W'      dA = s (dy B)ᵀ x      dB = s dyᵀ (x Aᵀ)          s = alpha / r

Dropout acts on x in one of the two branches only, which W' cannot express: with dropout, in training, the readable layer
runs, and so it does under autocast. W' is kept until the backward pass, so one more copy of the chosen matrices is in
memory then.
"""

import torch
import torch.nn.functional as F

from ftlab.errors import UsageError
from ftlab.tune.lora import LoRALinear, is_conv1d, layers


class _MergedProduct(torch.autograd.Function):
    """x (T, k), W (n, k), bias (n,) or None, A (r, k), B (n, r) -> x W'ᵀ + bias (T, n); gradients for x, A, B."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):
        merged = torch.addmm(weight, b, a, alpha=scale)  # (n, k)
        ctx.save_for_backward(x, merged, a, b)
        ctx.scale = scale
        return F.linear(x, merged, bias)

    @staticmethod
    def backward(ctx, dy):
        x, merged, a, b = ctx.saved_tensors
        dx = torch.mm(dy, merged) if ctx.needs_input_grad[0] else None
        da = torch.mm(torch.mm(dy, b).mul_(ctx.scale).T, x)  # (r, k)
        db = torch.mm(dy.T, torch.mm(x, a.T).mul_(ctx.scale))  # (n, r)
        return dx, None, None, da, db, None


class FastLoRALinear(LoRALinear):
    """A LoRALinear whose forward pass is one product with W'."""

    def forward(self, x):
        if self.merged or self.training and hasattr(self.dropout, "p") or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        weight = self.base.weight.T if is_conv1d(self.base) else self.base.weight
        y = _MergedProduct.apply(x.reshape(-1, x.shape[-1]), weight, self.bias, self.lora_A, self.lora_B, self.scale)
        return y.view(*x.shape[:-1], y.shape[-1])


def make_fast(model):
    """Let every LoRA layer of `model` run by one product; returns the model. Parameters and files stay the same."""
    for name, layer in layers(model).items():
        if layer.base.weight.shape != layer.weight.shape or layer.base.weight.requires_grad:
            raise UsageError(f"{name}: only a frozen base that is not quantised can be multiplied by its merged weight")
        layer.__class__ = FastLoRALinear
    return model


def make_readable(model):
    """Undo `make_fast`; returns the model."""
    for layer in layers(model).values():
        layer.__class__ = LoRALinear
    return model
