"""Texts as vectors: pooling states into one vector a text, and finding the nearest. No framework."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xlm.errors import InputError

Floats = NDArray[np.float32]
POOLINGS = ("mean", "cls", "max")


def pool(states: Floats, lengths: Sequence[int], pooling: str) -> Floats:
    """One vector (n, hidden) for each of n sequences whose states (tokens, hidden) lie end to end; no length is 0.

    Each sequence is reduced on its own, so a vector does not depend on its neighbours.
    """
    starts = np.cumsum([0, *lengths[:-1]]) if len(lengths) else np.zeros(0, np.int64)
    if pooling == "cls":
        return states[starts]
    if pooling == "max":
        return np.maximum.reduceat(states, starts, axis=0)
    if pooling == "mean":
        sums = np.add.reduceat(states, starts, axis=0)
        return (sums / np.asarray(lengths)[:, None]).astype(np.float32)
    raise InputError(f"pooling is {pooling!r}: it must be one of {', '.join(POOLINGS)}")


def normalized(vectors: Floats) -> Floats:
    """The vectors (n, hidden) scaled to unit length; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def nearest(similarity: NDArray[np.floating]) -> NDArray[np.int64]:
    """The most similar column (n,) of every row of (n, m), the first among equals."""
    return similarity.argmax(axis=-1)
