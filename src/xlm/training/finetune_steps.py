"""What a fine-tuning step consists of: the items of step s, chosen by seed and step alone, as packed arrays.

No framework here. Every epoch visits each item once in an order of its own; items of similar length stand together, which
is what packed attention is quick at, in batches whose order is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xlm.batches.masking import Masked
from xlm.batches.packing import pack
from xlm.data.random import keyed
from xlm.errors import InputError
from xlm.tasks.base import Ids, Item

_POOL = 16  # batches that are sorted by length together


@dataclass(frozen=True)
class Packed:
    """One forward pass: all rows of ``items``, the longest first, without padding.

    ``place[i]`` is where the i-th row in the items' order stands; ``targets`` are the items', in their order.
    """

    items: list[Item]
    ids: Ids
    lengths: list[int]
    place: NDArray[np.int64]
    languages: Ids | None = None
    masked: Masked | None = None
    """What a language model is fed instead of ``ids``, and what it is to predict."""

    @property
    def targets(self) -> list[Any]:
        return [item.target for item in self.items]

    def by_token(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Values a token, given a row in the items' order, in the order of the packed tokens."""
        ordered: list[Any] = [None] * len(values)
        for place, value in zip(self.place.tolist(), values, strict=True):
            ordered[place] = value
        return np.concatenate(ordered)

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The inverse: values (tokens, ...) as one array a row, in the items' order."""
        ends = np.cumsum(self.lengths)[:-1]
        parts = np.split(values, ends)
        return [parts[place] for place in self.place.tolist()]


def packed(items: Sequence[Item], languages: Sequence[int | None] | None = None) -> Packed:
    """The rows of some items end to end; ``languages`` is an index an example, where the model has language embeddings.

    Raises:
        InputError: some of the items have a language and some none: these are no pass (see :func:`by_tokens`).
    """
    rows = [row for item in items for row in item.rows]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows))
    ids, lengths = pack([rows[index] for index in order])
    of_token = None
    if languages is not None:
        of_row = [languages[item.example] for item in items for _ in item.rows]
        if None in of_row and any(language is not None for language in of_row):
            raise InputError("items with and without a language embedding in one pass: each kind needs its own")
        if None not in of_row:
            of_token = np.repeat(np.asarray([of_row[index] for index in order], np.int64), lengths)
    return Packed(list(items), ids, lengths, place, of_token)


def by_tokens(items: Sequence[Item], limit: int, languages: Sequence[int | None] | None = None) -> list[list[Item]]:
    """Groups of neighbours with at most ``limit`` tokens each; a larger item stands alone.

    With ``languages``, an index an example, those that have none follow in groups of their own: a pass has language
    embeddings or has not.
    """
    groups: list[list[Item]] = []
    if languages is not None:
        known = [item for item in items if languages[item.example] is not None]
        without = [item for item in items if languages[item.example] is None]
        return [*by_tokens(known, limit), *by_tokens(without, limit)]
    total = 0
    for item in items:
        if not groups or total + item.tokens > limit:
            groups.append([])
            total = 0
        groups[-1].append(item)
        total += item.tokens
    return groups


class Plan:
    """Which items belong to which step."""

    def __init__(self, items: Sequence[Item], batch: int, epochs: float, seed: int) -> None:
        self.items, self.batch, self.seed = items, batch, seed
        self.steps_an_epoch = math.ceil(len(items) / batch)
        self.steps = max(round(self.steps_an_epoch * epochs), 1)
        self._epoch: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def done(self, step: int) -> float:
        """Progress in [0, 1] after ``step`` steps."""
        return min(step / self.steps, 1.0)

    def step(self, number: int) -> list[Item]:
        """The items of step ``number`` (from 0)."""
        epoch, place = divmod(number, self.steps_an_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return [self.items[index] for index in self._epoch[1][place].tolist()]

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        rng = keyed(self.seed, "epoch", epoch)
        order = rng.permutation(len(self.items))
        sizes = np.asarray([item.tokens for item in self.items])
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), self.batch * _POOL):
            pool = order[start : start + self.batch * _POOL]
            pool = pool[np.argsort(-sizes[pool], kind="stable")]
            batches += [pool[at : at + self.batch] for at in range(0, len(pool), self.batch)]
        return [batches[index] for index in rng.permutation(len(batches)).tolist()]
