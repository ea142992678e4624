"""SentencePiece's compiled character map: what every character, or sequence of characters, becomes (NFKC and more).

The blob holds the byte size of a double array, the array (darts-clone's layout: one 32-bit unit a node) and the
replacements, each ended by a zero byte. Tables over all code points are read out of it at once, so that the length of
the normalised text, and with it every offset, is array arithmetic.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from functools import cached_property

import numpy as np
import regex
from numpy.typing import NDArray

from xlm.errors import CheckpointError
from xlm.tokenizers.clusters import cluster_pattern

_CODES = 0x110000
_GRAPHEMES = regex.compile(r"\X")


class CharsMap:
    """Read-only once built; shared by every tokenizer of the same vocabulary."""

    def __init__(self, blob: bytes, name: str = "charsmap") -> None:
        if blob:
            size = struct.unpack_from("<I", blob)[0] if len(blob) >= 4 else 0
            if not 0 < size <= len(blob) - 4 or size % 4:
                raise CheckpointError(
                    f"{name}: the character map claims a table of {size:,} bytes: {max(0, len(blob) - 4):,} are there"
                )
            self._units = np.frombuffer(blob, "<u4", size // 4, 4)
            self._texts = blob[4 + size :]
        else:
            self._units = np.zeros(1, "<u4")
            self._texts = b""
        self._check(name)
        self._pairs: dict[str, tuple[int, str] | None] = {}

    def _check(self, name: str) -> None:
        """Every value must lie inside the replacements; SentencePiece itself would read past their end."""
        leaves = self._units[(self._units >> np.uint32(31)) == 1] & np.uint32(0x7FFFFFFF)
        if leaves.size and int(leaves.max()) >= max(1, len(self._texts)):
            raise CheckpointError(
                f"{name}: the character map points to byte {int(leaves.max()):,} of {len(self._texts):,}"
            )
        if self._texts and self._texts[-1] != 0:
            raise CheckpointError(f"{name}: the replacements of the character map do not end with a zero byte")

    def _text(self, at: int) -> str:
        return self._texts[at : self._texts.index(b"\0", at)].decode("utf-8", "replace")

    def matches(self, key: bytes) -> list[tuple[int, str]]:
        """``(bytes matched, replacement)`` of every entry that ``key`` begins with, the shortest first."""
        units, found = self._units, []
        unit = int(units[0])
        node = (unit >> 10) << ((unit & 512) >> 6)
        for size, byte in enumerate(key, 1):
            node ^= byte
            if node >= len(units):
                break
            unit = int(units[node])
            if unit & 0x800000FF != byte:
                break
            node ^= (unit >> 10) << ((unit & 512) >> 6)
            if unit & 256 and node < len(units):
                found.append((size, self._text(int(units[node]) & 0x7FFFFFFF)))
        return found

    @cached_property
    def _values(self) -> NDArray[np.int32]:
        """(0x110000,) where the replacement of a single code point begins, -1 for none."""
        values = np.full(_CODES, -1, np.int32)
        code = np.arange(_CODES, dtype=np.uint32)
        ranges = ((0, 0x80, 1), (0x80, 0x800, 2), (0x800, 0x10000, 3), (0x10000, _CODES, 4))
        units = self._units.astype(np.int64)
        first = int(units[0])
        root = (first >> 10) << ((first & 512) >> 6)
        for low, high, width in ranges:
            codes = code[low:high].astype(np.int64)
            node = np.full(len(codes), root, np.int64)
            unit = np.zeros(len(codes), np.int64)
            alive = np.ones(len(codes), bool)
            for position in range(width):
                shift = 6 * (width - 1 - position)
                lead = (0, 0, 0xC0, 0xE0, 0xF0)[width] if position == 0 else 0x80
                byte = (codes >> shift) & (0x7F if width == 1 else 0x3F) | lead
                node = node ^ byte
                alive &= node < len(units)
                unit = units[np.where(alive, node, 0)]
                alive &= (unit & 0x800000FF) == byte
                node = node ^ ((unit >> 10) << ((unit & 512) >> 6))
            alive &= ((unit & 256) != 0) & (node < len(units))
            values[low:high] = np.where(alive, units[np.where(alive, node, 0)] & 0x7FFFFFFF, -1)
        values[0xD800:0xE000] = -1
        return values

    @cached_property
    def tables(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        """``(lengths, spaces, mixed)`` over code points: characters after normalisation, whether that is one space, and
        whether a longer replacement holds a space somewhere."""
        lengths = np.ones(_CODES, np.uint8)
        spaces, mixed = np.zeros(_CODES, bool), np.zeros(_CODES, bool)
        spaces[0x20] = True
        # Replacements are shared by many characters: each is looked at once.
        mapped = np.flatnonzero(self._values >= 0)
        starts, inverse = np.unique(self._values[mapped], return_inverse=True)
        texts = [self._text(int(start)) for start in starts]
        lengths[mapped] = np.array([min(len(text), 255) for text in texts] or [0], np.uint8)[inverse]
        spaces[mapped] = np.array([text == " " for text in texts] or [False])[inverse]
        mixed[mapped] = np.array([" " in text and len(text) > 1 for text in texts] or [False])[inverse]
        return lengths, spaces, mixed

    def single(self, char: str) -> str | None:
        """What one character becomes by itself; None when it stays."""
        at = int(self._values[ord(char)])
        return None if at < 0 else self._text(at)

    def has_rule(self, codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
        return self._values[codes] >= 0

    def longer(self, text: str) -> tuple[int, str] | None:
        """``(characters, replacement)`` of the longest entry of two or more characters that ``text`` begins with."""
        key = text[:2]
        if key not in self._pairs:
            if len(self._pairs) > 65_536:
                self._pairs.clear()
            # Whether any entry begins with these two characters does not depend on what follows.
            self._pairs[key] = (0, "") if self._reaches(key.encode("utf-8", "replace")) else None
        if self._pairs[key] is None:
            return None
        found = self.matches(text[:8].encode("utf-8", "replace"))
        if not found:
            return None
        width, replacement = found[-1]
        count = len(text[:8].encode("utf-8", "replace")[:width].decode("utf-8", "ignore"))
        return (count, replacement) if count > 1 else None

    def _reaches(self, key: bytes) -> bool:
        units = self._units
        unit = int(units[0])
        node = (unit >> 10) << ((unit & 512) >> 6)
        for byte in key:
            node ^= byte
            if node >= len(units) or int(units[node]) & 0x800000FF != byte:
                return False
            unit = int(units[node])
            node ^= (unit >> 10) << ((unit & 512) >> 6)
        return True

    @cached_property
    def followers(self) -> NDArray[np.bool_]:
        """Code points that may follow in an entry of several: marks that compose, Hangul vowels and finals."""
        mask = np.zeros(_CODES, bool)
        if len(self._units) > 1:
            mask[[c for c in range(0x300, _CODES) if c < 0x20000 and regex.match(_FOLLOWER, chr(c))]] = True
        return mask

    @cached_property
    def _clusters(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """Both found in every text that :meth:`by_grapheme` might normalise otherwise than SentencePiece does."""
        return cluster_pattern(self._values[:0x10000] >= 0, self.followers[:0x10000])

    def may_cluster(self, text: str) -> bool:
        quick, exact = self._clusters
        return quick.search(text) is not None and exact.search(text) is not None

    @cached_property
    def sources(self) -> dict[str, str]:
        """For every character the characters whose replacement begins with it."""
        found: dict[str, str] = {}
        for code in np.flatnonzero(self._values >= 0).tolist():
            first = self._text(int(self._values[code]))[:1]
            if first.isascii():
                found[first] = found.get(first, "") + chr(code)
        return found

    def by_grapheme(self, text: str) -> tuple[str, list[int], list[int]]:
        """``(normalised, starts, ends)`` as the reference's compiled tokenizer normalises: cluster by cluster.

        A cluster of fewer than six bytes is looked up as a whole, and the *shortest* entry it begins with replaces all of
        it; any other cluster is looked up character by character. Entries of several characters thus often do not apply,
        and a mark may be lost: this is where the reference's two classes differ.
        """
        out: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        for match in _GRAPHEMES.finditer(text):
            start, end = match.span()
            cluster = match.group()
            if end - start == 1:
                pieces = [(start, end, self.single(cluster))]
            else:
                whole = cluster.encode("utf-8", "replace")
                found = self.matches(whole) if len(whole) < 6 else []
                if found:
                    pieces = [(start, end, found[0][1])]
                else:
                    pieces = [(at, at + 1, self.single(text[at])) for at in range(start, end)]
            for low, high, replaced in pieces:
                new = text[low:high] if replaced is None else replaced
                out.append(new)
                starts.extend([low] * len(new))
                ends.extend([high] * len(new))
        return "".join(out), starts, ends


# What canonical composition takes as a second character: marks, plus Hangul vowels and finals.
_FOLLOWER = regex.compile(r"[\p{M}\u1161-\u1175\u11A8-\u11C2]")


_SHARED: OrderedDict[bytes, CharsMap] = OrderedDict()


def shared(blob: bytes, name: str) -> CharsMap:
    """The map of a blob. Nearly all vocabularies have the same one, so that its tables are made once."""
    found = _SHARED.get(blob)
    if found is None:
        _SHARED[blob] = found = CharsMap(blob, name)
        while len(_SHARED) > 4:
            _SHARED.popitem(last=False)
    return found
