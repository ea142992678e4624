"""Tables of operations for inference on CPUs: what the weights are stored in, and what this processor computes fastest.

    stored     processor                 computed by
    float32    AVX-512                   oneDNN with weights packed once, activation fused
    float32    others                    PyTorch (its BLAS is as fast there)
    bfloat16   AVX-512 BF16, AMX         oneDNN bfloat16 with weights packed once
    bfloat16   others                    weights widened to float32 block by block, float32 products and states
    int8       any                       weights widened block by block, scaled per output channel, float32 states

Packing takes over a layer's weight: a packed model computes, but cannot be trained or saved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlm.backends.torch.ops import Operations

_BLOCK = 1 << 22
"""Weights widened at a time: 16 MB of float32 stay in the outer cache."""


@cache
def has_avx512() -> bool:
    """Whether PyTorch computes with 512-bit vectors here."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@cache
def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in checks if hasattr(torch.cpu, name))


class Widening(Operations):
    """Weights in bfloat16 or int8, states and products in float32.

    A weight is widened block by block into one buffer that all layers share, so nothing but that buffer is added to the
    memory of the stored weights.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def enter(self, x: Tensor) -> Tensor:
        return x.float()

    def norm(self, module: nn.Module, x: Tensor) -> Tensor:
        if not isinstance(module, nn.LayerNorm):
            return module(x)
        return F.layer_norm(x, module.normalized_shape, module.weight.to(x.dtype), module.bias.to(x.dtype), module.eps)

    def add_norm(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        return self.norm(module, x + residual)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        return act(self.linear(module, x))

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        if type(module) is not nn.Linear or module.weight.dtype == x.dtype:
            return module(x)
        weight, bias = module.weight, module.bias
        scale = getattr(module, "weight_scale", None)
        out = x.new_empty(x.shape[0], weight.shape[0])
        rows = max(1, _BLOCK // weight.shape[1])
        for start in range(0, weight.shape[0], rows):
            part = weight[start : start + rows]
            wide = self._block(part.numel()).view(part.shape)
            wide.copy_(part)
            out[:, start : start + rows] = x @ wide.t()
        if scale is not None:
            out *= scale
        return out if bias is None else out.add_(bias.to(out.dtype))

    def _block(self, size: int) -> Tensor:
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = torch.empty(size)
        return self._buffer[:size]


class Packed(Operations):
    """Linear layers through oneDNN, their weights reordered once into the layout that its kernels read."""

    def __init__(self) -> None:
        self._packed: dict[nn.Module, Tensor] = {}

    def pack(self, module: nn.Linear, rows: int = 512) -> None:
        """Reorder one layer's weight for about ``rows`` rows at a time and let go of the original."""
        weight = module.weight.detach()
        self._packed[module] = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        module.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=False)

    def _run(self, module: nn.Module, x: Tensor, post: str, algorithm: str) -> Tensor:
        bias: Any = module.bias
        return torch.ops.mkldnn._linear_pointwise(x, self._packed[module], bias, post, [], algorithm)

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        return self._run(module, x, "none", "") if module in self._packed else module(x)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        if module not in self._packed:
            return act(module(x))
        if act is F.gelu:
            return self._run(module, x, "gelu", "none")
        if act is F.relu:
            return self._run(module, x, "relu", "")
        return act(self._run(module, x, "none", ""))


def choose(dtype: torch.dtype, quantized: bool) -> tuple[Operations | None, str]:
    """The best table for weights stored in ``dtype``, and what it is called; ``None``: PyTorch's own."""
    if quantized:
        return Widening(), "int8 weights, float32 products"
    if dtype == torch.bfloat16:
        if has_bf16():
            return Packed(), "oneDNN bfloat16, packed"
        return Widening(), "bfloat16 weights, float32 products"
    if dtype == torch.float32 and has_avx512():
        return Packed(), "oneDNN float32, packed"
    return None, "PyTorch " + str(dtype).removeprefix("torch.")


@torch.no_grad()
def quantize_linear(module: nn.Linear) -> None:
    """Store a layer's weight as int8 with one float32 scale an output channel (symmetric, the largest value is 127).

    The result is allocated first and filled block by block: temporaries of a matrix's size between results that stay
    would leave holes in the heap as large as the weights themselves.
    """
    weight = module.weight.detach()
    quantized, scale = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0])
    rows = max(1, _BLOCK // (4 * weight.shape[1]))
    for start in range(0, weight.shape[0], rows):
        part = weight[start : start + rows].float()
        largest = part.abs().amax(dim=1).clamp_min_(torch.finfo(torch.float32).tiny) / 127
        scale[start : start + rows] = largest
        quantized[start : start + rows] = part.div_(largest[:, None]).round_()
    module.weight = nn.Parameter(quantized, requires_grad=False)
    module.register_buffer("weight_scale", scale, persistent=False)
