"""Multi-head attention with caches, cross-attention and relative positions.

Shape suffixes: b sequences, n heads, q queries, k keys, d width of a head. Scores and softmax are float32 in every type.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from xlm.backends.flax.layout import Layout
from xlm.backends.flax.ops import Embed, LayerNorm, Linear, dropout, fork, in_parts, rows_at_once
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec

SCORES_AT_ONCE = 2**21
"""Scores that one CPU computes together: 8 MB, of which XLA holds several copies."""
Cache = dict[str, Array]
"""``cached_key`` and ``cached_value`` (b, places, heads, d) of one layer."""


class SelfAttention(nnx.Module):
    """Queries, keys and values; the weights of :class:`Attention` without its output projection."""

    def __init__(self, spec: EncoderSpec, *, cross: bool) -> None:
        self.heads, self.head_size, self.dropout = spec.num_heads, spec.head_size, spec.attention_dropout
        self.relative = "absolute" if cross else spec.position_kind
        self.max_positions = spec.max_positions
        width = self.heads * self.head_size
        self.query = Linear(spec.hidden_size, width, axes=(None, "heads"))
        self.key = Linear(spec.hidden_size, width, axes=(None, "heads"))
        self.value = Linear(spec.hidden_size, width, axes=(None, "heads"))
        if self.relative != "absolute":
            self.distance_embedding = Embed(2 * spec.max_positions - 1, self.head_size)

    def __call__(
        self,
        x: Array,
        layout: Layout,
        *,
        head_mask: Array | None = None,
        source: tuple[Array, Array | None] | None = None,
        cache: Cache | None = None,
        key: Array | None = None,
        weights: bool = True,
    ) -> tuple[Array, Array | None, Cache | None]:
        """Attend.

        Args:
            x: states (b, s, h).
            head_mask: a factor of each head's weights (n,).
            source: states (b, k, h) to attend to in cross-attention, and their bias.
            cache: keys and values of earlier tokens; the new ones are written at ``layout.past``.
            key: of attention dropout.
            weights: whether attention weights are wanted, too.

        Returns:
            states (b, s, n*d), attention weights (b, n, q, k) after dropout and head mask where they are wanted, the
            cache with the new tokens.
        """
        q, k, v = self._split(self.query(x)), None, None
        seen = x if source is None else source[0]
        k, v = self._split(self.key(seen)), self._split(self.value(seen))
        if cache is not None:
            at = (0, layout.past, 0, 0)
            k = lax.dynamic_update_slice(cache["cached_key"], k.astype(cache["cached_key"].dtype), at)
            v = lax.dynamic_update_slice(cache["cached_value"], v.astype(cache["cached_value"].dtype), at)
            cache = {"cached_key": k, "cached_value": v}
        bias = layout.bias if source is None else source[1]
        rows = rows_at_once(q.shape[0], self.heads * q.shape[1] * k.shape[1], SCORES_AT_ONCE)
        if weights or key is not None or self.relative != "absolute" or rows == q.shape[0]:
            out, p = self._attend(q, k, v, bias, layout.past, head_mask, key)
        else:
            out, p = self._attend_in_parts(q, k, v, bias, head_mask, rows), None
        return out.reshape(*out.shape[:2], out.shape[2] * out.shape[3]), p, cache

    def _attend(
        self, q: Array, k: Array, v: Array, bias: Array | None, past: Any, head_mask: Array | None, key: Array | None
    ) -> tuple[Array, Array]:
        """What the queries (b, q, n, d) find (b, q, n, d), and their weights (b, n, q, k)."""
        q_bnqd, k_bnkd, v_bnkd = (x.swapaxes(1, 2) for x in (q, k, v))  # as matrix products want them
        scores = jnp.einsum("bnqd,bnkd->bnqk", q_bnqd, k_bnkd, preferred_element_type=jnp.float32)
        if self.relative != "absolute":
            scores = scores + self._relative(q, k, past)
        scores = scores / math.sqrt(self.head_size)
        if bias is not None:
            scores = scores + bias
        p = dropout(jax.nn.softmax(scores, axis=-1).astype(q.dtype), self.dropout, key)
        if head_mask is not None:
            p = p * head_mask.astype(p.dtype)[:, None, None]
        return jnp.einsum("bnqk,bnkd->bnqd", p, v_bnkd).swapaxes(1, 2), p

    def _attend_in_parts(
        self, q: Array, k: Array, v: Array, bias: Array | None, head_mask: Array | None, rows: int
    ) -> Array:
        """The same, ``rows`` sequences after others."""

        if bias is None or bias.shape[0] == 1:  # it serves all
            return in_parts(lambda q, k, v: self._attend(q, k, v, bias, 0, head_mask, None)[0], rows, q, k, v)
        return in_parts(lambda q, k, v, own: self._attend(q, k, v, own, 0, head_mask, None)[0], rows, q, k, v, bias)

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, self.head_size)

    def _relative(self, q: Array, k: Array, past: Any) -> Array:
        """Scores of relative distances (Shaw et al. 2018; Huang et al. 2020, method 4)."""
        Q, K = q.shape[1], k.shape[1]
        if self.max_positions < K:
            raise InputError(f"{K} tokens: relative positions reach max_position_embeddings={self.max_positions}")
        distance = past + jnp.arange(Q)[:, None] - jnp.arange(K)[None, :]
        r_qkd = self.distance_embedding(distance + self.max_positions - 1).astype(q.dtype)
        scores = jnp.einsum("bqnd,qkd->bnqk", q, r_qkd, preferred_element_type=jnp.float32)
        if self.relative == "relative_key_query":
            scores = scores + jnp.einsum("bknd,qkd->bnqk", k, r_qkd, preferred_element_type=jnp.float32)
        return scores


class AttentionOutput(nnx.Module):
    """The output projection and the norm that belongs to the attention block."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.dense = Linear(spec.num_heads * spec.head_size, spec.hidden_size, axes=("heads", None))
        self.LayerNorm = LayerNorm(spec.hidden_size, spec.norm_eps)


class Attention(nnx.Module):
    """An attention block with its residual connection: post-norm ``LN(x + f(x))`` or pre-norm ``x + f(LN(x))``."""

    def __init__(self, spec: EncoderSpec, *, cross: bool = False) -> None:
        self.pre, self.dropout = spec.norm_order == "pre", spec.hidden_dropout
        self.self = SelfAttention(spec, cross=cross)  # the published name
        self.output = AttentionOutput(spec)

    def __call__(
        self, x: Array, layout: Layout, *, key: Array | None = None, **options: Any
    ) -> tuple[Array, Array | None, Cache | None]:
        """See :meth:`SelfAttention.__call__`."""
        inner_key, outer_key = fork(key, 2)
        norm = self.output.LayerNorm
        states, weights, cache = self.self(norm(x) if self.pre else x, layout, key=inner_key, **options)
        states = dropout(self.output.dense(states), self.dropout, outer_key)
        return (states + x if self.pre else norm(states + x)), weights, cache
