"""Ids -> first states: words, positions, languages and token types, summed, normalised, dropped out."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xlm.backends.keras.ops import Table, Tensor, dropout, eager, layer_norm, norm
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec


class Embeddings(keras.layers.Layer):
    """The tables of a spec. All inputs are flat rows: one id a token."""

    def __init__(self, spec: EncoderSpec, dtype: Any) -> None:
        super().__init__(name="embeddings", dtype=dtype)
        self.spec = spec
        hidden, pad = spec.hidden_size, spec.pad_id
        with keras.name_scope(self.name):
            self.word_embeddings = Table(spec.vocab_size, hidden, "word_embeddings", dtype, pad)
            own_pad = pad if spec.positions_skip_padding else None
            self.position_embeddings = Table(spec.max_positions, hidden, "position_embeddings", dtype, own_pad)
            if spec.num_token_types:
                self.token_type_embeddings = Table(spec.num_token_types, hidden, "token_type_embeddings", dtype)
            if spec.num_languages:
                self.language_embeddings = Table(spec.num_languages, hidden, "language_embeddings", dtype)
            if spec.embedding_norm:
                self.LayerNorm = layer_norm(hidden, spec.norm_eps, "LayerNorm", dtype)
            self.dropout = keras.layers.Dropout(spec.embedding_dropout, dtype=dtype)
        if spec.sinusoidal:  # a formula, not something to learn
            self.position_embeddings.trainable = False
        self.built = True

    def forward(
        self,
        words_TH: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor | None,
        languages: Tensor | None,
        row_mask: Tensor | None,
        training: bool,
    ) -> Tensor:
        """Add to word vectors (T, hidden) what the ids of shape (T,) name; padding is zeroed where the spec says so."""
        spec, x = self.spec, words_TH
        if spec.num_token_types:
            types = tf.zeros_like(position_ids) if token_type_ids is None else token_type_ids
            x = x + self.token_type_embeddings.rows(types)
        if spec.position_kind == "absolute":
            x = x + self.position_embeddings.rows(position_ids)
        if languages is not None and spec.num_languages:
            x = x + self.language_embeddings.rows(languages)
        if spec.token_types_from_words and token_type_ids is not None:
            x = x + self.word_embeddings.rows(token_type_ids)
        if spec.embedding_norm:
            x = norm(self.LayerNorm, x)
        x = dropout(self.dropout, x, training)
        return x if row_mask is None else x * tf.cast(row_mask, x.dtype)


def sinusoids(positions: int, hidden: int) -> np.ndarray:
    """The fixed table (positions, hidden) of Vaswani et al. 2017: sine in even, cosine in odd columns."""
    column = np.arange(hidden)
    angle = np.arange(positions)[:, None] / 10000 ** (2 * (column // 2) / hidden)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def check_ids(name: str, ids: Tensor, limit: int, owner: str) -> None:
    """Refuse ids outside a table before a kernel reads past its end; their values never inside a graph.

    Raises:
        InputError: names the argument, the place, the value and the limit.
    """
    if not ids.dtype.is_integer:
        raise InputError(f"{name} of dtype {ids.dtype.name}: must be integers")
    if not eager(ids):
        return
    values = ids.numpy()
    bad = (values < 0) | (values >= limit)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{name}{list(place)}={values[place]}: must be from 0 to {limit - 1} ({owner})")
