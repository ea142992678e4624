"""The module under every head: embeddings, encoder and pooler, and the one forward that everything runs.

The documented classes only name and check their arguments (:mod:`xlm.backends.flax.inputs`); what they mean is decided
here, once, from the spec. Everything here is pure and runs inside ``jit``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from xlm.backends.flax.embeddings import Embeddings
from xlm.backends.flax.encoder import Encoder, Trace
from xlm.backends.flax.heads import Pooler
from xlm.backends.flax.layout import Layout, cross_attention_bias, self_attention_bias
from xlm.backends.flax.ops import fork
from xlm.batches.batch import positions_after_padding
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec


@dataclass(frozen=True)
class Call:
    """The arguments of one documented call, of whichever family and head, as one pytree; absent ones are ``None``."""

    input_ids: Array | None = None
    attention_mask: Array | None = None
    token_type_ids: Array | None = None
    position_ids: Array | None = None
    head_mask: Array | None = None
    inputs_embeds: Array | None = None
    langs: Array | None = None
    lengths: Array | None = None
    segment_ids: Array | None = None
    encoder_hidden_states: Array | None = None
    encoder_attention_mask: Array | None = None
    past_key_values: dict[str, Array] | None = None
    dropout_rng: Array | None = None
    # what heads compare their answers with
    labels: Array | None = None
    start_positions: Array | None = None
    end_positions: Array | None = None
    is_impossible: Array | None = None
    cls_index: Array | None = None
    p_mask: Array | None = None
    # not arrays: another value is another compiled function
    output_attentions: bool = False
    output_hidden_states: bool = False
    problem: str = ""
    """What a classifier's labels are; see :func:`xlm.backends.flax.losses.problem_of`."""
    dtype: Any = jnp.float32
    remat: bool = False

    @property
    def keys(self) -> tuple[Array | None, Array | None]:
        """Keys of dropout: below the head, and in it."""
        one, two = fork(self.dropout_rng, 2)
        return one, two


STATIC = ("output_attentions", "output_hidden_states", "problem", "dtype", "remat")
jax.tree_util.register_dataclass(
    Call, data_fields=[f.name for f in fields(Call) if f.name not in STATIC], meta_fields=list(STATIC)
)


@dataclass
class Result:
    """States of one forward as (b, s, h), its trace, and the updated cache."""

    states: Array
    trace: Trace
    cache: dict[str, Array] | None


