"""Multi-head attention over rows of states, with caches, cross-attention and relative positions.

Shape suffixes: T rows of all tokens, B sequences, N heads, Q queries, K keys, D width of a head, H hidden.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xlm.backends.keras.layout import Padded
from xlm.backends.keras.ops import Table, Tensor, dense, dropout, layer_norm, linear, norm, sizes, softmax
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec

Cache = tuple[Tensor, Tensor]
Source = tuple[Tensor, Any, Tensor | None]


class SelfAttention(keras.layers.Layer):
    """Queries, keys and values; the weights of :class:`Attention` without its output projection."""

    def __init__(self, spec: EncoderSpec, dtype: Any, *, cross: bool) -> None:
        super().__init__(name="self", dtype=dtype)
        self.heads, self.head_size, self.max_positions = spec.num_heads, spec.head_size, spec.max_positions
        self.relative = "absolute" if cross else spec.position_kind
        width = self.heads * self.head_size
        with keras.name_scope(self.name):
            self.query = dense(spec.hidden_size, width, "query", dtype)
            self.key = dense(spec.hidden_size, width, "key", dtype)
            self.value = dense(spec.hidden_size, width, "value", dtype)
            if self.relative != "absolute":
                self.distance_embedding = Table(2 * spec.max_positions - 1, self.head_size, "distance_embedding", dtype)
            self.dropout = keras.layers.Dropout(spec.attention_dropout, dtype=dtype)
        self.built = True

    def forward(
        self,
        x_TH: Tensor,
        layout: Padded,
        training: bool,
        head_mask: Tensor | None = None,
        source: Source | None = None,
        cache: Cache | None = None,
    ) -> tuple[Tensor, Tensor, Cache]:
        """Attend.

        Args:
            x_TH: rows of states.
            head_mask: factor of each head's weights, broadcastable to (B, N, Q, K).
            source: states to attend to in cross-attention: rows, tokens per sequence, bias.
            cache: keys and values (B, N, past, D) of earlier tokens.

        Returns:
            rows (T, N*D), weights (B, N, Q, K) after dropout and head mask, (keys, values).
        """
        B, Q = layout.batch, layout.length
        # Scaling the queries touches fewer numbers than scaling the scores.
        q = self._split(linear(self.query, x_TH) / math.sqrt(self.head_size), B, Q)
        if source is not None and cache is not None:
            k, v = cache
        else:
            rows, length = (x_TH, Q) if source is None else source[:2]
            k = self._split(linear(self.key, rows), B, length)
            v = self._split(linear(self.value, rows), B, length)
            if source is None and cache is not None:
                k, v = tf.concat([cache[0], k], axis=2), tf.concat([cache[1], v], axis=2)
        bias = layout.bias if source is None else source[2]
        scores = tf.matmul(q, k, transpose_b=True)
        if self.relative != "absolute":
            scores += self._relative(q, k)
        p = dropout(self.dropout, softmax(scores, bias), training)
        if head_mask is not None:
            p *= head_mask
        out = tf.transpose(tf.matmul(p, v), (0, 2, 1, 3))
        return tf.reshape(out, (-1, self.heads * self.head_size)), p, (k, v)

    def _split(self, rows: Tensor, batch: Any, length: Any) -> Tensor:
        return tf.transpose(tf.reshape(rows, (batch, length, self.heads, self.head_size)), (0, 2, 1, 3))

    def _relative(self, q: Tensor, k: Tensor) -> Tensor:
        """Scores of relative distances (Shaw et al. 2018; Huang et al. 2020, method 4); queries are the last keys."""
        Q, K = sizes(q)[2], sizes(k)[2]
        if isinstance(K, int) and self.max_positions < K:
            raise InputError(f"{K} tokens: relative positions reach max_position_embeddings={self.max_positions}")
        distance = tf.range(K - Q, K)[:, None] - tf.range(K)[None, :]
        r_QKD = self.distance_embedding.rows(distance + self.max_positions - 1)
        scores = tf.einsum("bnqd,qkd->bnqk", q, r_QKD)
        if self.relative == "relative_key_query":  # the queries are scaled already, the keys are not
            scores += tf.einsum("bnkd,qkd->bnqk", k / math.sqrt(self.head_size), r_QKD)
        return scores


class AttentionOutput(keras.layers.Layer):
    """The output projection and the norm that belongs to the attention block."""

    def __init__(self, spec: EncoderSpec, dtype: Any) -> None:
        super().__init__(name="output", dtype=dtype)
        with keras.name_scope(self.name):
            self.dense = dense(spec.num_heads * spec.head_size, spec.hidden_size, "dense", dtype)
            self.LayerNorm = layer_norm(spec.hidden_size, spec.norm_eps, "LayerNorm", dtype)
            self.dropout = keras.layers.Dropout(spec.hidden_dropout, dtype=dtype)
        self.built = True


class Attention(keras.layers.Layer):
    """An attention block with its residual connection: post-norm ``LN(x + f(x))`` or pre-norm ``x + f(LN(x))``."""

    # Names of tensors that Python or Keras keep for themselves.
    published = {"core": "self", "out": "output"}

    def __init__(self, spec: EncoderSpec, dtype: Any, *, cross: bool = False) -> None:
        super().__init__(name="crossattention" if cross else "attention", dtype=dtype)
        self.pre = spec.norm_order == "pre"
        with keras.name_scope(self.name):
            self.core = SelfAttention(spec, dtype, cross=cross)
            self.out = AttentionOutput(spec, dtype)
        self.pruned_heads: set[int] = set()
        self.built = True

    def forward(self, x_TH: Tensor, layout: Padded, training: bool, **options: Any) -> tuple[Tensor, Tensor, Cache]:
        """See :meth:`SelfAttention.forward`."""
        inner = norm(self.out.LayerNorm, x_TH) if self.pre else x_TH
        rows, weights, kept = self.core.forward(inner, layout, training, **options)
        rows = dropout(self.out.dropout, linear(self.out.dense, rows), training) + x_TH
        return rows if self.pre else norm(self.out.LayerNorm, rows), weights, kept

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
        keep = np.array([i * d + j for i, h in enumerate(left) if h not in heads for j in range(d)])
        for name in ("query", "key", "value"):
            setattr(core, name, _select(getattr(core, name), keep, axis=1))
        self.out.dense = _select(self.out.dense, keep, axis=0)
        core.heads -= len(heads)
        self.pruned_heads |= heads


def _select(layer: keras.layers.Dense, keep: np.ndarray, axis: int) -> keras.layers.Dense:
    if layer.quantization_mode is not None:
        raise InputError(f"{layer.path}: is quantized; prune heads before quantize()")
    kernel = np.take(np.asarray(layer.kernel), keep, axis=axis)
    bias = np.asarray(layer.bias)
    new: Any = dense(kernel.shape[0], kernel.shape[1], layer.name, layer.dtype_policy)
    new.kernel.assign(kernel)
    new.bias.assign(bias[keep] if axis == 1 else bias)
    new.trainable = layer.trainable
    return new
