"""What an encoder *is*: the switches in which XLM, XLM-RoBERTa and XLM-RoBERTa-XL differ, as one frozen record.

A spec is a pure function of a config, made once when a model is built. Every backend's layers read its fields; none of
them asks which family it belongs to. What changes from call to call (``output_attentions``, ``return_dict``, ...)
stays in the config.

    norm_order="post"  (XLM, XLM-R)           norm_order="pre"  (XL, XXL)

    x ─┬─ attention ─ + ─ LN ─┐               x ─┬─ LN ─ attention ─ + ─┐
       └───────────────┘      │                  └────────────────────┘ │
    ┌─────────────────────────┘               ┌─────────────────────────┘
    └┬─ FFN ────────── + ─ LN ─▶              └┬─ LN ─ FFN ───────── + ─▶  ...  encoder.LayerNorm
     └─────────────────┘                       └─────────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Activation = str | Callable[[Any], Any]


@dataclass(frozen=True)
class EncoderSpec:
    """The architecture of one encoder. Sizes are counts; dropouts are probabilities."""

    # sizes
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    activation: Activation
    """Of the feed-forward layers: a name (``gelu``, ``relu``, ``silu``, ``gelu_new``, ...) or a callable."""
    pad_id: int

    # normalisation and residuals
    norm_order: Literal["post", "pre"]
    embedding_norm: bool
    """LayerNorm over the sum of the embeddings."""
    final_norm: bool
    """LayerNorm after the last layer; it is part of the last entry of ``hidden_states``."""
    norm_eps: float

    # positions
    position_kind: Literal["absolute", "relative_key", "relative_key_query"]
    sinusoidal: bool
    """The position table is fixed: sine in even, cosine in odd columns."""
    max_positions: int
    """Rows of the position table."""
    position_offset: int
    """Id of the first position: ``pad_id + 1`` where positions skip padding, else 0."""
    positions_skip_padding: bool
    """Padding takes position ``pad_id`` and does not count; else positions are 0, 1, 2, ... whatever the ids are."""

    # further embeddings
    num_token_types: int
    """Rows of the token type table; 0: there is none."""
    token_types_from_words: bool
    """Token types are looked up in the word table; ``None`` adds nothing (XLM)."""
    num_languages: int
    """Rows of the language table; 0: there is none."""

    # attention
    is_decoder: bool
    """Causal over what the mask leaves visible; returns caches."""
    causal_only: bool
    """The triangle alone decides what is visible; padding is not masked (XLM with ``causal=True``)."""
    cross_attention: bool
    """A second attention in every layer, to the states of another text: of decoders in an encoder-decoder."""
    zero_padding: bool
    """States of padded tokens are set to zero after the embeddings and after every layer (XLM)."""
    lengths_make_mask: bool
    """Without a mask, the first ``lengths`` tokens are visible, by default as many as there are ids that are not padding
    (XLM); else everything is visible and padding is never inferred."""

    # dropout and initialisation
    embedding_dropout: float
    hidden_dropout: float
    """After the attention output projection and, where ``ffn_dropout`` says so, after the feed-forward block."""
    attention_dropout: float
    ffn_dropout: float
    init_std: float
    embedding_init_std: float
    feed_forward_chunk: int
    """Tokens per chunk of the feed-forward block along the sequence; 0: all at once."""

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def max_tokens(self) -> int:
        """Longest sequence with special tokens that has a position for every token (XLM-R: 514 rows, 512 tokens)."""
        return self.max_positions - self.position_offset
