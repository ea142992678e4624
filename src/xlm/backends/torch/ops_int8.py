"""The table of operations for int8 weights on CPUs with integer products (VNNI): 8-bit activations, 32-bit sums.

Weights have one scale an output channel. Every row of activations is quantized by itself when it is computed, by its own
largest value, so there is nothing to calibrate and a row's result does not depend on the others:

    x[t] ≈ scale[t] * (u8[t] - 128)        y[t] = scale[t] * (int32 sum of the products) * weight_scale + bias

States between the products, the softmax, norms and residuals are float32. Where the processor multiplies bfloat16, queries,
keys and values are rounded to it for attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.ops import Operations
from xlm.backends.torch.ops_packed import attention_by_products
from xlm.backends.torch.ops_widening import Widening

_MIDDLE = 128
"""What stands for zero in unsigned bytes: the integer products take unsigned activations and signed weights."""
_IN_PLACE: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    F.gelu: torch.ops.aten.gelu_.default,
    F.relu: torch.relu_,
}


@dataclass(frozen=True)
class _Weight:
    packed: Tensor
    scale: Tensor
    """(outputs,) float32."""
    zero: Tensor
    bias: Tensor
    """(outputs,) float32."""


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (t, n) as unsigned bytes around 128, and each row's scale (t, 1): ``x ≈ scale * (bytes - 128)``."""
    largest = torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_()).float()
    scale = largest.clamp_min_(torch.finfo(torch.float32).tiny).mul_(1 / 127)
    signed = torch.mul(x, scale.reciprocal()).round_().to(torch.int8)
    # Flipping the highest bit adds 128: much faster than PyTorch's conversion to unsigned bytes.
    return signed.bitwise_xor_(-_MIDDLE).view(torch.uint8), scale


class Int8(Operations):
    """Linear layers on 8-bit integers; everything between them in float32."""

    def __init__(self, bf16_attention: bool) -> None:
        self._weights: dict[nn.Module, _Weight] = {}
        self._bf16_attention = bf16_attention
        self._others = Widening()

    def pack(self, modules: Sequence[nn.Linear]) -> None:
        """Take over the int8 weights of layers that read the same rows, as one matrix.

        Each has a weight (outputs, inputs) of int8 and ``weight_scale`` (outputs,), as ``quantize_linear`` leaves them.
        """
        weight = torch.cat([m.weight.detach() for m in modules])
        scale = torch.cat([m.weight_scale for m in modules])  # type: ignore[arg-type]
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        bias = torch.zeros(len(scale))
        self._weights[modules[0]] = _Weight(packed, scale, torch.zeros(len(scale), dtype=torch.int32), bias)
        for module in modules:
            module.weight = nn.Parameter(torch.empty(0, dtype=torch.int8), requires_grad=False)
            del module.weight_scale

    def take_biases(self, modules: Sequence[nn.Linear]) -> None:
        """Copy the layers' biases, once they are read."""
        offset, bias = 0, self._weights[modules[0]].bias
        for module in modules:
            if module.bias is not None:
                bias[offset : offset + module.out_features] = module.bias.detach()
            offset += module.out_features

    def enter(self, x: Tensor) -> Tensor:
        return x.float()

    def _products(self, weight: _Weight, x: Tensor) -> tuple[Tensor, Tensor]:
        """Products of the quantized rows, and the rows' scales that they still lack."""
        rows, scale = quantize_rows(x)
        none: Any = None
        y = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, _MIDDLE, weight.packed, weight.scale, weight.zero, none, 1.0, 0, torch.float32, "none", [], ""
        )
        return y, scale

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        weight = self._weights.get(module)
        if weight is None:
            return self._others.linear(module, x)
        y, scale = self._products(weight, x)
        return torch.addcmul(weight.bias, y, scale, out=y)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        return _IN_PLACE.get(act, act)(self.linear(module, x))

    def linear_add(self, module: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        weight = self._weights.get(module)
        if weight is None:
            return super().linear_add(module, x, residual, dropout)
        y, scale = self._products(weight, x)
        return torch.addcmul(residual, y, scale, out=y).add_(weight.bias)

    def linear_add_norm(
        self, module: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module
    ) -> Tensor:
        return self.norm(norm, self.linear_add(module, x, residual, dropout))

    def qkv(self, query: nn.Module, key: nn.Module, value: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if query not in self._weights or key in self._weights:
            return super().qkv(query, key, value, x)
        q, k, v = self.linear(query, x).chunk(3, dim=1)
        return q, k, v

    def ragged_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged, dropout: float) -> Tensor:
        if dropout or not self._bf16_attention:
            return super().ragged_attention(q, k, v, heads, layout, dropout)
        return attention_by_products(q.bfloat16(), k.bfloat16(), v.bfloat16(), heads, layout)
