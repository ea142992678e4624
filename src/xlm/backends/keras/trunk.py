"""The model under every head: embeddings, encoder and pooler, and the one forward that everything runs.

The documented classes only name their arguments; what they mean is decided here, once, from the spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from xlm.backends.keras.embeddings import Embeddings, check_ids
from xlm.backends.keras.encoder import Encoder, Trace
from xlm.backends.keras.heads import Pooler
from xlm.backends.keras.layout import Padded, check_mask, cross_attention_bias, fits, self_attention_bias
from xlm.backends.keras.ops import Tensor, eager, sizes, wide_type
from xlm.backends.keras.pretrained import TFPreTrainedModel
from xlm.batches.batch import positions_after_padding
from xlm.errors import InputError


@dataclass
class Call:
    """The arguments of one documented call, of whichever family; absent ones are ``None``."""

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    head_mask: Tensor | None = None
    inputs_embeds: Tensor | None = None
    langs: Tensor | None = None
    lengths: Tensor | None = None
    cache: dict[Any, Any] | None = None
    encoder_hidden_states: Tensor | None = None
    encoder_attention_mask: Tensor | None = None
    past_key_values: Any = None
    use_cache: bool | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    training: bool | None = False


@dataclass
class Result:
    """States of one forward as (b, s, h), and its trace in the shapes of the documentation."""

    states: Tensor
    caches: tuple[Any, ...] | None
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    cross_attentions: tuple[Tensor, ...] | None


class TrunkModel(TFPreTrainedModel):
    """Abstract base of ``TFXLMModel``, ``TFXLMRobertaModel`` and ``TFXLMRobertaXLModel``."""

    def __init__(self, config: Any, add_pooling_layer: bool = True, **kwargs: Any) -> None:
        kwargs.setdefault("name", self.family_of(config).theirs_prefix)
        super().__init__(config, **kwargs)
        policy = self.dtype_policy
        with keras.name_scope(self.name):
            self.embeddings = Embeddings(self.spec, policy)
            self.encoder = Encoder(self.spec, policy)
            pooled = add_pooling_layer and self.family.pooler
            self.pooler = Pooler(self.spec.hidden_size, policy) if pooled else None
        for number, heads in config.pruned_heads.items():
            self.encoder.layer[int(number)].attention.prune_heads(set(heads))
        self.finish()

    def get_config(self) -> dict[str, Any]:
        """What Keras needs to build the model again."""
        return {**super().get_config(), "add_pooling_layer": self.pooler is not None}

    def run(self, call: Call) -> Result:
        """One forward over a padded batch.

        Raises:
            InputError: both or neither of ids and embeddings, ids outside their tables, more tokens than positions,
                masks of a wrong shape, arguments that contradict each other.
        """
        spec, config, training = self.spec, self.config, bool(call.training)
        ids, embeds = call.input_ids, call.inputs_embeds
        if (ids is None) == (embeds is None):
            raise InputError("give either input_ids or inputs_embeds" + (", not both" if ids is not None else ""))
        full = self._full(ids, embeds)
        batch, total = sizes(full)[:2]
        weights = config.output_attentions if call.output_attentions is None else call.output_attentions
        hidden = config.output_hidden_states if call.output_hidden_states is None else call.output_hidden_states
        past, caches, keep = self._past(call, total)

        mask = call.attention_mask
        check_mask("attention_mask", mask)
        check_mask("encoder_attention_mask", call.encoder_attention_mask)
        if spec.lengths_make_mask and mask is None:
            mask = self._mask_of_lengths(call, full, total)
        elif spec.lengths_make_mask and mask is not None and not fits(mask.shape, batch, total):
            raise InputError(f"attention_mask of shape {tuple(mask.shape)}: must be {(batch, total)} like the input")
        # With a cache XLM takes the whole sequence again and computes the new tokens; the others take new tokens only.
        whole = call.cache is not None
        new = total - past if whole else total

        def recent(x: Any) -> Any:
            return x if x is None or not whole else x[:, total - new :]

        positions = self._positions(call, full, batch, total, 0 if whole else past)
        types = self._rows("token_type_ids", call.token_type_ids, batch, total)
        languages = self._rows("langs", call.langs, batch, total)
        if call.position_ids is None and spec.position_kind == "absolute":
            if isinstance(total, int) and total > spec.max_tokens:
                raise InputError(
                    f"{total} tokens: the model has positions for {spec.max_tokens} "
                    f"(max_position_embeddings={spec.max_positions})"
                )
        self._check_extra(positions, types, languages)
        positions, types, languages = (
            None if t is None else tf.reshape(recent(t), (-1,)) for t in (positions, types, languages)
        )
        words = tf.cast(recent(embeds), self.compute_dtype) if ids is None else self._words(recent(ids))
        row_mask = tf.reshape(recent(mask), (-1, 1)) if spec.zero_padding and mask is not None else None
        x = tf.reshape(words, (-1, spec.hidden_size))
        x = self.embeddings.forward(x, positions, types, languages, row_mask, training)
        layout = Padded(batch, new, self_attention_bias(spec, mask, batch, new, past, wide_type(x.dtype)), row_mask)
        x, trace = self.encoder.forward(
            x,
            layout,
            training,
            head_mask=self._head_mask(call.head_mask, x.dtype),
            source=self._source(call, batch, new, x.dtype),
            caches=caches,
            keep=keep,
            hidden=bool(hidden),
            weights=bool(weights),
        )
        shape = (batch, new, spec.hidden_size)
        return Result(
            states=tf.reshape(x, shape),
            caches=self._keep(call, trace, past + new if whole else 0) if keep else None,
            hidden_states=tuple(tf.reshape(h, shape) for h in trace.hidden_states) if hidden else None,
            attentions=tuple(trace.attentions) if weights else None,
            cross_attentions=tuple(trace.cross_attentions) if weights and spec.cross_attention else None,
        )

    # -- the parts of a call ------------------------------------------------------------------------------------------

    def _full(self, ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        name, full, rank = ("input_ids", ids, 2) if embeds is None else ("inputs_embeds", embeds, 3)
        assert full is not None
        if full.shape.rank != rank:
            axes = "(batch, sequence)" if embeds is None else "(batch, sequence, hidden)"
            raise InputError(f"{name} of shape {tuple(full.shape)}: must be {axes}")
        if embeds is not None and not fits(embeds.shape[-1:], self.spec.hidden_size):
            raise InputError(f"inputs_embeds of width {embeds.shape[-1]}: must be {self.spec.hidden_size}")
        if ids is not None:
            check_ids("input_ids", ids, self.spec.vocab_size, "the vocabulary")
        return full

    def _words(self, ids: Tensor) -> Tensor:
        return self.embeddings.word_embeddings.rows(ids)

    def _past(self, call: Call, total: Any) -> tuple[Any, Any, bool]:
        """Tokens in the past, each layer's keys and values, and whether to keep new ones."""
        if call.cache is not None:
            if "slen" not in call.cache:
                raise InputError("cache without the key 'slen': begin with {'slen': 0}")
            past = int(call.cache["slen"])
            if isinstance(total, int) and past >= total:
                raise InputError(f"cache of {past} tokens: the input must be the whole sequence, it has {total}")
            caches = [call.cache.get(i) for i in range(self.spec.num_layers)] if past else None
            return past, caches, True
        if not self.spec.is_decoder:
            return 0, None, False
        wanted = getattr(self.config, "use_cache", True) if call.use_cache is None else call.use_cache
        keep = bool(wanted) and not call.training
        if call.past_key_values is None:
            return 0, None, keep
        if len(call.past_key_values) != self.spec.num_layers:
            raise InputError(
                f"past_key_values of {len(call.past_key_values)} layers: the model has {self.spec.num_layers}"
            )
        return sizes(call.past_key_values[0][0])[2], call.past_key_values, keep

    def _keep(self, call: Call, trace: Trace, length: Any) -> tuple[Any, ...]:
        if call.cache is None:
            return tuple(trace.caches)
        call.cache.update(enumerate(trace.caches))
        call.cache["slen"] = length
        return ()

    def _mask_of_lengths(self, call: Call, full: Tensor, total: Any) -> Tensor:
        lengths = call.lengths
        if lengths is None:
            if call.input_ids is None:
                return tf.ones(tf.shape(full)[:2], tf.int32)
            lengths = tf.reduce_sum(tf.cast(call.input_ids != self.spec.pad_id, tf.int32), axis=1)
        elif not fits(lengths.shape, full.shape[0]):
            raise InputError(f"lengths of shape {tuple(lengths.shape)}: must be ({full.shape[0]},)")
        elif eager(lengths) and bool(tf.reduce_any((lengths > total) | (lengths < 0))):
            raise InputError(f"lengths={lengths.numpy().tolist()}: must be from 0 to {total}")
        return tf.cast(tf.range(total)[None, :] < tf.cast(lengths, tf.int32)[:, None], tf.int32)

    def _positions(self, call: Call, full: Tensor, batch: Any, total: Any, past: Any) -> Tensor:
        spec = self.spec
        if call.position_ids is not None:
            return self._rows("position_ids", call.position_ids, batch, total)
        if spec.positions_skip_padding and call.input_ids is not None:
            return positions_after_padding(tf, call.input_ids, spec.pad_id, past)
        # Where positions skip padding, the reference counts embeddings from the first place even with a past.
        first = spec.position_offset + (0 if spec.positions_skip_padding else past)
        places = tf.range(first, first + total)
        return tf.tile(places[None], (batch, 1))

    @staticmethod
    def _rows(name: str, value: Any, batch: Any, total: Any) -> Any:
        if value is None:
            return None
        if value.shape.rank == 1:
            value = value[None]
        if value.shape.rank != 2 or value.shape[0] not in (None, 1, batch) or not fits(value.shape[1:], total):
            raise InputError(f"{name} of shape {tuple(value.shape)}: must be {(batch, total)} like the input")
        return tf.broadcast_to(value, (batch, total))

    def _check_extra(self, positions: Tensor, types: Tensor | None, languages: Tensor | None) -> None:
        spec = self.spec
        if spec.position_kind == "absolute":
            check_ids("position_ids", positions, spec.max_positions, f"the longest input has {spec.max_tokens} tokens")
        if types is not None:
            limit = spec.vocab_size if spec.token_types_from_words else spec.num_token_types
            owner = "the vocabulary" if spec.token_types_from_words else "type_vocab_size"
            check_ids("token_type_ids", types, limit, owner)
        if languages is not None and spec.num_languages:
            check_ids("langs", languages, spec.num_languages, "n_langs")

    def _head_mask(self, mask: Tensor | None, dtype: Any) -> list[Tensor] | None:
        if mask is None:
            return None
        layers, heads = self.spec.num_layers, self.spec.num_heads
        if not fits(mask.shape, heads) and not fits(mask.shape, layers, heads):
            raise InputError(f"head_mask of shape {tuple(mask.shape)}: must be ({heads},) or ({layers}, {heads})")
        both: Any = tf.broadcast_to(mask, (layers, heads))
        return [tf.reshape(tf.cast(both[i], dtype), (1, -1, 1, 1)) for i in range(layers)]

    def _source(self, call: Call, batch: Any, queries: Any, dtype: Any) -> Any:
        states = call.encoder_hidden_states
        if states is None or not self.spec.is_decoder:
            return None
        if not self.spec.cross_attention:
            raise InputError("encoder_hidden_states: the model has no cross-attention; set add_cross_attention=True")
        hidden = self.spec.hidden_size
        if not fits(states.shape, batch, None, hidden):
            raise InputError(
                f"encoder_hidden_states of shape {tuple(states.shape)}: must be ({batch}, tokens, {hidden})"
            )
        keys = sizes(states)[1]
        bias = cross_attention_bias(call.encoder_attention_mask, batch, queries, keys, wide_type(dtype))
        return tf.reshape(tf.cast(states, dtype), (-1, hidden)), keys, bias
