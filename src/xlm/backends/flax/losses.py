"""The losses of the documented heads, over logits and labels: pure, computed in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from xlm.errors import InputError
from xlm.families.config import PretrainedConfig

IGNORED = -100


def cross_entropy(logits: Array, labels: Array, ignored: int = IGNORED) -> Array:
    """Mean over labels that are not ``ignored``; logits (..., classes), labels (...). NaN where all labels are ignored."""
    counted = labels != ignored
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.take_along_axis(log_p, jnp.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.where(counted, chosen, 0.0).sum() / counted.sum()


def shifted_cross_entropy(logits: Array, labels: Array, segments: Array | None = None) -> Array:
    """Causal language modelling: the logits of token ``t`` answer for label ``t + 1``.

    In packed rows, whose ``segments`` (b, s) count from 1 with 0 for padding, only within a sequence.
    """
    labels = labels[:, 1:]
    if segments is not None:
        follows = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        labels = jnp.where(follows, labels, IGNORED)
    return cross_entropy(logits[:, :-1], labels)


def problem_of(config: PretrainedConfig, labels: Any) -> str:
    """Sequence classification or regression: ``config.problem_type``.

    Where it is unset it follows from the labels and stays set: one label is a regression, integers are classes,
    anything else is a multi-hot table.
    """
    if config.problem_type is None:
        if config.num_labels == 1:
            config.problem_type = "regression"
        else:
            integers = jnp.issubdtype(labels.dtype, jnp.integer)
            config.problem_type = "single_label_classification" if integers else "multi_label_classification"
    return str(config.problem_type)


def classification(logits: Array, labels: Array, problem: str) -> Array:
    """The loss of a problem type: logits (b, labels), labels (b,) classes or values, or (b, labels)."""
    if problem == "single_label_classification":
        return cross_entropy(logits, labels.reshape(logits.shape[:-1]))
    logits, wide = logits.astype(jnp.float32), labels.astype(jnp.float32)
    if problem == "regression":
        if logits.shape[-1] == 1:
            logits, wide = logits.reshape(-1), wide.reshape(-1)
        return ((logits - wide) ** 2).mean()
    if wide.shape != logits.shape:
        raise InputError(f"labels of shape {labels.shape}: multi-label targets must be {logits.shape}")
    return (jax.nn.softplus(logits) - logits * wide).mean()


def spans(start_logits: Array, end_logits: Array, start: Array, end: Array) -> Array:
    """Mean of the two cross-entropies of an answer's ends (b,); places outside the input do not count.

    Negative positions count as 0 and those at or past the length are ignored, as documented.
    """
    length = start_logits.shape[1]
    pairs = ((start_logits, start), (end_logits, end))
    return sum((cross_entropy(x, place.reshape(-1).clip(0, length), length) for x, place in pairs), jnp.zeros(())) / 2
