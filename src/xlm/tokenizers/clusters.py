"""Which texts the two references of XLM-R might normalise differently: one entry by entry, the other by grapheme cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import regex
from numpy.typing import NDArray

_CODES = 0x110000
_EDGE = "\U0010ffff"
# What is known of a character: it has an entry of its own; it continues a cluster; it may come second in an entry of
# several characters; a text with it is always looked at (it joins what follows, or only one reference strips it).
_RULED, _EXTENDS, _SECOND, _ALWAYS = 1, 2, 4, 8


@lru_cache(maxsize=1)
def _properties() -> NDArray[np.uint8]:
    """(0x110000,) the flags that are facts about Unicode, from the library that also finds the clusters."""
    flags = np.zeros(_CODES, np.uint8)
    everything = np.arange(_CODES, dtype=np.uint32).tobytes().decode("utf-32-le", "surrogatepass")
    for pattern, flag in (
        (r"[\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}\p{GCB=V}\p{GCB=T}]+", _EXTENDS),
        (r"[\p{GCB=Prepend}\u0085\u2581]+", _ALWAYS),
    ):
        for match in regex.finditer(pattern, everything):
            flags[match.start() : match.end()] |= flag
    return flags


def in_pairs(pairs: NDArray[np.int64], first: NDArray[np.uint32], second: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether the sorted ``pairs`` hold ``first << 21 | second``."""
    if not len(pairs):
        return np.zeros(len(first), bool)
    keys = first.astype(np.int64) << 21 | second
    return pairs[np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)] == keys


class Clusters:
    """``ruled`` (0x110000,) marks characters with an entry of their own; ``pairs`` are the sorted numbers
    ``first << 21 | second`` of the two characters that entries of several begin with."""

    def __init__(self, ruled: NDArray[np.bool_], pairs: NDArray[np.int64]) -> None:
        flags = _properties().copy()
        flags[ruled] |= _RULED
        flags[np.unique(pairs & 0x1FFFFF)] |= _SECOND
        self._flags, self._pairs = flags, pairs
        self._quick = _quick_table(flags, np.unique(pairs >> 21))

    def odd(self, texts: Sequence[str]) -> list[int]:
        """The places of the texts for which normalising by clusters might give another result, and few others.

        It can where something continues a cluster after a character that has an entry, and where two characters have an
        entry together that by clusters is not found: the cluster has more characters, or at least six bytes, or ends
        between the two.
        """
        chosen = self._suspicious(texts, [n for n, text in enumerate(texts) if not text.isascii() or "\r\n" in text])
        if not chosen:
            return []
        joined = _EDGE.join([texts[number] for number in chosen]) + _EDGE * 2
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        flags = self._flags[codes]
        here, following = flags[:-1], flags[1:]
        found = (here & _ALWAYS) | ((here & _RULED) & (following >> 1))
        # Three bytes and three bytes are a cluster that is looked up character by character.
        found[(codes[:-1] >= 0x800) & (codes[1:] >= 0x800) & (found == 1)] = 0
        found |= (codes[:-1] == 13) & (codes[1:] == 10)
        seconds = np.flatnonzero(following & _SECOND)
        seconds = seconds[in_pairs(self._pairs, codes[seconds], codes[seconds + 1])]
        apart = (codes[seconds] >= 0x800) | (codes[seconds + 1] >= 0x10000) | ((here[seconds] & _EXTENDS) != 0)
        apart |= ((following[seconds] & _EXTENDS) == 0) | ((flags[seconds + 2] & _EXTENDS) != 0)
        found[seconds[apart]] = 1
        places = np.flatnonzero(found)
        if not places.size:
            return []
        ends = np.cumsum([len(texts[number]) + 1 for number in chosen])
        return [chosen[number] for number in np.unique(np.searchsorted(ends, places, side="right")).tolist()]

    def _suspicious(self, texts: Sequence[str], chosen: list[int]) -> list[int]:
        """Those of the chosen texts in which two neighbours share a bit of the quick table: a look at every character."""
        joined = " ".join([*(texts[number] for number in chosen), ""])
        bits = self._quick.take(np.frombuffer(joined.encode("utf-16-le", "surrogatepass"), np.uint16))
        shared = bits[:-1] & (bits[1:] >> 4)
        if not shared.max(initial=0):
            return []
        units = [len(texts[number].encode("utf-16-le", "surrogatepass")) // 2 + 1 for number in chosen]
        found = np.unique(np.searchsorted(np.cumsum(units), np.flatnonzero(shared), side="right"))
        return [chosen[number] for number in found.tolist()]


def _quick_table(flags: NDArray[np.uint8], firsts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(0x10000,) for every unit of UTF-16 four bits about it as the first of two, above them four about it as the second.

    Of two that might make a difference the first has a bit that the second has too. Halves of characters beyond the basic
    plane, carriage returns and what is always looked at have one in common with everything.
    """
    flags = flags[:0x10000]
    codes = np.arange(0x10000)
    small = codes < 0x800
    ruled, extends, second = ((flags & flag) != 0 for flag in (_RULED, _EXTENDS, _SECOND))
    first = (ruled & small) | (ruled & ~small) << 1 | np.isin(codes, firsts) << 2
    first |= (((flags & _ALWAYS) != 0) | (codes == 13) | (codes & 0xF800 == 0xD800)) << 3
    then = extends | (extends & small) << 1 | second << 2 | 8
    return (first | then << 4).astype(np.uint8)
