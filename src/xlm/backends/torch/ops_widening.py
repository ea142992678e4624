"""The table of operations for weights that the processor cannot multiply as they are stored: widened block by block."""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

from xlm.backends.torch.ops import Operations

_BLOCK = 1 << 22
"""Weights widened at a time: 16 MB of float32 stay in the outer cache."""

_scratch = threading.local()


class Widening(Operations):
    """Weights in bfloat16 or int8, states and products in float32.

    A weight is widened block by block into one buffer, which all layers of all models share that a thread computes, so
    nothing but that buffer is added to the memory of the stored weights.
    """

    def enter(self, x: Tensor) -> Tensor:
        return x.float()

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        if type(module) is not nn.Linear or module.weight.dtype == x.dtype:
            return module(x)
        weight, bias = module.weight, module.bias
        scale = getattr(module, "weight_scale", None)
        out = x.new_empty(x.shape[0], weight.shape[0])
        rows = max(1, _BLOCK // weight.shape[1])
        for start in range(0, weight.shape[0], rows):
            part = weight[start : start + rows]
            wide = _block(part.numel()).view(part.shape)
            wide.copy_(part)
            out[:, start : start + rows] = x @ wide.t()
        if scale is not None:
            out *= scale
        return out if bias is None else out.add_(bias.to(out.dtype))


def _block(size: int) -> Tensor:
    """Space for ``size`` numbers that no other thread writes to."""
    buffer: Tensor | None = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # used again outside of it
            buffer = _scratch.buffer = torch.empty(size)
    return buffer[:size]


@torch.no_grad()
def quantize_linear(module: nn.Linear, inputs: Tensor | None = None) -> None:
    """Store a layer's weight as int8 with one float32 scale an output channel (symmetric, the largest value is 127).

    ``inputs`` (inputs,) are scales of the input channels that the weight takes over: it is multiplied by them first.

    The result is allocated first and filled block by block: temporaries of a matrix's size between results that stay
    would leave holes in the heap as large as the weights themselves.
    """
    weight = module.weight.detach()
    quantized, scale = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0])
    rows = max(1, _BLOCK // (4 * weight.shape[1]))
    for start in range(0, weight.shape[0], rows):
        part = weight[start : start + rows].float()
        part = part if inputs is None else part * inputs
        largest = part.abs().amax(dim=1).clamp_min_(torch.finfo(torch.float32).tiny) / 127
        scale[start : start + rows] = largest
        quantized[start : start + rows] = part.div_(largest[:, None]).round_()
    module.weight = nn.Parameter(quantized, requires_grad=False)
    module.register_buffer("weight_scale", scale, persistent=False)
