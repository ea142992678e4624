"""How the rows of states (tokens, hidden) belong to sequences, and the bias that attention adds to its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from xlm.backends.keras.ops import Tensor, eager, sizes
from xlm.batches.batch import causal_mask
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec


@dataclass(frozen=True)
class Padded:
    """Rows are (batch * length); attention adds ``bias`` (broadcastable to (b, heads, q, k), float32) to its scores."""

    batch: Any
    length: Any
    bias: Tensor | None = None
    row_mask: Tensor | None = None
    """(batch * length, 1) numbers that keep padding at zero, or ``None``."""


def additive(visible: Tensor, dtype: Any) -> Tensor:
    """Scores' bias of a mask: 0 where it is 1, the lowest finite value of ``dtype`` where it is 0; see ``ops.softmax``."""
    return (1 - tf.cast(visible, dtype)) * dtype.min


def check_mask(name: str, mask: Tensor | None) -> None:
    """Refuse mask values that are neither hidden (0), visible (1) nor between; never inside a graph.

    Raises:
        InputError: names the argument, the place, the value and the limits.
    """
    if mask is None or mask.dtype == tf.bool or not eager(mask):
        return
    good = (mask >= 0) & (mask <= 1)
    if not bool(tf.reduce_all(good)):
        place = tf.where(~good)[0].numpy().tolist()
        raise InputError(f"{name}{place}={mask.numpy()[tuple(place)]}: must be from 0 to 1, 1 = visible")


def fits(shape: Any, *wanted: Any) -> bool:
    """Whether a shape is as wanted, as far as both are known; wanted sizes that are not numbers fit anything."""
    if len(shape) != len(wanted):
        return False
    return all(a is None or not isinstance(b, int) or a == b for a, b in zip(shape, wanted, strict=True))


def self_attention_bias(spec: EncoderSpec, mask: Tensor | None, batch: Any, queries: Any, past: Any, dtype: Any) -> Any:
    """Bias of self-attention from a mask (b, k) or (b, q, k); ``None`` where every token sees every token.

    A decoder joins a 2-D mask with the triangle and takes a 3-D mask as it is. ``causal_only`` encoders (XLM) use the
    triangle alone.

    Raises:
        InputError: the mask has another rank or does not cover the keys.
    """
    keys = past + queries
    if mask is not None:
        if mask.shape.rank not in (2, 3):
            raise InputError(
                f"attention_mask of shape {tuple(mask.shape)}: must be (batch, keys) or (batch, queries, keys)"
            )
        if not fits(mask.shape[:-1], *(batch, queries)[: mask.shape.rank - 1]):
            raise InputError(f"attention_mask of shape {tuple(mask.shape)}: the ids are ({batch}, {queries})")
    if spec.causal_only:
        return additive(causal_mask(_Ranges, queries, keys, past), dtype)[None, None]
    if mask is not None and mask.shape.rank == 3:
        _check_keys(mask, keys)
        return additive(mask[:, None], dtype)
    triangle = causal_mask(_Ranges, queries, keys, past)[None, None] if spec.is_decoder else None
    if mask is None:
        # A single new token sees its whole past.
        return None if triangle is None or (isinstance(queries, int) and queries == 1) else additive(triangle, dtype)
    if triangle is not None and not (isinstance(past, int) and past == 0) and fits(mask.shape, batch, queries):
        # The mask names the new tokens only: the past is visible. Of unknown size it may name all, and none is missing.
        missing = keys - sizes(mask)[1]
        mask = tf.concat([tf.ones([sizes(mask)[0], missing], mask.dtype), mask], axis=1)
    _check_keys(mask, keys)
    visible = tf.cast(mask[:, None, None, :], dtype)
    if spec.lengths_make_mask:  # XLM hides zeros only
        visible = tf.cast(visible != 0, dtype)
    return additive(visible if triangle is None else visible * tf.cast(triangle, dtype), dtype)


def cross_attention_bias(mask: Tensor | None, batch: Any, queries: Any, keys: Any, dtype: Any) -> Tensor | None:
    """Bias of cross-attention from the encoder's mask (b, k) or (b, q, k)."""
    if mask is None:
        return None
    if not fits(mask.shape, batch, keys) and not fits(mask.shape, batch, queries, keys):
        raise InputError(
            f"encoder_attention_mask of shape {tuple(mask.shape)}: "
            f"must be ({batch}, {keys}) or ({batch}, {queries}, {keys})"
        )
    return additive(mask[:, None, None, :] if mask.shape.rank == 2 else mask[:, None], dtype)


def _check_keys(mask: Tensor, keys: Any) -> None:
    if not fits(mask.shape[-1:], keys):
        raise InputError(f"attention_mask of shape {tuple(mask.shape)}: must cover the {keys} tokens of past and input")


class _Ranges:
    """TensorFlow as the namespace of :func:`causal_mask`."""

    arange = tf.range
