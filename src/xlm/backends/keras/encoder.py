"""The one encoder: a stack of layers over rows of states, all differences between families read from its spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from xlm.backends.keras.attention import Attention, Source
from xlm.backends.keras.layout import Padded
from xlm.backends.keras.ops import Tensor, activation, dense, dropout, layer_norm, linear, norm
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec


class Intermediate(keras.layers.Layer):
    """The first half of the feed-forward block."""

    def __init__(self, spec: EncoderSpec, dtype: Any) -> None:
        super().__init__(name="intermediate", dtype=dtype)
        with keras.name_scope(self.name):
            self.dense = dense(spec.hidden_size, spec.intermediate_size, "dense", dtype)
        self.built = True


class Output(keras.layers.Layer):
    """The second half of the feed-forward block and the norm that belongs to it."""

    def __init__(self, spec: EncoderSpec, dtype: Any) -> None:
        super().__init__(name="output", dtype=dtype)
        with keras.name_scope(self.name):
            self.dense = dense(spec.intermediate_size, spec.hidden_size, "dense", dtype)
            self.LayerNorm = layer_norm(spec.hidden_size, spec.norm_eps, "LayerNorm", dtype)
            self.dropout = keras.layers.Dropout(spec.ffn_dropout, dtype=dtype)
        self.built = True


class Layer(keras.layers.Layer):
    """Attention, optional cross-attention and the feed-forward block, each with its residual (drawn in ``spec.py``)."""

    published = {"out": "output"}

    def __init__(self, spec: EncoderSpec, number: int, dtype: Any) -> None:
        super().__init__(name=f"layer_{number}", dtype=dtype)
        self.pre = spec.norm_order == "pre"
        self.chunk = spec.feed_forward_chunk
        self.act = activation(spec.activation)
        with keras.name_scope(self.name):
            self.attention = Attention(spec, dtype)
            if spec.cross_attention:
                self.crossattention = Attention(spec, dtype, cross=True)
            self.intermediate = Intermediate(spec, dtype)
            self.out = Output(spec, dtype)
        self.built = True

    def forward(
        self,
        x_TH: Tensor,
        layout: Padded,
        training: bool,
        head_mask: Tensor | None,
        source: Source | None,
        cache: tuple[Tensor, ...] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]:
        """Rows, self-attention weights, cross-attention weights, cache (2 tensors, 4 with cross-attention)."""
        own: Any = None if cache is None else cache[:2]
        x_TH, p, kept = self.attention.forward(x_TH, layout, training, head_mask=head_mask, cache=own)
        cross, out = None, tuple(kept)
        if source is not None:
            old: Any = None if cache is None else cache[-2:]
            x_TH, cross, more = self.crossattention.forward(
                x_TH, layout, training, head_mask=head_mask, source=source, cache=old
            )
            out = (*kept, *more)
        x_TH = self._feed_forward(x_TH, layout, training)
        if layout.row_mask is not None:
            x_TH *= tf.cast(layout.row_mask, x_TH.dtype)
        return x_TH, p, cross, out

    def _feed_forward(self, x_TH: Tensor, layout: Padded, training: bool) -> Tensor:
        if not self.chunk:
            return self._block(x_TH, training)
        if not isinstance(layout.length, int) or layout.length % self.chunk:
            raise InputError(
                f"{layout.length} tokens: must be a multiple of chunk_size_feed_forward={self.chunk}; pad the batch"
            )
        return tf.concat([self._block(part, training) for part in tf.split(x_TH, layout.length // self.chunk)], axis=0)

    def _block(self, x_TH: Tensor, training: bool) -> Tensor:
        inner = norm(self.out.LayerNorm, x_TH) if self.pre else x_TH
        inner = self.act(linear(self.intermediate.dense, inner))
        inner = dropout(self.out.dropout, linear(self.out.dense, inner), training) + x_TH
        return inner if self.pre else norm(self.out.LayerNorm, inner)


@dataclass
class Trace:
    """What a pass over the layers leaves behind, beside the states; lists are empty where nothing was asked for."""

    hidden_states: list[Tensor] = field(default_factory=list)
    attentions: list[Tensor] = field(default_factory=list)
    cross_attentions: list[Tensor] = field(default_factory=list)
    caches: list[tuple[Tensor, ...]] = field(default_factory=list)


class Encoder(keras.layers.Layer):
    """The layers, and the final norm where there is one."""

    def __init__(self, spec: EncoderSpec, dtype: Any) -> None:
        super().__init__(name="encoder", dtype=dtype)
        with keras.name_scope(self.name):
            self.layer = [Layer(spec, number, dtype) for number in range(spec.num_layers)]
            if spec.final_norm:
                self.LayerNorm = layer_norm(spec.hidden_size, spec.norm_eps, "LayerNorm", dtype)
        self.final_norm = spec.final_norm
        self.built = True

    def forward(
        self,
        x_TH: Tensor,
        layout: Padded,
        training: bool,
        *,
        head_mask: list[Tensor] | None = None,
        source: Source | None = None,
        caches: Any = None,
        keep: bool = False,
        hidden: bool = False,
        weights: bool = False,
    ) -> tuple[Tensor, Trace]:
        """Run the layers over rows (tokens, hidden).

        Args:
            layout: which rows belong together.
            head_mask: a factor for each layer.
            source: rows, tokens per sequence and bias of the states that cross-attention reads.
            caches: for each layer keys and values of earlier tokens.
            keep, hidden, weights: what the trace is to hold: caches, states of every layer, attention weights.
        """
        trace = Trace()
        for i, layer in enumerate(self.layer):
            if hidden:
                trace.hidden_states.append(x_TH)
            mask, cache = (None if given is None else given[i] for given in (head_mask, caches))
            x_TH, p, cross, kept = layer.forward(x_TH, layout, training, mask, source, cache)
            if weights:
                trace.attentions.append(p)
            if weights and cross is not None:
                trace.cross_attentions.append(cross)
            if keep:
                trace.caches.append(kept)
        if self.final_norm:
            x_TH = norm(self.LayerNorm, x_TH)
        if hidden:
            trace.hidden_states.append(x_TH)
        return x_TH, trace
