"""SentencePiece's compiled character map: what every character, or sequence of characters, becomes (NFKC and more).

The blob holds the byte size of a double array, the array (:mod:`xlm.tokenizers.trie`) and the replacements, each ended by
a zero byte. Tables over all code points are read out of it at once, so that the length of
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
from xlm.tokenizers.clusters import Clusters
from xlm.tokenizers.memo import Memo
from xlm.tokenizers.trie import DoubleArray

_CODES = 0x110000
_GRAPHEMES = regex.compile(r"\X")
_WORD = re.compile(" ?[^ ]+| ")
_REMEMBERED = 16_384
Normal = tuple[str, tuple[int, ...], tuple[int, ...]]


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
        self._trie = DoubleArray(self._units, name)
        self._words: Memo[Normal] = Memo(self._by_grapheme, _REMEMBERED)

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
        return [(size, self._text(value)) for size, value in self._trie.prefixes(key)]

    @cached_property
    def _firsts(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int32]]:
        """``(code points, nodes, values)`` of every character that an entry begins with."""
        _, codes, nodes, values = self._trie.characters(np.array([self._trie.root], np.uint32))
        return codes, nodes, values

    @cached_property
    def _values(self) -> NDArray[np.int32]:
        """(0x110000,) where the replacement of a single code point begins, -1 for none."""
        codes, _, found = self._firsts
        values = np.full(_CODES, -1, np.int32)
        values[codes] = found
        return values

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """Sorted numbers ``first << 21 | second`` of the two characters that an entry of several begins with."""
        codes, nodes, _ = self._firsts
        parent, seconds, _, _ = self._trie.characters(nodes)
        return np.sort(codes[parent].astype(np.int64) << 21 | seconds)

    @cached_property
    def seconds(self) -> NDArray[np.bool_]:
        """(0x110000,) whether a code point may be the second of an entry."""
        mask = np.zeros(_CODES, bool)
        mask[self.pairs & 0x1FFFFF] = True
        return mask

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

    def longer(self, text: str) -> tuple[int, str] | None:
        """``(characters, replacement)`` of the longest entry of two or more characters that ``text`` begins with."""
        found = self._trie.prefixes(text.encode("utf-8", "replace"))
        if not found:
            return None
        width, value = found[-1]
        count = len(text.encode("utf-8", "replace")[:width].decode("utf-8", "ignore"))
        return (count, self._text(value)) if count > 1 else None

    @cached_property
    def clusters(self) -> Clusters:
        return Clusters(self._values >= 0, self.pairs)

    @cached_property
    def origins(self) -> dict[str, str]:
        """For every replacement the characters that become it by themselves."""
        found: dict[str, list[str]] = {}
        for code in np.flatnonzero(self._values >= 0).tolist():
            found.setdefault(self._text(int(self._values[code])), []).append(chr(code))
        return {text: "".join(chars) for text, chars in found.items()}

    def spellings(self, text: str) -> tuple[str, str]:
        """``(first, pattern)``: the characters that whatever becomes ``text`` may begin with, and what all of it matches.

        Sequences that become one character together are left out.
        """
        origins = self.origins
        gone = f"[{re.escape(origins[''])}]*" if "" in origins else ""
        # What stands for the rest of the text, from its end on.
        rest = [""] * len(text) + [""]
        firsts = ""
        for start in reversed(range(len(text))):
            ways: list[str] = []
            firsts = ""
            for stop in range(start + 1, len(text) + 1):
                chars = origins.get(text[start:stop], "") + (text[start] if stop == start + 1 else "")
                if chars:
                    ways.append(f"[{re.escape(chars)}]{gone if stop < len(text) else ''}{rest[stop]}")
                    firsts += chars
            rest[start] = f"(?:{'|'.join(ways)})" if len(ways) > 1 else ways[0]
        return firsts, rest[0]

    def by_grapheme(self, text: str) -> tuple[str, list[int], list[int]]:
        """``(normalised, starts, ends)`` as the reference's compiled tokenizer normalises: cluster by cluster.

        A cluster of fewer than six bytes is looked up as a whole, and the *shortest* entry it begins with replaces all of
        it; any other cluster is looked up character by character. Entries of several characters thus often do not apply,
        and a mark may be lost: this is where the reference's two classes differ.
        """
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        words = self._cut(text)
        found = [self._words[word] for word in words]
        for word, (_, low, high) in zip(words, found, strict=True):
            starts += [at + place for place in low] if at else low
            ends += [at + place for place in high] if at else high
            at += len(word)
        return "".join([normal for normal, _, _ in found]), starts, ends

    def text_by_grapheme(self, text: str) -> str:
        """The normalised text of :meth:`by_grapheme` alone."""
        words = self._words
        return "".join([words[word][0] for word in self._cut(text)])

    @staticmethod
    def _cut(text: str) -> list[str]:
        """Words with the space before them: a cluster ends before every space, but for a character that joins what follows."""
        return [text] if _PREPENDED.search(text) else _WORD.findall(text)

    def _by_grapheme(self, text: str) -> Normal:
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
        return "".join(out), tuple(starts), tuple(ends)


_PREPENDED = regex.compile(r"\p{GCB=Prepend}")
_SHARED: OrderedDict[bytes, CharsMap] = OrderedDict()


def shared(blob: bytes, name: str) -> CharsMap:
    """The map of a blob. Nearly all vocabularies have the same one, so that its tables are made once."""
    found = _SHARED.get(blob)
    if found is None:
        _SHARED[blob] = found = CharsMap(blob, name)
        while len(_SHARED) > 4:
            _SHARED.popitem(last=False)
    return found
