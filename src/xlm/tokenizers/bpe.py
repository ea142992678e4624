"""Byte-pair encoding with fastBPE's merges: words to pieces, the last of which ends in ``</w>``."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from xlm.errors import CheckpointError
from xlm.tokenizers.memo import Memo

END = "</w>"
_REMEMBERED = 65_536
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
        self._memo = Memo(self._pieces, _REMEMBERED)

    def __getstate__(self) -> dict[str, object]:
        return {"ranks": self.ranks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.ranks, self._memo = state["ranks"], Memo(self._pieces, _REMEMBERED)

    def __call__(self, word: str) -> tuple[str, ...]:
        """The pieces of a word; joined they are the word and ``</w>``."""
        return self._memo[word]

    def _pieces(self, word: str) -> tuple[str, ...]:
        symbols = [*word[:-1], word[-1] + END]
        return tuple(self._short(symbols) if len(symbols) <= _LONG else self._long(symbols))

    def _short(self, symbols: list[str]) -> list[str]:
        """The pair of the lowest rank, wherever it occurs, until no pair has one; quadratic, but quick for words."""
        rank, none = self.ranks.get, len(self.ranks)
        # The rank of every pair of neighbours, and one more for the last symbol, which has none.
        found = [rank(pair, none) for pair in pairwise(symbols)] + [none]
        while (best := min(found)) < none:
            at = -1
            while best in found:
                at = found.index(best, at + 1)
                symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
                del found[at]
                if at + 1 < len(symbols):
                    found[at] = rank((symbols[at], symbols[at + 1]), none)
                if at:
                    found[at - 1] = rank((symbols[at - 1], symbols[at]), none)
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
