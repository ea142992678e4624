"""The table of operations for int8 weights on CPUs with integer products (VNNI): 8-bit activations, 32-bit sums.

Weights have one scale an output channel. Activations become bytes in one of two ways; in both, a row's result does not
depend on the others:

    by row          x[t] ≈ scale[t] * (u8[t] - 128)        y[t] = scale[t] * (int32 sum of the products) * weight_scale + bias
    calibrated      x[t, c] ≈ a[c] * (u8[t, c] - zero)     y[t] = (int32 sum of the products) * weight_scale + bias

By row, every row is quantized by its own largest value when it is computed: there is nothing to prepare. Calibrated scales
are fixed (``calibration.py``), and the weights have taken over ``a``: so activation function and residual are computed inside
the product, and the product before a feed-forward's second layer gives that layer's bytes.

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

from xlm.backends.torch.calibration import Activations
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
_FUSED: dict[Callable[[Tensor], Tensor], tuple[str, str]] = {F.gelu: ("gelu", "none"), F.relu: ("relu", "")}
"""Activations that oneDNN computes inside a product -> its name and algorithm."""
_NONE: Any = None


@dataclass(frozen=True)
class _Weight:
    packed: Tensor
    scale: Tensor
    """(outputs,) float32."""
    zero: Tensor
    bias: Tensor
    """(outputs,) float32."""
    reads: _Bytes | None = None
    """The fixed scales of its inputs; ``None``: row by row."""
    gives: Activations | None = None
    """The one scale of the bytes that the layer behind its activation function reads."""


@dataclass(frozen=True)
class _Bytes:
    """Fixed scales, as they are used."""

    factor: Tensor
    """(1, inputs) float32: one over the scales."""
    zero: int

    def of(self, x: Tensor) -> Tensor:
        """Rows as bytes; what lies outside the range becomes its end. Bytes stay as they are."""
        if x.dtype == torch.uint8:
            return x
        low, high = -self.zero, 255 - self.zero
        signed = torch.mul(x, self.factor).round_().clamp_(low, high)
        if self.zero == _MIDDLE:
            return signed.to(torch.int8).bitwise_xor_(-_MIDDLE).view(torch.uint8)
        return signed.add_(self.zero - _MIDDLE).to(torch.int8).bitwise_xor_(-_MIDDLE).view(torch.uint8)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (t, n) as unsigned bytes around 128, and each row's scale (t, 1): ``x ≈ scale * (bytes - 128)``."""
    largest = torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_()).float()
    scale = largest.clamp_min_(torch.finfo(torch.float32).tiny).mul_(1 / 127)
    signed = torch.mul(x, scale.reciprocal()).round_().to(torch.int8)
    # Flipping the highest bit adds 128: much faster than PyTorch's conversion to unsigned bytes.
    return signed.bitwise_xor_(-_MIDDLE).view(torch.uint8), scale


class Int8(Operations):
    """Linear layers on 8-bit integers; what stands between them is float32, or bytes where their scales are fixed."""

    def __init__(self, bf16_attention: bool) -> None:
        self._weights: dict[nn.Module, _Weight] = {}
        self._bf16_attention = bf16_attention
        self._others = Widening()

    def pack(
        self, modules: Sequence[nn.Linear], reads: Activations | None = None, gives: Activations | None = None
    ) -> None:
        """Take over the int8 weights of layers that read the same rows, as one matrix.

        Each has a weight (outputs, inputs) of int8 and ``weight_scale`` (outputs,), as ``quantize_linear`` leaves them.

        Args:
            reads: the fixed scales of the rows, which the weights have taken over; ``None``: every row has its own.
            gives: those of the layer that reads what this one's activation function gives.
        """
        weight = torch.cat([m.weight.detach() for m in modules])
        scale = torch.cat([m.weight_scale for m in modules])  # type: ignore[arg-type]
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        inputs = None if reads is None else _Bytes(reads.scale.reciprocal()[None], reads.zero)
        zeros = torch.zeros(len(scale), dtype=torch.int32)
        self._weights[modules[0]] = _Weight(packed, scale, zeros, torch.zeros(len(scale)), inputs, gives)
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

    def _by_row(self, weight: _Weight, x: Tensor) -> tuple[Tensor, Tensor]:
        """Products of the quantized rows, and the rows' scales that they still lack."""
        rows, scale = quantize_rows(x)
        return _product(weight, rows, _MIDDLE, _NONE), scale

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        weight = self._weights.get(module)
        if weight is None:
            return self._others.linear(module, x)
        if weight.reads is not None:
            return _product(weight, weight.reads.of(x), weight.reads.zero, weight.bias)
        y, scale = self._by_row(weight, x)
        return torch.addcmul(weight.bias, y, scale, out=y)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        weight = self._weights.get(module)
        if weight is None or weight.reads is None or act not in _FUSED:
            return _IN_PLACE.get(act, act)(self.linear(module, x))
        return _product(weight, weight.reads.of(x), weight.reads.zero, weight.bias, *_FUSED[act], gives=weight.gives)

    def linear_add(self, module: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        weight = self._weights.get(module)
        if weight is None:
            return super().linear_add(module, x, residual, dropout)
        if weight.reads is not None:
            rows, zero = weight.reads.of(x), weight.reads.zero
            return torch.ops.onednn.qlinear_pointwise.binary(
                rows, 1.0, zero, weight.packed, weight.scale, weight.zero, residual, weight.bias, 1.0, 0, torch.float32,
                1.0, 0, "add", 1.0, "none", [], "",
            )  # fmt: skip
        y, scale = self._by_row(weight, x)
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
        return attention_by_products(q, k, v, heads, layout)


def _product(
    weight: _Weight,
    rows: Tensor,
    zero: int,
    bias: Tensor,
    post: str = "none",
    algorithm: str = "",
    gives: Activations | None = None,
) -> Tensor:
    """The product of bytes, in float32 or, where ``gives`` says how, in the bytes that the next layer reads."""
    step, nought, dtype = 1.0, 0, torch.float32
    if gives is not None and gives.uniform is not None:
        step, nought, dtype = gives.uniform, gives.zero, torch.uint8
    return torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, zero, weight.packed, weight.scale, weight.zero, bias, step, nought, dtype, post, [], algorithm
    )
