"""What cross-attention reads: the states of another text, and how they belong to the sequences that read them.

A padded source is a rectangle like the target's. A packed one lies end to end beside a packed target; attention then runs
on a few rectangles, each of sequence pairs of similar lengths, filled from the rows and emptied into them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xlm.backends.torch.transfer import upload
from xlm.errors import InputError

_WASTE, _SMALL = 2.0, 4096
"""A rectangle may be this many times as large as what it holds, and this many scores larger."""


@dataclass(frozen=True)
class Rectangle:
    """Some pairs of sequences, as (pairs, queries) and (pairs, keys) places with the rows that fill them."""

    pairs: int
    queries: int
    keys: int
    query_rows: Tensor
    """(n,) packed target rows, in the order of their places."""
    query_places: Tensor
    """(n,) where each stands in (pairs * queries)."""
    key_rows: Tensor
    key_places: Tensor
    visible: Tensor | None
    """(pairs, 1, 1, keys) booleans, True where a key is there; ``None``: everywhere."""


@dataclass(frozen=True)
class Crossing:
    """A packed target and its packed source: the rectangles, and the place of every target row in all their rows."""

    targets: tuple[int, ...]
    sources: tuple[int, ...]
    rectangles: tuple[Rectangle, ...]
    order: Tensor | None
    """(tokens,): where each target row comes in the rectangles' rows; ``None``: in its own place."""

    @classmethod
    def of(cls, targets: Sequence[int], sources: Sequence[int], device: torch.device) -> Crossing:
        """Pair sequences of lengths ``targets`` with those of lengths ``sources``.

        Raises:
            InputError: not as many of one as of the other, or an empty sequence.
        """
        if len(targets) != len(sources):
            raise InputError(f"{len(targets)} targets and {len(sources)} sources: there must be as many")
        for name, lengths in (("target", targets), ("source", sources)):
            if lengths and min(lengths) < 1:
                raise InputError(f"{name} {list(lengths).index(min(lengths))} is empty: at least one token is needed")
        t, s = np.asarray(targets, dtype=np.int64), np.asarray(sources, dtype=np.int64)
        starts = [np.cumsum(lengths) - lengths for lengths in (t, s)]
        rectangles = [_rectangle(group, t, s, starts, device) for group in _groups(t, s)]
        order = None
        if len(rectangles) > 1:
            rows = torch.cat([one.query_rows for one in rectangles])
            order = torch.empty_like(rows)
            order[rows] = torch.arange(len(rows), device=device)
        return cls(tuple(targets), tuple(sources), tuple(rectangles), order)


@dataclass(frozen=True)
class Source:
    """The states that cross-attention reads.

    Attributes:
        rows: (tokens, hidden).
        length: tokens a sequence of a padded source.
        bias: of a padded source, broadcastable to (b, heads, q, k).
        crossing: of a packed source.
    """

    rows: Tensor
    length: int = 0
    bias: Tensor | None = None
    crossing: Crossing | None = None


def _groups(t: np.ndarray, s: np.ndarray) -> Iterator[np.ndarray]:
    """The indices of the pairs of each rectangle; one if that wastes little."""
    if not len(t):
        return
    if len(t) * t.max() * s.max() <= _WASTE * (t * s).sum() + _SMALL:
        yield np.arange(len(t))
        return
    order = np.lexsort((t, s))
    start, wide, high, held = 0, 0, 0, 0
    for at, pair in enumerate(order):
        wider, higher, more = max(wide, t[pair]), max(high, s[pair]), held + t[pair] * s[pair]
        if at > start and (at - start + 1) * wider * higher > _WASTE * more + _SMALL:
            yield np.sort(order[start:at])
            start, wider, higher, more = at, t[pair], s[pair], t[pair] * s[pair]
        wide, high, held = wider, higher, more
    yield np.sort(order[start:])


def _rectangle(
    group: np.ndarray, t: np.ndarray, s: np.ndarray, starts: list[np.ndarray], device: torch.device
) -> Rectangle:
    places, rows = [], []
    for lengths, begin in zip((t[group], s[group]), (starts[0][group], starts[1][group]), strict=True):
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows.append(np.repeat(begin, lengths) + inside)
        places.append(np.repeat(np.arange(len(group)) * lengths.max(), lengths) + inside)
    queries, keys = int(t[group].max()), int(s[group].max())
    there = np.arange(keys)[None, :] < s[group][:, None]
    q_rows, k_rows, q_places, k_places = (upload(torch.from_numpy(a), device) for a in (*rows, *places))
    visible = None if there.all() else upload(torch.from_numpy(there)[:, None, None], device)
    return Rectangle(len(group), queries, keys, q_rows, q_places, k_rows, k_places, visible)
