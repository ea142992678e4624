"""Byte-pair encoding with fastBPE's merges: words to pieces, the last of which ends in ``</w>``."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from xlm.errors import CheckpointError

END = "</w>"
_CACHE = 100_000
_CACHED_LENGTH = 64
_LONG = 64


def read_merges(path: Path) -> list[tuple[str, ...]]:
    """The first two columns of every line. As in the reference a last line without a newline is not read."""
    try:
        lines = path.read_text("utf-8").split("\n")[:-1]
    except OSError as error:
        raise CheckpointError(f"merges_file {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"merges_file {path}: not UTF-8 at byte {error.start:,}") from error
    return [tuple(line.split()[:2]) for line in lines]


class BPE:
    """Merges by rank. Words are remembered, a bounded number of them; words of any length take n log n time."""

    def __init__(self, merges: Sequence[tuple[str, ...]]) -> None:
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._cache: dict[str, tuple[str, ...]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"ranks": self.ranks, "_cache": {}}

    def __call__(self, word: str) -> tuple[str, ...]:
        """The pieces of a word; joined they are the word and ``</w>``."""
        found = self._cache.get(word)
        if found is None:
            symbols = [*word[:-1], word[-1] + END]
            found = tuple(self._short(symbols) if len(symbols) <= _LONG else self._long(symbols))
            if len(word) <= _CACHED_LENGTH:
                if len(self._cache) >= _CACHE:
                    self._cache.clear()
                self._cache[word] = found
        return found

    def _short(self, symbols: list[str]) -> list[str]:
        ranks = self.ranks
        while len(symbols) > 1:
            best, rank = None, len(ranks)
            for pair in pairwise(symbols):
                found = ranks.get(pair)
                if found is not None and found < rank:
                    best, rank = pair, found
            if best is None:
                break
            first, second = best
            merged: list[str] = []
            index, last = 0, len(symbols) - 1
            while index <= last:
                if index < last and symbols[index] == first and symbols[index + 1] == second:
                    merged.append(first + second)
                    index += 2
                else:
                    merged.append(symbols[index])
                    index += 1
            symbols = merged
        return symbols

    def _long(self, symbols: list[str]) -> list[str]:
        """The same by a heap of pairs. All pairs of the lowest rank are merged from left to right before new ones count."""
        ranks = self.ranks
        after = [*range(1, len(symbols)), -1]
        before = list(range(-1, len(symbols) - 1))
        alive = [True] * len(symbols)
        heap = [(r, i) for i in range(len(symbols) - 1) if (r := ranks.get((symbols[i], symbols[i + 1]))) is not None]
        heapq.heapify(heap)
        while heap:
            rank = heap[0][0]
            places: list[int] = []
            while heap and heap[0][0] == rank:
                places.append(heapq.heappop(heap)[1])
            touched: list[int] = []
            for left in sorted(set(places)):
                right = after[left] if alive[left] else -1
                if right < 0 or ranks.get((symbols[left], symbols[right])) != rank:
                    continue
                symbols[left] += symbols[right]
                alive[right] = False
                after[left] = after[right]
                if after[right] >= 0:
                    before[after[right]] = left
                touched.append(left)
            for place in touched:
                if not alive[place]:
                    continue
                for left in (before[place], place):
                    if left >= 0 and after[left] >= 0:
                        found = ranks.get((symbols[left], symbols[after[left]]))
                        if found is not None:
                            heapq.heappush(heap, (found, left))
        return [symbol for symbol, living in zip(symbols, alive, strict=True) if living]
