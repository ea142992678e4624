"""A table of operations whose results for a sequence do not depend, to the last bit, on what runs beside it.

Libraries choose how they sum by the number of rows. Their products run here on blocks of one fixed number of rows, and
their attention on one sequence at a time; what remains (norms, activations, sums) goes row by row anyway, as do our own
kernels, and the attention of GPUs over packed sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xlm.backends.torch.layout import Layout, Ragged
from xlm.backends.torch.ops import Operations

_ROWS = 64
"""Rows of every product."""


class Invariant(Operations):
    """Another table's operations, block by block."""

    def __init__(self, inner: Operations) -> None:
        self.inner = inner

    def enter(self, x: Tensor) -> Tensor:
        return self.inner.enter(x)

    def layers(self, layers: nn.ModuleList, x: Tensor, layout: Layout, last: bool) -> tuple[Tensor, int]:
        return self.inner.layers(layers, x, layout, last)  # where a table has it, it goes row by row

    def norm(self, module: nn.Module, x: Tensor) -> Tensor:
        return self.inner.norm(module, x)

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        return self._blocks(module, lambda part: self.inner.linear(module, part), x)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        return self._blocks(module, lambda part: self.inner.linear_act(module, part, act), x)

    def linear_add(self, module: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        return self._blocks(module, lambda part, rest: self.inner.linear_add(module, part, rest, dropout), x, residual)

    def linear_add_norm(
        self, module: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module
    ) -> Tensor:
        if self.inner.by_row(module):
            return self.inner.linear_add_norm(module, norm, x, residual, dropout)
        return self.norm(norm, self.linear_add(module, x, residual, dropout))

    def qkv(self, query: nn.Module, key: nn.Module, value: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.inner.by_row(query):
            return self.inner.qkv(query, key, value, x)
        parts = self._blocks(query, lambda part: torch.cat(self.inner.qkv(query, key, value, part), 1), x)
        q, k, v = parts.chunk(3, dim=1)
        return q, k, v

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, causal: bool = False
    ) -> Tensor:
        return self.inner.attention(q, k, v, bias, dropout, causal)

    def ragged_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged, dropout: float) -> Tensor:
        if self.inner.attends_by_row(q, heads):
            return self.inner.ragged_attention(q, k, v, heads, layout, dropout)
        parts, start = [], 0
        for length in layout.lengths:
            # Copies: libraries also choose how they sum by where in memory rows begin.
            a, b, c = (t[start : start + length].clone(memory_format=torch.contiguous_format) for t in (q, k, v))
            parts.append(self.inner.ragged_attention(a, b, c, heads, Ragged.of((length,), layout.causal), dropout))
            start += length
        return torch.cat(parts) if parts else q

    def _blocks(self, module: nn.Module, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``run`` of a layer on blocks of rows, unless it goes row by row itself."""
        return run(*inputs) if self.inner.by_row(module) else in_blocks(run, *inputs)


def in_blocks(run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``run`` on blocks of rows, the last one filled up with zeros."""
    count = inputs[0].shape[0]
    parts: list[Any] = []
    for start in range(0, count, _ROWS):
        block = [x[start : start + _ROWS] for x in inputs]
        short = _ROWS - block[0].shape[0]
        if short:
            block = [torch.cat([x, x.new_zeros(short, x.shape[1])]) for x in block]
        parts.append(run(*block)[: _ROWS - short])
    return torch.cat(parts) if parts else run(*inputs)
