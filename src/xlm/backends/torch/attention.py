"""Multi-head attention over rows of states, padded or ragged, with caches, cross-attention and relative positions.

Shape suffixes: T rows of all tokens, B sequences, N heads, Q queries, K keys, D width of a head, H hidden.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from xlm.backends.torch.crossing import Source
from xlm.backends.torch.layout import Layout, Padded, Ragged, need_padded
from xlm.backends.torch.ops import Operations
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec

Cache = tuple[Tensor, Tensor]


class SelfAttention(nn.Module):
    """Queries, keys and values; the weights of :class:`Attention` without its output projection."""

    def __init__(self, spec: EncoderSpec, ops: Operations, *, cross: bool) -> None:
        super().__init__()
        self.heads, self.head_size = spec.num_heads, spec.head_size
        self.dropout = spec.attention_dropout
        self.relative = "absolute" if cross else spec.position_kind
        width = self.heads * self.head_size
        self.query = nn.Linear(spec.hidden_size, width)
        self.key = nn.Linear(spec.hidden_size, width)
        self.value = nn.Linear(spec.hidden_size, width)
        self.max_positions = spec.max_positions
        if self.relative != "absolute":
            self.distance_embedding = nn.Embedding(2 * spec.max_positions - 1, self.head_size)
        self.ops = ops

    def forward(
        self,
        x_TH: Tensor,
        layout: Layout,
        *,
        head_mask: Tensor | None = None,
        source: Source | None = None,
        cache: Cache | None = None,
        keep: bool = False,
        weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Cache | None]:
        """Attend.

        Args:
            x_TH: rows of states.
            head_mask: factor of each head's weights, broadcastable to (B, N, Q, K).
            source: states to attend to in cross-attention.
            cache: keys and values (B, N, past, D) of earlier tokens; in cross-attention those of the source, of which
                several consecutive rows, such as the beams of a search, may share one.
            keep: return keys and values.
            weights: return attention weights (B, N, Q, K), after dropout and head mask.

        Returns:
            rows (T, N*D), weights or ``None``, (keys, values) or ``None``.
        """
        if isinstance(layout, Ragged):
            return self._ragged(x_TH, layout, head_mask, source, cache, keep, weights), None, None
        B, Q = layout.batch, layout.length
        share = 1
        if source is None:
            rows = self.ops.qkv(self.query, self.key, self.value, x_TH)
            q, k, v = (self._split(t, B, Q) for t in rows)
            if cache is not None:
                k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        else:
            q = self._split(self.ops.linear(self.query, x_TH), B, Q)
            if cache is not None:
                k, v = cache
                share = B // k.shape[0]
            else:
                k, v = (self._split(self.ops.linear(m, source.rows), B, source.length) for m in (self.key, self.value))
        bias = layout.bias if source is None else source.bias
        if share > 1:  # beams as further queries of their source: nothing is repeated
            q = q.view(-1, share, *q.shape[1:]).transpose(1, 2).flatten(2, 3)
        if weights or head_mask is not None or self.relative != "absolute":
            out, p = self._explicit(q, k, v, bias, head_mask)
        else:
            out, p = self.ops.attention(q, k, v, bias, self.dropout if self.training else 0.0), None
        if share > 1:
            out = out.unflatten(2, (share, Q)).transpose(1, 2).flatten(0, 1)
        rows = out.transpose(1, 2).reshape(B * Q, self.heads * self.head_size)
        return rows, p if weights else None, (k, v) if keep else None

    def _split(self, rows: Tensor, batch: int, length: int) -> Tensor:
        return rows.view(batch, length, self.heads, self.head_size).transpose(1, 2)

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, head_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        scores = q @ k.transpose(-1, -2)
        if self.relative != "absolute":
            scores = scores + self._relative(q, k)
        scores = scores / math.sqrt(self.head_size)
        if bias is not None:
            scores = scores + bias
        # fp32 softmax: half-precision sums over long rows lose accuracy.
        p = torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
        p = nn.functional.dropout(p, self.dropout, self.training)
        if head_mask is not None:
            p = p * head_mask.to(p.dtype)
        return p.to(v.dtype) @ v, p  # some tables give queries, keys and values a narrower type than states

    def _relative(self, q: Tensor, k: Tensor) -> Tensor:
        """Scores of relative distances (Shaw et al. 2018; Huang et al. 2020, method 4); queries are the last keys."""
        Q, K = q.shape[2], k.shape[2]
        right = torch.arange(K, device=q.device)
        left = torch.arange(K - Q, K, device=q.device)
        distance = left[:, None] - right[None, :]
        if not torch.compiler.is_compiling() and self.max_positions < K:
            raise InputError(f"{K} tokens: relative positions reach max_position_embeddings={self.max_positions}")
        r_QKD = self.distance_embedding(distance + self.max_positions - 1).to(q.dtype)
        scores = torch.einsum("bnqd,qkd->bnqk", q, r_QKD)
        if self.relative == "relative_key_query":
            scores = scores + torch.einsum("bnkd,qkd->bnqk", k, r_QKD)
        return scores

    def _ragged(
        self, x_TH: Tensor, layout: Ragged, head_mask: Any, source: Source | None, cache: Any, keep: bool, weights: bool
    ) -> Tensor:
        for given, what in (
            (head_mask is not None, "head_mask"),
            (source is not None and source.crossing is None, "cross-attention to a padded source"),
            (cache is not None or keep, "a cache"),
            (weights, "output_attentions"),
            (self.relative != "absolute", "position_embedding_type=" + self.relative),
        ):
            if given:
                need_padded(layout, what)
        dropout = self.dropout if self.training else 0.0
        if source is not None and source.crossing is not None:
            q = self.ops.linear(self.query, x_TH)
            k, v = (self.ops.linear(module, source.rows) for module in (self.key, self.value))
            return self.ops.crossed_attention(q, k, v, self.heads, source.crossing, dropout)
        q, k, v = self.ops.qkv(self.query, self.key, self.value, x_TH)
        return self.ops.ragged_attention(q, k, v, self.heads, layout, dropout)


class AttentionOutput(nn.Module):
    """The output projection and the norm that belongs to the attention block."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.dense = nn.Linear(spec.num_heads * spec.head_size, spec.hidden_size)
        self.LayerNorm = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps)
        self.dropout = nn.Dropout(spec.hidden_dropout)


