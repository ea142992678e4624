"""The table of operations for CPUs whose oneDNN kernels beat PyTorch's BLAS: weights packed once, neighbours fused.

    query, key, value       one product
    feed-forward, first     activation inside the product
    ... + residual          added inside the product
    attention in bfloat16   products of packed sequences through oneDNN, softmax in float32

Packing takes over a layer's weight: a packed model computes, but cannot be trained or saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.ops import PLAIN, Operations
from xlm.backends.torch.watch import stamp

_SCORES = 1 << 20
"""Attention scores that exist at once: 4 MB of float32 stay in the outer cache."""
_LONG = 64
_SHORT = {torch.float32: 64, torch.bfloat16: 32}
"""Up to these lengths PyTorch's one operation is faster than several: in bfloat16 for a sequence alone."""
_FUSED: dict[Callable[[Tensor], Tensor], tuple[str, str]] = {F.gelu: ("gelu", "none"), F.relu: ("relu", "")}
"""Activations that oneDNN computes inside a product -> its name and algorithm."""


class Packed(Operations):
    """Linear layers through oneDNN in float32 or bfloat16, their weights in the layout that its kernels read."""

    def __init__(self) -> None:
        self._product = torch.ops.mkldnn._linear_pointwise.default
        self._sum = torch.ops.mkldnn._linear_pointwise.binary
        self._weights: dict[nn.Module, Tensor] = {}
        self._biases: dict[nn.Module, tuple[Any, Tensor]] = {}

    def pack(self, modules: Sequence[nn.Linear], rows: int = 512) -> None:
        """Take over the weights of layers that read the same rows, as one matrix made for about ``rows`` rows at a time."""
        weight = torch.cat([m.weight.detach() for m in modules]) if len(modules) > 1 else modules[0].weight.detach()
        self._weights[modules[0]] = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        for module in modules:
            module.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=False)

    def _run(self, module: nn.Module, x: Tensor, bias: Any, post: str = "none", algorithm: str = "") -> Tensor:
        return self._product(x, self._weights[module], bias, post, [], algorithm)

    def norm(self, module: nn.Module, x: Tensor) -> Tensor:
        return direct_norm(module, x)

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        return self._run(module, x, module.bias) if module in self._weights else module(x)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        if module not in self._weights or act not in _FUSED:
            return act(self.linear(module, x))
        return self._run(module, x, module.bias, *_FUSED[act])

    def linear_add(self, module: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        if module not in self._weights:
            return super().linear_add(module, x, residual, dropout)
        return self._sum(x, residual, self._weights[module], module.bias, "add")

    def linear_add_norm(
        self, module: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module
    ) -> Tensor:
        return self.norm(norm, self.linear_add(module, x, residual, dropout))

    def qkv(self, query: nn.Module, key: nn.Module, value: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if query not in self._weights or key in self._weights:
            return super().qkv(query, key, value, x)
        biases: list[Any] = [query.bias, key.bias, value.bias]
        now = stamp(*biases)
        known, bias = self._biases.get(query, (None, None))
        if bias is None or known != now:
            bias = torch.cat([b.detach() for b in biases])
            self._biases[query] = now, bias
        q, k, v = self._run(query, x, bias).chunk(3, dim=1)
        return q, k, v

    def ragged_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged, dropout: float) -> Tensor:
        if q.dtype != torch.bfloat16 or dropout:
            return super().ragged_attention(q, k, v, heads, layout, dropout)
        return attention_by_products(q, k, v, heads, layout)


def direct_norm(module: Any, x: Tensor) -> Tensor:
    """A layer norm without its module's call, which on a few rows takes longer than the norm."""
    return torch.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)


def attention_by_products(q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged) -> Tensor:
    """Attention inside each sequence of packed rows (tokens, heads * d), as two batched products in bfloat16, which it gives.

    On CPUs that multiply bfloat16 these take half the time of PyTorch's fused kernel, which computes in float32. Short
    sequences go to that kernel, which is one operation; where all do, the result has the type of the rows.
    """
    half = torch.bfloat16
    direct = [length <= _SHORT.get(q.dtype, 0) and (count == 1 or q.dtype != half) for _, count, length in layout.runs]
    if all(direct):
        return PLAIN.ragged_attention(q, k, v, heads, layout, 0.0)
    out = torch.empty(q.shape, dtype=half)
    width = q.shape[1] // heads
    nothing = torch.empty(1, dtype=half)
    for (start, count, length), alone in zip(layout.runs, direct, strict=True):
        if alone:
            run = slice(start, start + count * length)
            own = Ragged((length,) * count, layout.causal, None, ((0, count, length),), length)
            out[run] = PLAIN.ragged_attention(q[run], k[run], v[run], heads, own, 0.0)
            continue
        together = max(1, _SCORES // (heads * length * length))
        hidden = torch.ones(length, length, dtype=torch.bool).triu_(1) if layout.causal else None
        for first in range(0, count, together):
            n = min(together, count - first)
            run = slice(start + first * length, start + (first + n) * length)
            q_BQD, k_BKD, v_BKD = (
                torch.empty(n, heads, length, width, dtype=half)
                .copy_(t[run].view(n, length, heads, width).transpose(1, 2))
                .view(n * heads, length, width)
                for t in (q, k, v)
            )
            scores = torch.baddbmm(nothing, q_BQD, k_BKD.transpose(1, 2), beta=0, alpha=width**-0.5)
            if hidden is not None:
                scores.masked_fill_(hidden, -torch.inf)
            # Both ways sum in float32; on short rows the vectorised conversion pays, on long ones the saved memory.
            wide = None if length >= _LONG else torch.float32
            shares = torch.softmax(scores, -1, dtype=wide).to(half)
            rows = torch.bmm(shares, v_BKD).view(n, heads, length, width).transpose(1, 2)
            out[run].view(n, length, heads, width).copy_(rows)
    return out
