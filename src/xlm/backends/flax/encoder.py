"""The one encoder: a stack of layers, all differences between families read from its spec.

The parameters of all layers lie in arrays with a leading axis of layers, and one ``lax.scan`` runs over it: a compiler
sees a single layer, whatever the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from xlm.backends.flax.attention import Attention, Cache
from xlm.backends.flax.layout import Layout
from xlm.backends.flax.ops import LayerNorm, Linear, activation, dropout, fork, in_parts, rows_at_once
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec

WIDE_AT_ONCE = 5 * 2**20
"""Numbers of the wide half of feed-forward blocks that one CPU computes together: 20 MB."""


class Intermediate(nnx.Module):
    """The first half of the feed-forward block."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.dense = Linear(spec.hidden_size, spec.intermediate_size, axes=(None, "mlp"))


class Output(nnx.Module):
    """The second half of the feed-forward block and the norm that belongs to it."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.dense = Linear(spec.intermediate_size, spec.hidden_size, axes=("mlp", None))
        self.LayerNorm = LayerNorm(spec.hidden_size, spec.norm_eps)


class Layer(nnx.Module):
    """Attention, optional cross-attention and the feed-forward block, each with its residual (drawn in ``spec.py``)."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.pre, self.chunk, self.dropout = spec.norm_order == "pre", spec.feed_forward_chunk, spec.ffn_dropout
        self.act, self.intermediate_size = activation(spec.activation), spec.intermediate_size
        self.attention = Attention(spec)
        if spec.cross_attention:
            self.crossattention = Attention(spec, cross=True)
        self.intermediate = Intermediate(spec)
        self.output = Output(spec)

    def __call__(
        self,
        x: Array,
        layout: Layout,
        head_mask: Array | None,
        source: tuple[Array, Array | None] | None,
        cache: Cache | None,
        key: Array | None,
        weights: bool,
    ) -> tuple[Array, Array | None, Array | None, Cache | None]:
        """States, self-attention weights, cross-attention weights, cache."""
        own, other, last = fork(key, 3)
        x, p, cache = self.attention(x, layout, head_mask=head_mask, cache=cache, key=own, weights=weights)
        cross = None
        if source is not None:
            options: Any = {"head_mask": head_mask, "source": source, "key": other, "weights": weights}
            x, cross, _ = self.crossattention(x, layout, **options)
        x = self._feed_forward(x, last)
        if layout.row_mask is not None:
            x = x * layout.row_mask.astype(x.dtype)
        return x, p, cross, cache

    def _feed_forward(self, x: Array, key: Array | None) -> Array:
        batch, length, hidden = x.shape
        if not self.chunk:
            rows = rows_at_once(batch, length * self.intermediate_size, WIDE_AT_ONCE)
            if key is not None or rows == batch:
                return self._block(x, key)
            return in_parts(lambda part: self._block(part, None), rows, x)
        if length % self.chunk:
            raise InputError(
                f"{length} tokens: must be a multiple of chunk_size_feed_forward={self.chunk}; pad the batch"
            )
        count = length // self.chunk
        parts = x.reshape(batch, count, self.chunk, hidden).swapaxes(0, 1)
        keys = None if key is None else jax.random.split(key, count)
        done = lax.map(lambda part: self._block(*part), (parts, keys))
        return done.swapaxes(0, 1).reshape(x.shape)

    def _block(self, x: Array, key: Array | None) -> Array:
        norm = self.output.LayerNorm
        inner = self.act(self.intermediate.dense(norm(x) if self.pre else x))
        inner = dropout(self.output.dense(inner), self.dropout, key)
        return inner + x if self.pre else norm(inner + x)


@dataclass
class Trace:
    """What a pass over the layers leaves behind, beside the states; ``None`` where nothing was asked for."""

    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None
    cache: dict[str, Array] | None = None


class Encoder(nnx.Module):
    """The layers, and the final norm where there is one."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.layers = spec.num_layers
        graph, shapes = nnx.split(Layer(spec))
        self.layer = nnx.merge(
            graph, jax.tree.map(lambda p: jax.ShapeDtypeStruct((self.layers, *p.shape), p.dtype), shapes)
        )
        if spec.final_norm:
            self.LayerNorm = LayerNorm(spec.hidden_size, spec.norm_eps)
        self.final_norm = spec.final_norm

    def __call__(
        self,
        x: Array,
        layout: Layout,
        *,
        head_mask: Array | None = None,
        source: tuple[Array, Array | None] | None = None,
        cache: dict[str, Array] | None = None,
        key: Array | None = None,
        hidden: bool = False,
        weights: bool = False,
        remat: bool = False,
    ) -> tuple[Array, Trace]:
        """Run the layers over states (b, s, h).

        Args:
            layout: which tokens see which.
            head_mask: (layers, heads).
            source: states (b, k, h) that cross-attention reads, and their bias.
            cache: ``cached_key`` and ``cached_value`` (layers, b, places, heads, d).
            key: of dropout; ``None`` drops nothing.
            hidden, weights: whether to keep states and attention weights of every layer.
            remat: recompute layers in the backward pass instead of keeping their activations.
        """
        graph, parameters = nnx.split(self.layer)
        keys = None if key is None else jax.random.split(key, self.layers)

        def step(x: Array, one: Any) -> tuple[Array, Any]:
            values, mask, own, k = one
            x, p, cross, own = nnx.merge(graph, values)(x, layout, mask, source, own, k, weights)
            return x, (x if hidden else None, p if weights else None, cross if weights else None, own)

        body = jax.checkpoint(step, prevent_cse=False) if remat else step
        first = x
        x, (states, p, cross, cache) = lax.scan(body, x, (parameters, head_mask, cache, keys))
        if self.final_norm:
            x = self.LayerNorm(x)
        kept = (first, *states[:-1], x) if hidden and self.layers else (x,) if hidden else None
        trace = Trace(kept, tuple(p) if p is not None else None, tuple(cross) if cross is not None else None, cache)
        return x, trace


def empty_cache(spec: EncoderSpec, batch: int, places: int, dtype: Any) -> dict[str, Array]:
    """A cache of ``places`` tokens a sequence with nothing in it: ``cached_key``, ``cached_value``, ``cache_index``."""
    shape = (spec.num_layers, batch, places, spec.num_heads, spec.head_size)
    return {
        "cached_key": jnp.zeros(shape, dtype),
        "cached_value": jnp.zeros(shape, dtype),
        "cache_index": jnp.zeros((), jnp.int32),
    }
