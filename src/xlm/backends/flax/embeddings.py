"""Ids -> first states: words, positions, languages and token types, summed, normalised, dropped out."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from xlm.backends.flax.ops import Embed, LayerNorm, dropout
from xlm.families.spec import EncoderSpec


class Embeddings(nnx.Module):
    """The tables of a spec."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        hidden = spec.hidden_size
        self.word_embeddings = Embed(spec.vocab_size, hidden, fixed=spec.pad_id, axes=("vocab", None))
        padding = spec.pad_id if spec.positions_skip_padding else None
        self.position_embeddings = Embed(spec.max_positions, hidden, fixed=padding)
        if spec.num_token_types:
            self.token_type_embeddings = Embed(spec.num_token_types, hidden)
        if spec.num_languages:
            self.language_embeddings = Embed(spec.num_languages, hidden)
        if spec.embedding_norm:
            self.LayerNorm = LayerNorm(hidden, spec.norm_eps)

    def __call__(
        self,
        words: Array,
        position_ids: Array,
        token_type_ids: Array | None,
        languages: Array | None,
        row_mask: Array | None,
        dtype: Any,
        key: Array | None,
    ) -> Array:
        """Add to word vectors (b, s, hidden) what the ids (b, s) name; the result is of type ``dtype``."""
        spec, x = self.spec, words
        if spec.num_token_types:
            types = jnp.zeros_like(position_ids) if token_type_ids is None else token_type_ids
            x = x + self.token_type_embeddings(types)
        if spec.position_kind == "absolute":
            places = self.position_embeddings(position_ids)
            x = x + (lax.stop_gradient(places) if spec.sinusoidal else places)
        if languages is not None and spec.num_languages:
            x = x + self.language_embeddings(languages)
        if spec.token_types_from_words and token_type_ids is not None:
            x = x + self.word_embeddings(token_type_ids)
        x = x.astype(dtype)
        if spec.embedding_norm:
            x = self.LayerNorm(x)
        x = dropout(x, spec.embedding_dropout, key)
        return x if row_mask is None else x * row_mask.astype(x.dtype)


def sinusoids(positions: int, hidden: int) -> np.ndarray:
    """The fixed table (positions, hidden) of Vaswani et al. 2017: sine in even, cosine in odd columns; float32."""
    column = np.arange(hidden, dtype=np.float64)
    angle = np.arange(positions, dtype=np.float64)[:, None] / 10000 ** (2 * (column // 2) / hidden)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)