class Attention(nn.Module):
    """An attention block with its residual connection: post-norm ``LN(x + f(x))`` or pre-norm ``x + f(LN(x))``."""

    def __init__(self, spec: EncoderSpec, ops: Operations, *, cross: bool = False) -> None:
        super().__init__()
        self.pre = spec.norm_order == "pre"
        self.ops = ops
        self.add_module("self", SelfAttention(spec, ops, cross=cross))
        self.output = AttentionOutput(spec)
        self.pruned_heads: set[int] = set()

    @property
    def core(self) -> SelfAttention:
        """The sub-module whose published name, ``self``, Python cannot spell."""
        return self._modules["self"]  # type: ignore[return-value]

    def forward(
        self, x_TH: Tensor, layout: Layout, rows: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None, Cache | None]:
        """See :meth:`SelfAttention.forward`; of its result only the ``rows`` (indices) go on, all without them."""
        out, ops = self.output, self.ops
        inner = ops.norm(out.LayerNorm, x_TH) if self.pre else x_TH
        y_TH, weights, kept = self.core(inner, layout, **options)
        if rows is not None:
            y_TH, x_TH = y_TH.index_select(0, rows), x_TH.index_select(0, rows)
        if self.pre:
            return ops.linear_add(out.dense, y_TH, x_TH, out.dropout), weights, kept
        return ops.linear_add_norm(out.dense, out.LayerNorm, y_TH, x_TH, out.dropout), weights, kept

    def prune_heads(self, heads: set[int]) -> None:
        """Remove heads for good; numbers are those of the unpruned layer, heads pruned before are passed over."""
        heads = heads - self.pruned_heads
        core = self.core
        total = core.heads + len(self.pruned_heads)
        if bad := [h for h in heads if not 0 <= h < total]:
            raise InputError(f"heads {sorted(bad)}: the layer has heads 0 to {total - 1}")
        if len(heads) >= core.heads:
            raise InputError(f"heads {sorted(heads)}: at least one of the {core.heads} heads must stay")
        if not heads:
            return
        left = [h for h in range(total) if h not in self.pruned_heads]
        d = core.head_size
        keep = torch.tensor([i * d + j for i, h in enumerate(left) if h not in heads for j in range(d)])
        for name in ("query", "key", "value"):
            setattr(core, name, _select(getattr(core, name), keep, dim=0))
        self.output.dense = _select(self.output.dense, keep, dim=1)
        core.heads -= len(heads)
        self.pruned_heads |= heads


def _select(layer: nn.Linear, keep: Tensor, dim: int) -> nn.Linear:
    keep = keep.to(layer.weight.device)
    weight = layer.weight.detach().index_select(dim, keep)
    new = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    new.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    bias = layer.bias.detach()
    new.bias = nn.Parameter(
        bias.index_select(0, keep) if dim == 0 else bias.clone(), requires_grad=layer.bias.requires_grad
    )
    return new


__all__ = ["Attention", "Cache", "Padded", "SelfAttention"]
