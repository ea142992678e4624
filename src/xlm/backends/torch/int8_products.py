"""Products of int8 weights and what stands around them, by oneDNN: the weights' scales are one an output channel.

Activations become bytes in one of two ways; in both, a row's result does not depend on the others:

    by row          x[t] ≈ scale[t] * (u8[t] - 128)        y[t] = scale[t] * (int32 sum of the products) * weight_scale + bias
    calibrated      x[t, c] ≈ a[c] * (u8[t, c] - zero)     y[t] = (int32 sum of the products) * weight_scale + bias

By row, every row is quantized by its own largest value when it is computed: there is nothing to prepare. Calibrated scales
are fixed (``calibration.py``), and the weights have taken over ``a``. Our own kernels (``ops_compiled.py``) compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from xlm.backends.torch.calibration import Activations

_MIDDLE = 128
"""What stands for zero in unsigned bytes: the integer products take unsigned activations and signed weights."""
_LARGEST = 127
_TINY = torch.finfo(torch.float32).tiny
_IN_PLACE: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    F.gelu: torch.ops.aten.gelu_.default,
    F.relu: torch.relu_,
}
_FUSED: dict[Callable[[Tensor], Tensor], tuple[str, str]] = {F.gelu: ("gelu", "none"), F.relu: ("relu", "")}
"""Activations that oneDNN computes inside a product -> its name and algorithm."""
_NONE: Any = None


class Product(Protocol):
    """A linear layer on int8 weights: rows (t, inputs), float32 or bfloat16, to float32 (t, outputs)."""

    def linear(self, x: Tensor) -> Tensor:
        """The layer."""
        ...

    def linear_act(self, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """The layer and its activation; bytes, where the layer behind reads them."""
        ...

    def linear_add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The layer on top of the residual (t, outputs), float32."""
        ...


Maker = Callable[[Tensor, Tensor, Tensor, Activations | None, Activations | None], Product]
"""Weight (outputs, inputs) int8, its scales (outputs,), bias (outputs,), the fixed scales of what it reads (``None``: row by
row), and those of the layer that reads what its activation function gives."""


class OneDnn:
    """Products of bytes, which are made before."""

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor, reads: Activations | None, gives: Activations | None
    ) -> None:
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self.scale, self.bias, self.reads, self.gives = scale, bias, reads, gives
        self.zeros = torch.zeros(len(scale), dtype=torch.int32)
        self.factor = None if reads is None else reads.scale.reciprocal()[None]

    def _product(
        self,
        rows: Tensor,
        zero: int,
        bias: Tensor,
        post: tuple[str, str] = ("none", ""),
        gives: Activations | None = None,
    ) -> Tensor:
        """The product of bytes, in float32 or, where ``gives`` says how, in the bytes that the next layer reads."""
        step, nought, dtype = 1.0, 0, torch.float32
        if gives is not None and gives.uniform is not None:
            step, nought, dtype = gives.uniform, gives.zero, torch.uint8
        name, algorithm = post
        return torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, zero, self.packed, self.scale, self.zeros, bias, step, nought, dtype, name, [], algorithm
        )

    def _by_row(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Products of the quantized rows, and the rows' scales that they still lack."""
        rows, scale = quantize_rows(x)
        return self._product(rows, _MIDDLE, _NONE), scale

    def linear(self, x: Tensor) -> Tensor:
        if self.reads is not None and self.factor is not None:
            return self._product(_as_bytes(x, self.factor, self.reads.zero), self.reads.zero, self.bias)
        y, scale = self._by_row(x)
        return torch.addcmul(self.bias, y, scale, out=y)

    def linear_act(self, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        if self.reads is None or self.factor is None or act not in _FUSED:
            return _IN_PLACE.get(act, act)(self.linear(x))
        rows = _as_bytes(x, self.factor, self.reads.zero)
        return self._product(rows, self.reads.zero, self.bias, _FUSED[act], self.gives)

    def linear_add(self, x: Tensor, residual: Tensor) -> Tensor:
        if self.reads is not None and self.factor is not None:
            rows, zero = _as_bytes(x, self.factor, self.reads.zero), self.reads.zero
            return torch.ops.onednn.qlinear_pointwise.binary(
                rows, 1.0, zero, self.packed, self.scale, self.zeros, residual, self.bias, 1.0, 0, torch.float32,
                1.0, 0, "add", 1.0, "none", [], "",
            )  # fmt: skip
        y, scale = self._by_row(x)
        return torch.addcmul(residual, y, scale, out=y).add_(self.bias)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (t, n) as unsigned bytes around 128, and each row's scale (t, 1): ``x ≈ scale * (bytes - 128)``."""
    scale = _largest(x).mul_(1 / _LARGEST)
    signed = torch.mul(x, scale.reciprocal()).round_().to(torch.int8)
    # Flipping the highest bit adds 128: much faster than PyTorch's conversion to unsigned bytes.
    return signed.bitwise_xor_(-_MIDDLE).view(torch.uint8), scale


def _largest(x: Tensor) -> Tensor:
    """The largest absolute value of every row, (t, 1) float32, never 0.

    Of all ways to say it (``aminmax``, the maximum norm) this is the one whose kernels are vectorised.
    """
    return torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_()).float().clamp_min_(_TINY)


def _as_bytes(x: Tensor, factor: Tensor, zero: int) -> Tensor:
    """Rows as bytes by fixed scales (1, inputs); what lies outside the range becomes its end. Bytes stay as they are."""
    if x.dtype == torch.uint8:
        return x
    signed = torch.mul(x, factor).round_().clamp_(-zero, 255 - zero)
    if zero != _MIDDLE:
        signed.add_(zero - _MIDDLE)
    return signed.to(torch.int8).bitwise_xor_(-_MIDDLE).view(torch.uint8)
