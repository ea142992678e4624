"""Which sentences an update consists of, chosen by seed, job and number alone, and their rows as packed arrays.

No framework here. Every epoch visits each sentence once, in an order of its own; sentences of similar length stand together
in batches of a number of tokens, whose order is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlm.batches.packing import pack, split_budget
from xlm.data.random import keyed
from xlm.tasks.translate import Ids

_POOL = 16  # batches that are sorted by length together


class Batches:
    """Batches of at most ``tokens`` tokens; a longer sentence stands alone.

    Args:
        sizes: tokens of every sentence.
        name: what the order is drawn by, beside the seed.
    """

    def __init__(self, sizes: Sequence[int], tokens: int, seed: int, name: str) -> None:
        self._sizes, self._tokens = np.asarray(sizes, np.int64), tokens
        self._key = (seed, "sentences", name)
        self._epochs: list[int] = []  # batches of every epoch so far
        self._order: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def __call__(self, number: int) -> NDArray[np.int64]:
        """The sentences of batch ``number`` (from 0), the longest first."""
        epoch = 0
        while True:
            if len(self._epochs) == epoch:
                self._epochs.append(len(self._batches(epoch)))
            if number < self._epochs[epoch]:
                return self._batches(epoch)[number]
            number -= self._epochs[epoch]
            epoch += 1

    def in_first_epoch(self) -> int:
        """Batches of the first epoch; later ones have about as many."""
        return len(self._batches(0))

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        if self._order[0] != epoch:
            rng = keyed(*self._key, epoch)
            order = rng.permutation(len(self._sizes))
            pool = max(int(_POOL * self._tokens / max(self._sizes.mean(), 1)), 1)
            batches: list[NDArray[np.int64]] = []
            for start in range(0, len(order), pool):
                part = order[start : start + pool]
                part = part[np.argsort(-self._sizes[part], kind="stable")]
                batches += [part[a:b] for a, b in split_budget(self._sizes[part].tolist(), self._tokens)]
            self._order = (epoch, [batches[index] for index in rng.permutation(len(batches)).tolist()])
        return self._order[1]


@dataclass(frozen=True)
class Rows:
    """One side of a pass: rows end to end, ``language`` for all their tokens."""

    ids: Ids
    lengths: list[int]
    language: int | None

    @property
    def languages(self) -> Ids | None:
        """The language of every token."""
        return None if self.language is None else np.full(len(self.ids), self.language, np.int64)


@dataclass(frozen=True)
class Pass:
    """One forward pass: ``target`` row i is written after ``source`` row i was read; ``wanted`` (target tokens,) is the token
    that follows each."""

    source: Rows
    target: Rows
    wanted: Ids


def passes(
    sources: Sequence[Ids], targets: Sequence[Ids], of_source: int | None, of_target: int | None, limit: int
) -> list[Pass]:
    """Pairs of whole rows (special tokens included) in passes of at most ``limit`` tokens, the longest targets first."""
    order = sorted(range(len(targets)), key=lambda index: (-len(targets[index]), -len(sources[index])))
    found = []
    for start, end in split_budget([len(sources[i]) + len(targets[i]) for i in order], limit):
        chosen = order[start:end]
        read, read_lengths = pack([sources[index] for index in chosen])
        written, written_lengths = pack([targets[index][:-1] for index in chosen])
        wanted, _ = pack([targets[index][1:] for index in chosen])
        found.append(Pass(Rows(read, read_lengths, of_source), Rows(written, written_lengths, of_target), wanted))
    return found
