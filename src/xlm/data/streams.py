"""Endless, random-access streams of training rows: row i is a pure function of the stores, the options and the seed.

Each language's rows are taken in epochs: every epoch cuts the text at another place, visits its blocks in another order,
and uses every block exactly once before the next epoch begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xlm.batches.packing import Blocks, complete_blocks, stream_blocks
from xlm.data.random import keyed
from xlm.data.sampling import LanguageOrder
from xlm.data.store import TokenStore
from xlm.errors import DataError

BlockMode = Literal["complete", "stream"]
Pair = tuple[int, NDArray[np.int64], NDArray[np.int64]]


class _Epochs:
    """Rank in a language -> (epoch, index within the epoch), where epochs may differ in length."""

    def __init__(self) -> None:
        self._ends: list[int] = []

    def locate(self, rank: int, length: Callable[[int], int]) -> tuple[int, int]:
        while not self._ends or self._ends[-1] <= rank:
            self._ends.append((self._ends[-1] if self._ends else 0) + length(len(self._ends)))
        epoch = int(np.searchsorted(self._ends, rank, side="right"))
        return epoch, rank - (self._ends[epoch - 1] if epoch else 0)


class BlockStream:
    """Monolingual rows: ``<s>`` and then up to ``length - 1`` tokens, sentences separated by ``</s>``. With ``bos_id`` None
    rows are ``length`` tokens of the text and nothing else, as in XLM's streams.

    ``rows(start, count)`` gives ``[(language index, ids)]``. With ``mode="stream"`` every row has exactly ``length`` tokens
    (if the language has so many), with ``"complete"`` rows hold whole sentences and are at most that long.
    """

    def __init__(
        self,
        stores: Mapping[str, TokenStore],
        probabilities: Mapping[str, float],
        length: int,
        bos_id: int | None,
        mode: BlockMode,
        seed: int,
        name: str = "blocks",
    ) -> None:
        self.languages = list(probabilities)
        self._stores = [stores[language] for language in self.languages]
        self._length, self._mode, self._seed = length, mode, seed
        self._bos = np.array([] if bos_id is None else [bos_id], np.int64)
        self._name = name
        self._order = LanguageOrder(probabilities, seed, name)
        self._epochs = [_Epochs() for _ in self.languages]
        self._tables: dict[int, tuple[int, Blocks]] = {}
        for language, store in zip(self.languages, self._stores, strict=True):
            if not len(store):
                raise DataError(f"{store.folder}: language {language!r} has no text")

    def _table(self, language: int, epoch: int) -> Blocks:
        if (cached := self._tables.get(language)) is None or cached[0] != epoch:
            rng = keyed(self._seed, "blocks", self._name, self.languages[language], epoch)
            store, capacity = self._stores[language], self._length - len(self._bos)
            if self._mode == "complete":
                table = complete_blocks(store.offsets, capacity, int(rng.integers(len(store))))
            else:
                table = stream_blocks(len(store.tokens), capacity, int(rng.integers(capacity)))
            cached = (epoch, rng.permutation(table))
            self._tables[language] = cached
        return cached[1]

    def rows(self, start: int, count: int) -> list[tuple[int, NDArray[np.int64]]]:
        rows: list[tuple[int, NDArray[np.int64]]] = []
        for language, rank in self._order.draw(start, count):
            epoch, index = self._epochs[language].locate(rank, lambda e, at=language: len(self._table(at, e)))
            begin, end = self._table(language, epoch)[index].tolist()
            rows.append((language, np.concatenate([self._bos, self._stores[language].slice(begin, end)])))
        return rows


class PairStream:
    """Translation pairs: ``pairs(start, count)`` gives ``[(language index, ids of the text, ids of its translation)]``, both
    without special tokens."""

    def __init__(
        self, stores: Mapping[str, TokenStore], probabilities: Mapping[str, float], seed: int, name: str
    ) -> None:
        self.languages = list(probabilities)
        self._stores = [stores[language] for language in self.languages]
        self._seed, self._name = seed, name
        self._order = LanguageOrder(probabilities, seed, name)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        for language, store in zip(self.languages, self._stores, strict=True):
            if len(store) < 2:
                raise DataError(f"{store.folder}: language {language!r} has no pairs")

    def pairs(self, start: int, count: int) -> list[Pair]:
        """The pairs of draws ``start ...``, each in a language of its own draw."""
        return [self._pair(language, self._index(language, rank)) for language, rank in self._order.draw(start, count)]

    def batch_of_one_language(self, draw: int, count: int, pool: int) -> list[Pair]:
        """``count`` distinct pairs of similar length in one language, that of draw number ``draw``.

        A language's epoch is cut into pools of ``pool`` batches, sorted by length within, whose batches come in random
        order; what does not fill a batch is left to another epoch. A language with fewer than ``count`` pairs gives all.
        """
        ((language, rank),) = self._order.draw(draw, 1)
        store = self._stores[language]
        batches = max(len(store) // 2 // count, 1)
        epoch, batch = divmod(rank, batches)
        pool_index, within = divmod(batch, pool)
        here = min(pool, batches - pool_index * pool)
        first = pool_index * pool * count
        members = self._permutation(language, epoch)[first : first + here * count]
        order = np.argsort(store.offsets[2 * members + 2] - store.offsets[2 * members], kind="stable")
        key = (self._seed, "pool", self._name, self.languages[language], epoch, pool_index)
        chosen = int(keyed(*key).permutation(here)[within])
        return [self._pair(language, index) for index in members[order[chosen * count : (chosen + 1) * count]].tolist()]

    def mean_length(self, probabilities: Mapping[str, float], limit: int) -> float:
        """The expected number of tokens of the two sides together, each side counted up to ``limit``."""
        mean = 0.0
        for language, store in zip(self.languages, self._stores, strict=True):
            mean += probabilities[language] * 2 * float(np.minimum(np.diff(store.offsets) - 1, limit).mean())
        return mean

    def _index(self, language: int, rank: int) -> int:
        epoch, index = divmod(rank, len(self._stores[language]) // 2)
        return int(self._permutation(language, epoch)[index])

    def _permutation(self, language: int, epoch: int) -> NDArray[np.int64]:
        if (cached := self._orders.get(language)) is None or cached[0] != epoch:
            rng = keyed(self._seed, "pairs", self._name, self.languages[language], epoch)
            cached = self._orders[language] = (epoch, rng.permutation(len(self._stores[language]) // 2))
        return cached[1]

    def _pair(self, language: int, index: int) -> Pair:
        store = self._stores[language]
        return language, store.sentence(2 * index), store.sentence(2 * index + 1)
