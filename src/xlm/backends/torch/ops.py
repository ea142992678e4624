"""The table of primitive operations an encoder is built on.

Layers never compute directly; they ask their table. ``PLAIN`` is PyTorch as it is: trainable, exportable,
on any device. Faster tables for inference override single operations and leave the model alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlm.errors import ConfigError, InputError

if TYPE_CHECKING:
    from xlm.backends.torch.crossing import Crossing
    from xlm.backends.torch.layout import Layout, Ragged

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": F.mish,
    "linear": lambda x: x,
    "identity": lambda x: x,
}


def activation(act: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function of an activation's name; a callable is its own function.

    Raises:
        ConfigError: an unknown name.
    """
    if not isinstance(act, str):
        return act
    if act not in ACTIVATIONS:
        raise ConfigError(f"activation {act!r}: must be one of {', '.join(sorted(ACTIVATIONS))} or a callable")
    return ACTIVATIONS[act]


class Operations:
    """PyTorch's own operations. Shapes: rows ``x`` are (tokens, features); attention takes (b, heads, tokens, d)."""

    def by_row(self, module: nn.Module) -> bool:
        """Whether a row of a layer's product is the same to the last bit whatever other rows there are."""
        return False

    def attends_by_row(self, q: Tensor, heads: int) -> bool:
        """Whether a sequence's packed attention is the same to the last bit whatever other sequences there are."""
        return False

    def enter(self, x: Tensor) -> Tensor:
        """Embedded states as the layers want them."""
        return x

    def layers(self, layers: nn.ModuleList, x: Tensor, layout: Layout, last: bool) -> tuple[Tensor, int]:
        """States after as many of an encoder's first layers as the table computes as one, and how many these are.

        Only the states are wanted: no weights, caches or states between. ``last``: the last layer may be among them.
        """
        return x, 0

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        """``module(x)``; the module may be a wrapper that an adapter library put in its place."""
        return module(x)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """A linear layer and its activation."""
        return act(self.linear(module, x))

    def linear_add(self, module: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        """A linear layer, dropped out, on top of the residual."""
        return dropout(self.linear(module, x)) + residual

    def linear_add_norm(
        self, module: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module
    ) -> Tensor:
        """The same, and the layer normalisation of the sum."""
        return self.add_norm(norm, dropout(self.linear(module, x)), residual)

    def qkv(self, query: nn.Module, key: nn.Module, value: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three linear layers over the same rows; the results may be views of one matrix."""
        return self.linear(query, x), self.linear(key, x), self.linear(value, x)

    def norm(self, module: nn.Module, x: Tensor) -> Tensor:
        """Layer normalisation."""
        return module(x)

    def add_norm(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        """Layer normalisation of a sum."""
        return self.norm(module, x + residual)

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, causal: bool = False
    ) -> Tensor:
        """Softmax attention; ``bias`` is added to the scaled scores, or of booleans hides where it is False."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=causal)

    def ragged_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged, dropout: float) -> Tensor:
        """Attention inside each sequence of packed rows (tokens, heads * d); one dense call a run of equal lengths."""
        parts = []
        for start, count, length in layout.runs:
            rows = (q, k, v)
            if len(layout.runs) > 1:
                rows = tuple(t[start : start + count * length] for t in rows)
            qs, ks, vs = (t.view(count, length, heads, -1).transpose(1, 2) for t in rows)
            part = self.attention(qs, ks, vs, None, dropout, layout.causal)
            parts.append(part.transpose(1, 2).reshape(count * length, -1))
        if not parts:
            if q.shape[0]:
                raise InputError(f"{q.shape[0]} packed rows without the runs of their lengths: Ragged.of makes them")
            return q
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def crossed_attention(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, crossing: Crossing, dropout: float
    ) -> Tensor:
        """Attention of packed target rows ``q`` (tokens, heads * d) to the packed source rows ``k``, ``v`` of their pair."""
        parts = []
        for one in crossing.rectangles:
            places = (
                (q, one.query_rows, one.query_places, one.queries),
                (k, one.key_rows, one.key_places, one.keys),
                (v, one.key_rows, one.key_places, one.keys),
            )
            qs, ks, vs = (
                rows.new_zeros(one.pairs * length, rows.shape[1])
                .index_copy(0, where, rows.index_select(0, which))
                .view(one.pairs, length, heads, -1)
                .transpose(1, 2)
                for rows, which, where, length in places
            )
            out = self.attention(qs, ks, vs, one.visible, dropout)
            flat = out.transpose(1, 2).reshape(one.pairs * one.queries, -1)
            parts.append(flat.index_select(0, one.query_places))
        if not parts:
            return q
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        return rows if crossing.order is None else rows.index_select(0, crossing.order)


PLAIN = Operations()
