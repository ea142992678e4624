"""Which tokens see which: the masks of one forward as one additive bias, for padded, packed and cached sequences.

States are (b, s, hidden). A packed row holds several sequences; its ``segment_ids`` (b, s) number them from 1, 0 is padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from xlm.errors import InputError
from xlm.families.spec import EncoderSpec


@dataclass(frozen=True)
class Layout:
    """What attention and padding need to know of a batch."""

    bias: Array | None = None
    """float32, broadcastable to (b, heads, q, k); added to the scaled scores."""
    row_mask: Array | None = None
    """(b, s, 1) factors that keep padding at zero, or ``None``."""
    past: Any = 0
    """Tokens in the cache before these: an integer or a scalar array."""


def additive(visible: Array) -> Array:
    """The bias of a mask: 0 where it is 1, the lowest finite float32 where it is 0, in between in between."""
    return (1.0 - visible.astype(jnp.float32)) * jnp.finfo(jnp.float32).min


def self_attention_bias(
    spec: EncoderSpec, mask: Array | None, segments: Array | None, batch: int, queries: int, keys: int, past: Any
) -> Array | None:
    """Bias of self-attention; ``None`` where every token sees every token.

    Args:
        mask: (b, k) or (b, q, k). Of a decoder a 2-D mask is joined with the triangle and a 3-D one is taken as it is.
        segments: (b, s) of packed rows: tokens see their own sequence only.
        queries, keys: new tokens, and places of the cache or, without one, the new tokens again.
        past: tokens in the cache.

    Raises:
        InputError: the mask has another rank or does not cover the keys.
    """
    if mask is not None:
        if mask.ndim not in (2, 3):
            raise InputError(
                f"attention_mask of shape {tuple(mask.shape)}: must be (batch, keys) or (batch, queries, keys)"
            )
        if mask.shape[0] != batch or (mask.ndim == 3 and mask.shape[1] != queries):
            raise InputError(f"attention_mask of shape {tuple(mask.shape)}: the ids are ({batch}, {queries})")
        if mask.ndim == 2 and keys != queries and mask.shape[1] == queries:
            # It names the new tokens only: the past is visible, what comes after is hidden by the triangle.
            mask = _place(mask, keys, past)
        if mask.shape[-1] != keys:
            raise InputError(
                f"attention_mask of shape {tuple(mask.shape)}: must cover the {keys} tokens of past and input"
            )
    cached = keys != queries
    causal = spec.causal_only or (spec.is_decoder and (mask is None or mask.ndim == 2)) or cached
    visible = None
    if causal:
        places = past + jnp.arange(queries)
        visible = (jnp.arange(keys)[None, :] <= places[:, None])[None, None].astype(jnp.float32)
    if mask is not None and not spec.causal_only:
        seen = (mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]).astype(jnp.float32)
        if spec.lengths_make_mask:  # only zeros hide
            seen = (seen != 0).astype(jnp.float32)
        visible = seen if visible is None else visible * seen
    if segments is not None:
        same = (segments[:, :, None] == segments[:, None, :])[:, None].astype(jnp.float32)
        visible = same if visible is None else visible * same
    return None if visible is None else additive(visible)


def _place(mask: Array, keys: int, past: Any) -> Array:
    """A mask (b, new) inside one of (b, keys): ones before, zeros after."""
    place = jnp.arange(keys) - past
    inside = (place >= 0) & (place < mask.shape[1])
    taken = mask[:, jnp.clip(place, 0, mask.shape[1] - 1)]
    return jnp.where(inside, taken, (place < 0).astype(mask.dtype))


def cross_attention_bias(mask: Array | None, batch: int, queries: int, keys: int) -> Array | None:
    """Bias of cross-attention from the encoder's mask (b, k) or (b, q, k)."""
    if mask is None:
        return None
    if mask.ndim not in (2, 3) or mask.shape[0] != batch or mask.shape[-1] != keys:
        raise InputError(
            f"encoder_attention_mask of shape {tuple(mask.shape)}: "
            f"must be ({batch}, {keys}) or ({batch}, {queries}, {keys})"
        )
    return additive(mask[:, None, None, :] if mask.ndim == 2 else mask[:, None])
