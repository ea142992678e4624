"""The losses of the documented heads, over logits and labels.

As documented, losses over tokens are one number, of shape (1,), and losses over examples are one number an example:
(b,). The mean of either is what the other frameworks return. All compute in float32 at least.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from xlm.backends.keras.layout import fits
from xlm.backends.keras.ops import Tensor, eager
from xlm.errors import InputError
from xlm.families.config import PretrainedConfig

IGNORED = -100


def wide(logits: Tensor) -> Tensor:
    """Logits in float32 at least."""
    return logits if logits.dtype == tf.float64 else tf.cast(logits, tf.float32)


def check_labels(labels: Tensor, classes: int, name: str = "labels") -> None:
    """Refuse labels that are no classes of the logits; their values never inside a graph.

    Raises:
        InputError: a label is neither ``-100`` nor a class.
    """
    if not labels.dtype.is_integer:
        raise InputError(f"{name} of dtype {labels.dtype.name}: classes are integers")
    if not eager(labels):
        return
    values = labels.numpy()
    bad = (values != IGNORED) & ((values < 0) | (values >= classes))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{name}{list(place)}={values[place]}: must be -100 or from 0 to {classes - 1}")


def each(logits: Tensor, labels: Tensor, ignored: Any = IGNORED) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every label, 0 where it is ``ignored``; and 1 where it counts: both of the labels' shape."""
    counts = labels != ignored
    safe = tf.where(counts, labels, tf.zeros_like(labels))
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=safe, logits=wide(logits))
    counted = tf.cast(counts, loss.dtype)
    return loss * counted, counted


def tokens(logits: Tensor, labels: Tensor, config: PretrainedConfig) -> Tensor:
    """Mean (1,) over labels (b, s) that are not ``-100``; NaN where all are ignored.

    With ``config.tf_legacy_loss`` the cross-entropies of the labels that count, unreduced.
    """
    _same(labels, logits.shape[:-1])
    check_labels(labels, logits.shape[-1])
    loss, counted = each(logits, labels)
    if getattr(config, "tf_legacy_loss", False):
        return tf.boolean_mask(loss, counted > 0)
    return tf.reshape(tf.reduce_sum(loss) / tf.reduce_sum(counted), (1,))


def shifted_tokens(logits: Tensor, labels: Tensor, config: PretrainedConfig) -> Tensor:
    """Causal language modelling: the logits of token ``t`` answer for label ``t + 1``."""
    _same(labels, logits.shape[:-1])
    return tokens(logits[:, :-1], labels[:, 1:], config)


def classes(logits: Tensor, labels: Tensor, name: str = "labels") -> Tensor:
    """Cross-entropies (b,) of logits (b, classes); labels (b,) that are -100 weigh nothing, the others more for it."""
    labels = one_each(name, labels, logits.shape[0])
    check_labels(labels, logits.shape[-1], name)
    return weighed(*each(logits, labels))


def weighed(loss: Tensor, counted: Tensor) -> Tensor:
    """Losses (b,) scaled so that their mean over all rows is their mean over those that count."""
    return loss * (tf.cast(tf.size(counted), loss.dtype) / tf.reduce_sum(counted))


def classification(logits: Tensor, labels: Tensor, config: PretrainedConfig) -> Tensor:
    """Sequence classification or regression (b,) by ``config.problem_type``.

    Where it is unset it follows from the labels and stays set: one label is a regression, integers are classes,
    anything else is a multi-hot table.
    """
    count = logits.shape[-1]
    if config.problem_type is None:
        if count == 1:
            config.problem_type = "regression"
        else:
            integers = labels.dtype.is_integer
            config.problem_type = "single_label_classification" if integers else "multi_label_classification"
    if config.problem_type == "single_label_classification":
        return classes(logits, labels)
    logits = wide(logits)
    labels = tf.cast(labels, logits.dtype)
    if config.problem_type == "regression" and count == 1:
        return tf.math.squared_difference(tf.reshape(logits, (-1,)), one_each("labels", labels, logits.shape[0]))
    _same(labels, logits.shape)
    if config.problem_type == "regression":
        return tf.reduce_mean(tf.math.squared_difference(logits, labels), axis=-1)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits), axis=-1)


def spans(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Means (b,) of the two cross-entropies of an answer's ends; places outside the input do not count.

    Positions (b,) or (b, 1): negative ones count as 0 and those at or past the length are ignored, as documented.
    """
    length = tf.shape(start_logits)[1]
    total = 0.0
    for logits, place, name in ((start_logits, start, "start_positions"), (end_logits, end, "end_positions")):
        if not place.dtype.is_integer:
            raise InputError(f"{name} of dtype {place.dtype.name}: places of tokens are integers")
        place = one_each(name, place, logits.shape[0])
        place = tf.clip_by_value(place, 0, tf.cast(length, place.dtype))
        total += weighed(*each(logits, place, ignored=tf.cast(length, place.dtype)))
    return total / 2


def one_each(name: str, value: Tensor, batch: Any) -> Tensor:
    """One value a sequence, (b,) or (b, 1), as (b,).

    Raises:
        InputError: another shape.
    """
    if not fits(value.shape, batch) and not fits(value.shape, batch, 1):
        raise InputError(f"{name} of shape {tuple(value.shape)}: must be ({batch},)")
    return tf.reshape(value, (-1,))


def _same(labels: Tensor, shape: Any, name: str = "labels") -> None:
    if not fits(labels.shape, *shape):
        raise InputError(f"{name} of shape {tuple(labels.shape)}: must be {tuple(shape)}")
