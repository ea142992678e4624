"""Byte-pair encoding of thousands of words at once: one array of symbols, merged round by round in all words together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from xlm.tokenizers.bpe import END

Int32 = NDArray[np.int32]
_NONE = np.iinfo(np.int32).max


class PairTable:
    """``(first, second) -> value`` over arrays: open addressing, a quarter full, so that most look-ups are one look."""

    def __init__(self, first: Int32, second: Int32, values: Int32) -> None:
        bits = max(4, int(4 * len(values)).bit_length())
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self._keys = np.full(1 << bits, -1, np.int64)
        self._values = np.full(1 << bits, _NONE, np.int32)
        keys = self._key(first, second)
        slots = self._slot(keys)
        waiting = np.arange(len(keys))
        while len(waiting):
            # Of those that want one free slot the last written has it; the others go on to the next.
            free = self._keys[slots[waiting]] < 0
            self._keys[slots[waiting[free]]] = keys[waiting[free]]
            won = self._keys[slots[waiting]] == keys[waiting]
            self._values[slots[waiting[won]]] = values[waiting[won]]
            waiting = waiting[~won]
            slots[waiting] = (slots[waiting] + 1) & self._mask

    @staticmethod
    def _key(first: Int32, second: Int32) -> NDArray[np.int64]:
        return first.astype(np.int64) << 32 | second

    def _slot(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        mixed = keys.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        return (mixed * np.uint64(0xBF58476D1CE4E5B9) >> self._shift).astype(np.int64)

    def __call__(self, first: Int32, second: Int32) -> Int32:
        """The value of every pair, the largest int32 where there is none."""
        keys = self._key(first, second)
        slots = self._slot(keys)
        there = self._keys[slots]
        found = np.where(there == keys, self._values[slots], _NONE)
        waiting = np.flatnonzero((there != keys) & (there >= 0))
        while len(waiting):
            slots[waiting] = (slots[waiting] + 1) & self._mask
            there, wanted = self._keys[slots[waiting]], keys[waiting]
            hit = there == wanted
            found[waiting[hit]] = self._values[slots[waiting[hit]]]
            waiting = waiting[~hit & (there >= 0)]
        return found


@dataclass(slots=True)
class _Words:
    """Words one after another: ``symbols``, the rank of each with its neighbour, whether it ends its word; ``sizes`` of the
    words, which of all words they are."""

    symbols: Int32
    ranks: Int32
    last: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    numbers: NDArray[np.int64]


class BatchBPE:
    """``ranks`` are a :class:`~xlm.tokenizers.bpe.BPE`'s; ``ids`` those of all tokens, ``unknown`` that of any other."""

    def __init__(self, ranks: Mapping[tuple[str, ...], int], ids: Mapping[str, int], unknown: int) -> None:
        known = {pair: rank for pair, rank in ranks.items() if len(pair) == 2}
        lefts, rights = [left for left, _ in known], [right for _, right in known]
        merged = list(map("".join, known))
        size = 1 + len(END)
        single = [token for token in ids if len(token) == 1 or (len(token) == size and token.endswith(END))]
        # Symbol 0 is whatever the vocabulary knows nothing of.
        strings = ["", *dict.fromkeys(chain(lefts, rights, merged, single))]
        number = dict(zip(strings, range(len(strings)), strict=True))
        first, second, both = (
            np.fromiter(map(number.__getitem__, of), np.int32, len(of)) for of in (lefts, rights, merged)
        )
        values = np.fromiter(known.values(), np.int32, len(known))
        self._ranks = PairTable(first, second, values)
        self._merged = np.zeros(int(values.max(initial=-1)) + 1, np.int32)
        self._merged[values] = both
        self._ids = np.fromiter(map(ids.get, strings, repeat(unknown)), np.int64, len(strings))
        self._ids[0] = unknown
        self._inner = _by_code({string: number[string] for string in strings if len(string) == 1})
        final = [string for string in strings if len(string) == size and string.endswith(END)]
        self._final = _by_code({string[0]: number[string] for string in final})

    def __call__(self, codes: NDArray[np.uint32]) -> tuple[tuple[int, ...], NDArray[np.int64]]:
        """``(ids, ends)`` of words given as code points, a newline (10) between every two.

        ``ends`` (words + 1,) says where the ids of each word begin and end; a word of no characters has none.
        """
        cuts = np.flatnonzero(codes == 10)
        edges = np.concatenate([[-1], cuts, [len(codes)]])
        sizes = np.diff(edges) - 1
        last = np.zeros(len(codes), bool)
        last[edges[1:][sizes > 0] - 1] = True
        symbols = np.where(last, _look_up(self._final, codes), _look_up(self._inner, codes))
        inside = codes != 10
        symbols, last = symbols[inside], last[inside]
        final = self._merge(symbols, last, sizes)
        kept = self._squeeze(symbols, sizes, final)
        return tuple(self._ids[kept].tolist()), np.concatenate([[0], np.cumsum(final)])

    @staticmethod
    def _squeeze(symbols: Int32, room: NDArray[np.int64], used: NDArray[np.int64]) -> Int32:
        """The first ``used`` symbols of every word's ``room``."""
        starts = np.cumsum(room) - room
        place = np.arange(len(symbols)) - np.repeat(starts, room)
        return symbols[place < np.repeat(used, room)]

    def _merge(self, symbols: Int32, last: NDArray[np.bool_], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Merge in place, every word's symbols at the beginning of its room; returns how many are left of each word."""
        ranks = np.full(len(symbols), _NONE, np.int32)
        open_ = np.flatnonzero(~last)
        ranks[open_] = self._ranks(symbols[open_], symbols[open_ + 1])
        home = np.cumsum(sizes) - sizes
        final = sizes.copy()
        numbers = np.flatnonzero(sizes)
        words = _Words(symbols.copy(), ranks, last, sizes[numbers], numbers)
        while len(words.numbers):
            best = np.minimum.reduceat(words.ranks, np.cumsum(words.sizes) - words.sizes)
            done = best == _NONE
            if done.any():
                ready = np.repeat(done, words.sizes)
                counts, which = words.sizes[done], words.numbers[done]
                begins = np.cumsum(counts) - counts
                symbols[np.repeat(home[which] - begins, counts) + np.arange(int(counts.sum()))] = words.symbols[ready]
                final[which] = counts
                stay, more = ~ready, ~done
                words = _Words(
                    words.symbols[stay], words.ranks[stay], words.last[stay], words.sizes[more], words.numbers[more]
                )
                best = best[more]
            if len(best):
                words = self._round(words, best)
        return final

    def _round(self, words: _Words, best: Int32) -> _Words:
        """Every word's best pair merged, wherever it occurs in the word, from left to right."""
        places = np.flatnonzero(words.ranks == np.repeat(best, words.sizes))
        follows = np.diff(places, prepend=-2) == 1
        if follows.any():
            # The same symbol three times or more: every second pair of such a run.
            run = np.cumsum(~follows) - 1
            places = places[(np.arange(len(places)) - np.flatnonzero(~follows)[run]) % 2 == 0]
        ends = np.cumsum(words.sizes)
        sizes = words.sizes - np.bincount(np.searchsorted(ends, places, side="right"), minlength=len(ends))
        words.symbols[places] = self._merged[words.ranks[places]]
        words.last[places] = words.last[places + 1]
        stay = np.ones(len(words.symbols), bool)
        stay[places + 1] = False
        symbols, ranks, last = words.symbols[stay], words.ranks[stay], words.last[stay]
        # One symbol has gone for every place before; the pairs on both sides of a merged symbol are new.
        merged = places - np.arange(len(places))
        ranks[merged] = _NONE
        new = np.concatenate([merged, np.maximum(merged - 1, 0)])
        new = new[~last[new]]
        ranks[new] = self._ranks(symbols[new], symbols[new + 1])
        return _Words(symbols, ranks, last, sizes, words.numbers)


def _by_code(numbers: Mapping[str, int]) -> Int32:
    """A table over code points, one place longer than the largest: that is where larger ones are looked up."""
    table = np.zeros(max((ord(char) for char in numbers), default=0) + 2, np.int32)
    for char, number in numbers.items():
        table[ord(char)] = number
    return table


def _look_up(table: Int32, codes: NDArray[np.uint32]) -> Int32:
    return table[np.minimum(codes, len(table) - 1)]
