"""Byte-pair encoding with fastBPE's merges: words to pieces, the last of which ends in ``</w>``."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np

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
    """Merges by rank, word by word. Words are remembered, a bounded number of them; words of any length take n log n time.

    :class:`xlm.tokenizers.bpe_batch.BatchBPE` does the same for thousands of words at once.
    """

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

    @cached_property
    def _by_rank(self) -> dict[int, tuple[str, ...]]:
        """``rank -> (left, right, both)``, so that a merge makes no string."""
        return {rank: (*pair, "".join(pair)) for pair, rank in self.ranks.items()}

    def _long(self, given: list[str]) -> list[str]:
        """The same with the places of every rank kept apart: from the lowest rank on, each place is looked at a few times."""
        ranks, none, size = self.ranks.get, len(self.ranks) + 1, len(given)
        symbols: list[str | None] = [*given]
        found = np.fromiter(map(ranks, pairwise(given), repeat(none)), np.int32, size - 1)
        order = np.argsort(found, kind="stable").astype(np.int32)
        waiting, firsts = np.unique(found[order], return_index=True)
        bounds = dict(zip(waiting.tolist(), pairwise([*firsts.tolist(), size - 1]), strict=True))
        bounds.pop(none, None)
        after, before = array("i", range(1, size + 1)), array("i", range(-1, size - 1))
        # Pairs that merges have made, by rank; some of them are gone again when their turn comes.
        made: dict[int, array[int]] = {}
        heap = list(bounds)
        while heap:
            rank = heapq.heappop(heap)
            left, right, both = self._by_rank[rank]
            places = order[slice(*bounds.pop(rank, (0, 0)))].tolist()
            if rank in made:
                places = sorted([*places, *made.pop(rank)])
            touched: list[int] = []
            for at in places:
                following = after[at]
                # A symbol that is gone is None, and no pair's.
                if following >= size or symbols[at] != left or symbols[following] != right:
                    continue
                symbols[at], symbols[following] = both, None
                behind = after[at] = after[following]
                if behind < size:
                    before[behind] = at
                touched.append(at)
            for at in touched:
                for start in (before[at], at):
                    if start < 0 or after[start] >= size:
                        continue
                    new = ranks((symbols[start], symbols[after[start]]))  # type: ignore[arg-type]
                    if new is not None:
                        if new not in made:
                            made[new] = array("i")
                            if new not in bounds:
                                heapq.heappush(heap, new)
                        made[new].append(start)
        return [symbol for symbol in symbols if symbol is not None]
