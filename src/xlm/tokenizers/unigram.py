"""Segments of text to ids and to spans of the original text, in bulk, by SentencePiece's C++ and array arithmetic."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from xlm.errors import CheckpointError
from xlm.tokenizers import proto
from xlm.tokenizers.charsmap import shared
from xlm.tokenizers.clusters import in_pairs

logger = logging.getLogger("xlm")

SPACE = "▁"
_SPACE_BYTES = SPACE.encode()
UNK = 3
# Below this many characters a second thread costs more than it gives.
_THREAD_FROM = 20_000
_GROUP = 1 << 15
_SURROGATES = re.compile("[\ud800-\udfff]")
# Stands for the edge between two texts in the joined array; no text holds it, its bytes being no character.
_EDGE = 0x10FFFF


@dataclass(slots=True)
class Spans:
    """Tokens of several texts one after another: ``counts`` of each text, ``ids``, ``starts`` and ``ends`` in its own text."""

    counts: NDArray[np.int64]
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def _groups(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Ranges of texts of about as many characters as keep the arrays of one group in the processor's cache."""
    low = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size > _GROUP:
            yield low, number + 1
            low, size = number + 1, 0
    if low < len(texts):
        yield low, len(texts)


def clean(text: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, become U+FFFD one by one, so that offsets stay; with a warning."""
    try:
        text.encode()  # many times quicker than a search
        return text
    except UnicodeEncodeError:
        pass
    logger.warning("a text holds a lone surrogate, which is no character: it is read as U+FFFD")
    return _SURROGATES.sub("\ufffd", text)


class Unigram:
    """A SentencePiece model with XLM-R's ids. ``options`` go to SentencePiece (sampling, for instance)."""

    def __init__(self, data: bytes, name: str, options: dict[str, Any] | None = None) -> None:
        self.model = proto.parse(data, name)
        self.charsmap = shared(self.model.charsmap, name)
        self.name, self.options = name, dict(options or {})
        self.processor = self._load(proto.fairseq_order(self.model))
        self.threads = min(2, os.cpu_count() or 1)
        # SentencePiece's <unk> <s> </s> become <s> <pad> </s> <unk>, and <mask> is no piece.
        self.size = self.model.count + 1

    def _load(self, data: bytes) -> sentencepiece.SentencePieceProcessor:
        try:
            processor = sentencepiece.SentencePieceProcessor(**self.options)
            processor.LoadFromSerializedProto(data)
        except (RuntimeError, OSError) as error:
            raise CheckpointError(f"{self.name}: SentencePiece cannot load the model: {error}") from error
        return processor

    @cached_property
    def plain(self) -> sentencepiece.SentencePieceProcessor:
        """The same pieces without normalisation, for the few texts that are normalised elsewhere. Loaded when one comes."""
        return self._load(proto.fairseq_order(self.model, identity=True))

    @cached_property
    def piece_lengths(self) -> NDArray[np.int32]:
        """(size,) characters of each piece, by id."""
        raw = np.frombuffer(self.model.data, np.uint8)
        letters = np.concatenate([[0], np.cumsum((raw & 0xC0) != 0x80)])
        starts = self.model.starts
        lengths = (letters[starts + self.model.text_lengths] - letters[starts]).astype(np.int32)
        return np.concatenate([[0, 0, 0, 0], lengths[3:]]).astype(np.int32)

    @cached_property
    def begins_word(self) -> NDArray[np.bool_]:
        """(size + 1,) whether a piece begins with a space, by id."""
        raw, starts = np.frombuffer(self.model.data, np.uint8), self.model.starts[3:]
        marked = self.model.text_lengths[3:] >= len(_SPACE_BYTES)
        for place, byte in enumerate(_SPACE_BYTES):
            marked &= raw[np.minimum(starts + place, len(raw) - 1)] == byte
        return np.concatenate([np.zeros(4, bool), marked, [False]])

    def _threads_for(self, texts: Sequence[str]) -> int:
        return self.threads if len(texts) > 1 and sum(map(len, texts)) > _THREAD_FROM else 1

    def ids(self, texts: list[str], special: bool = False) -> list[list[int]]:
        """Ids of every text; with ``special`` between ``<s>`` and ``</s>``."""
        try:
            return self._encode(texts, add_bos=special, add_eos=special)
        except (RuntimeError, UnicodeError, TypeError):
            # What SentencePiece cannot take: lone surrogates.
            return self._encode([clean(text) for text in texts], add_bos=special, add_eos=special)

    def _encode(self, texts: Sequence[str], **options: Any) -> list[Any]:
        # A list goes through a pool of threads, even of one: making it costs ten times what a short text does.
        threads = self._threads_for(texts)
        if threads == 1:
            return [self.processor.encode(text, **options) for text in texts]
        return self.processor.encode(list(texts), num_threads=threads, **options)

    def pieces(self, text: str) -> list[str]:
        """The tokens of ``text``; an unknown one shows the normalised characters it stands for."""
        return self.processor.encode(clean(text), out_type=str, add_bos=False, add_eos=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model.data, self.name, self.options)

    def spans(self, texts: list[str], trim: bool = False) -> Spans:
        """Ids and spans of every text. A ``▁`` covers the last white space before its word, or its word's first character
        where there is none; with ``trim`` it covers nothing."""
        texts = [clean(text) for text in texts]
        rows = self._encode(texts, out_type="numpy", add_bos=False, add_eos=False)
        counts = np.array([len(row) for row in rows], np.int64)
        ids = np.concatenate(rows) if rows else np.zeros(0, np.int32)
        lengths = self.piece_lengths[ids]
        self._measure_unknown(texts, ids, counts, lengths)
        starts, ends = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
        at = 0
        for low, high in _groups(texts):
            stop = at + int(counts[low:high].sum())
            here = slice(at, stop)
            starts[here], ends[here] = self._group(
                texts[low:high], ids[here], counts[low:high], lengths[here].astype(np.int64), trim
            )
            at = stop
        return Spans(counts, ids, starts, ends)

    def _measure_unknown(
        self, texts: list[str], ids: NDArray[np.int32], counts: NDArray[np.int64], lengths: NDArray[np.int32]
    ) -> None:
        """Write the characters of unknown tokens, which differ from one to the next, into ``lengths``."""
        unknown = np.flatnonzero(ids == UNK)
        if not unknown.size:
            return
        ends = np.cumsum(counts)
        rows = np.unique(np.searchsorted(ends, unknown, side="right"))
        chosen = [texts[row] for row in rows.tolist()]
        pieces = self.processor.encode(
            chosen, out_type=str, add_bos=False, add_eos=False, num_threads=self._threads_for(chosen)
        )
        for end, of in zip(ends[rows].tolist(), pieces, strict=True):
            lengths[end - len(of) : end] = [len(piece) for piece in of]

    def _group(
        self,
        texts: list[str],
        ids: NDArray[np.int32],
        counts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        trim: bool,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and ends of the tokens of some texts, each in its own text."""
        char_starts, char_ends, bases = self._characters(texts)
        after = np.cumsum(lengths)
        if not ids.size:
            return after, after
        if int(after[-1]) > len(char_starts):
            raise CheckpointError(f"{self.name}: the pieces do not add up to the normalised text")
        base = np.repeat(bases, counts)
        starts = char_starts[after - lengths] - base
        stops = char_ends[after - 1] - base
        if trim:
            marked = np.flatnonzero(self.begins_word[ids])
            # A space is never the last character of a normalised text, so there is one after it.
            first = np.minimum(after[marked] - lengths[marked] + 1, len(char_starts) - 1)
            starts[marked] = char_starts[first] - base[marked]
            alone = marked[lengths[marked] == 1]
            stops[alone] = starts[alone]
        return starts, stops

    def _characters(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """``(starts, ends, bases)``: the span in the joined text of every character of the joined normalised text.

        The texts are joined with an edge before each and one at the end. White space and edges in a row leave one
        character, the last of the row: exactly what stripping, collapsing and the space put in front leave.
        """
        edge = chr(_EDGE)
        joined = edge + edge.join(texts) + edge
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        sizes = np.array([len(text) for text in texts], np.int64)
        bases = np.cumsum(np.concatenate([[1], sizes[:-1] + 1])) if len(texts) else np.zeros(0, np.int64)
        lengths, spaces, mixed = self.charsmap.tables
        grown = lengths[codes]
        ends_of = np.arange(1, len(codes) + 1)
        self._compose(joined, codes, grown := grown.astype(np.int64), ends_of)
        source = np.repeat(np.arange(len(codes)), grown)
        space = spaces[codes][source]
        odd = np.flatnonzero(mixed[codes])
        if odd.size:
            first = np.cumsum(grown) - grown
            for index in odd.tolist():
                text = self.charsmap.single(joined[index]) or ""
                if grown[index] == len(text):
                    space[first[index] : first[index] + len(text)] = [char == " " for char in text]
        is_edge = codes[source] == _EDGE
        gap = space | is_edge
        keep = ~gap
        keep[:-1] |= gap[:-1] & ~gap[1:]
        kept = source[keep]
        starts, ends = kept.copy(), ends_of[kept]
        inserted = np.flatnonzero(is_edge[keep])
        # The last run of gaps is not kept, so a kept edge always has a character after it.
        starts[inserted], ends[inserted] = starts[inserted + 1], ends[inserted + 1]
        return starts, ends, bases

    def _compose(
        self, joined: str, codes: NDArray[np.uint32], grown: NDArray[np.int64], ends_of: NDArray[np.int64]
    ) -> None:
        """Give the characters of an entry of several characters (a letter and its marks) to the first of them."""
        after = np.flatnonzero(self.charsmap.seconds[codes])
        done = 0
        for index in (after[in_pairs(self.charsmap.pairs, codes[after - 1], codes[after])] - 1).tolist():
            if index < done:
                continue
            found = self.charsmap.longer(joined[index : index + 8])
            if found is not None:
                count, replacement = found
                grown[index] = len(replacement)
                grown[index + 1 : index + count] = 0
                ends_of[index] = index + count
                done = index + count

    def encode_normalized(self, text: str) -> tuple[list[int], list[str]]:
        """``(ids, pieces)`` of text that is normalised already and in which ``▁`` stands for every space."""
        if not text:
            return [], []
        text = clean(text)
        # Usually SentencePiece's own normalisation would leave it as it is: no second model is needed then.
        main = text[:1] == SPACE and self.processor.normalize(text[1:].replace(SPACE, " ")) == text
        processor = self.processor if main else self.plain
        given = text[1:].replace(SPACE, " ") if main else text
        ids = processor.encode(given, add_bos=False, add_eos=False)
        return ids, processor.encode(given, out_type=str, add_bos=False, add_eos=False)