class Trunk(nnx.Module):
    """Embeddings, encoder and, where wanted, pooler."""

    def __init__(self, spec: EncoderSpec, pooler: bool) -> None:
        self.spec = spec
        self.embeddings = Embeddings(spec)
        self.encoder = Encoder(spec)
        self.pooler = Pooler(spec.hidden_size) if pooler else None

    @property
    def words(self) -> Array:
        """The word table (vocab, h), which tied decoders share."""
        return self.embeddings.word_embeddings.embedding[...]

    def run(self, call: Call) -> Result:
        """One forward.

        Raises:
            InputError: shapes that contradict each other.
        """
        spec = self.spec
        source = call.input_ids if call.inputs_embeds is None else call.inputs_embeds
        assert source is not None
        batch, length = source.shape[:2]
        past, keys = 0, length
        if call.past_key_values is not None:
            past, keys = call.past_key_values["cache_index"], call.past_key_values["cached_key"].shape[2]
        mask = call.attention_mask
        if mask is None and call.segment_ids is not None and spec.zero_padding:
            mask = (call.segment_ids > 0).astype(jnp.int32)
        if mask is None and spec.lengths_make_mask and call.past_key_values is None:
            mask = self._mask_of_lengths(call, batch, length)
        row_mask = None
        if spec.zero_padding and mask is not None and mask.ndim == 2 and mask.shape[1] == length:
            row_mask = mask[..., None]
        if call.inputs_embeds is None:
            words = self.embeddings.word_embeddings(source)
        else:
            words = call.inputs_embeds
            if words.shape[-1] != spec.hidden_size:
                raise InputError(f"inputs_embeds of width {words.shape[-1]}: must be {spec.hidden_size}")
        embed_key, layers_key = fork(call.keys[0], 2)
        positions = self._positions(call, batch, length, past)
        x = self.embeddings(words, positions, call.token_type_ids, call.langs, row_mask, call.dtype, embed_key)
        bias = self_attention_bias(spec, mask, call.segment_ids, batch, length, keys, past)
        cache = call.past_key_values
        x, trace = self.encoder(
            x,
            Layout(bias, row_mask, past),
            head_mask=self._head_mask(call.head_mask),
            source=self._source(call, batch, length),
            cache=None if cache is None else {k: cache[k] for k in ("cached_key", "cached_value")},
            key=layers_key,
            hidden=call.output_hidden_states,
            weights=call.output_attentions,
            remat=call.remat,
        )
        kept = None if trace.cache is None else {**trace.cache, "cache_index": past + length}
        return Result(x, trace, kept)

    def _mask_of_lengths(self, call: Call, batch: int, length: int) -> Array:
        lengths = call.lengths
        if lengths is None:
            if call.input_ids is None:
                return jnp.ones((batch, length), jnp.int32)
            lengths = (call.input_ids != self.spec.pad_id).sum(axis=1)
        return (jnp.arange(length)[None, :] < lengths[:, None]).astype(jnp.int32)

    def _positions(self, call: Call, batch: int, length: int, past: Any) -> Array:
        """Where each token stands: as given, else counted from the first token of its sequence."""
        spec, segments = self.spec, call.segment_ids
        if call.position_ids is not None:
            return jnp.broadcast_to(call.position_ids, (batch, length))
        if segments is not None:
            return _positions_in_segments(spec, call.input_ids, segments)
        if spec.positions_skip_padding and call.input_ids is not None:
            return positions_after_padding(jnp, call.input_ids, spec.pad_id, past)
        # Where positions skip padding, the reference counts embeddings from the first place even with a past.
        first = spec.position_offset + (0 if spec.positions_skip_padding else past)
        return jnp.broadcast_to(first + jnp.arange(length), (batch, length))

    def _head_mask(self, mask: Array | None) -> Array | None:
        if mask is None:
            return None
        layers, heads = self.spec.num_layers, self.spec.num_heads
        if mask.shape not in ((heads,), (layers, heads)):
            raise InputError(f"head_mask of shape {tuple(mask.shape)}: must be ({heads},) or ({layers}, {heads})")
        return jnp.broadcast_to(mask, (layers, heads))

    def _source(self, call: Call, batch: int, queries: int) -> tuple[Array, Array | None] | None:
        states = call.encoder_hidden_states
        if states is None or not self.spec.is_decoder:
            return None
        if not self.spec.cross_attention:
            raise InputError("encoder_hidden_states: the model has no cross-attention; set add_cross_attention=True")
        if states.ndim != 3 or states.shape[0] != batch or states.shape[2] != self.spec.hidden_size:
            raise InputError(
                f"encoder_hidden_states of shape {tuple(states.shape)}: "
                f"must be ({batch}, tokens, {self.spec.hidden_size})"
            )
        bias = cross_attention_bias(call.encoder_attention_mask, batch, queries, states.shape[1])
        return states.astype(call.dtype), bias


def _positions_in_segments(spec: EncoderSpec, ids: Array | None, segments: Array) -> Array:
    """Positions (b, s) that begin anew with every sequence of a packed row."""
    length = segments.shape[1]
    place = jnp.arange(length)[None, :]
    begins = jnp.concatenate([jnp.ones_like(segments[:, :1]), segments[:, 1:] != segments[:, :-1]], axis=1) == 1
    starts = jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
    if not spec.positions_skip_padding:
        return place - starts
    real = segments > 0 if ids is None else (ids != spec.pad_id) & (segments > 0)
    count = jnp.cumsum(real, axis=1)
    before = jnp.take_along_axis(count, starts, axis=1) - jnp.take_along_axis(real, starts, axis=1)
    return (count - before) * real + spec.pad_id
