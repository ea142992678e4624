"""Texts longer than the model: read in windows that overlap, as one vector a text or one a chunk.

Every token is taken from the window in which it has most on both sides (windows share ``overlap`` tokens, each is read to the
middle of what it shares). What is pooled is the same as for a short text: all tokens, special ones at the two ends included.

`embed_chunks` is late chunking (Günther et al. 2024, arXiv:2409.04701): the text is encoded first and cut after, so that a
chunk's vector knows what stands around it; texts longer than the model are read in windows there too (their section 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xlm.errors import InputError
from xlm.inference.embedding import Embedding
from xlm.inference.reading import Read, Wanted
from xlm.tasks.base import before_first
from xlm.tasks.retrieve import normalized
from xlm.tasks.windows import windows

Floats = NDArray[np.float32]
_OVERLAP = 64
# Where a sentence ends, with what closes it and the white space after it.
_ENDS = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+|[。！？]+[」』”’）]*\s*|[।॥؟۔።]+\s*|\n+")


@dataclass(frozen=True)
class Window:
    """A row of ids, and which of its places stand for which tokens of the text.

    Attributes:
        ids: with special tokens.
        text: the index of the text.
        start, end: the places of the row that are read.
        token: the token of the text at place ``start``; -1 where that is a special one.
    """

    ids: list[int]
    text: int
    start: int
    end: int
    token: int


class LongTexts:
    """The methods of an engine that take texts of any length."""

    tokenizer: Any
    max_tokens: int
    hidden_size: int
    embedding: Embedding
    _read: Callable[[Sequence[Sequence[int]], Wanted], Iterator[Read]]

    def _long_vectors(self, texts: Sequence[Any], kind: str, prompt: str | None, overlap: int | None) -> Floats:
        """One vector a text, (n, hidden), pooled over all its windows; with ``cls`` the mean of theirs."""
        before = self.embedding.prompt(prompt)
        cut = [w for n, (ids, _) in enumerate(self._tokens_of(texts, before)) for w in self._cut(ids, n, overlap)]
        found = np.full((len(texts), self.hidden_size), -np.inf if kind == "max" else 0, np.float32)
        counts = np.zeros((len(texts), 1), np.float32)
        for window, states in self._states_of(cut):
            if kind == "max":
                np.maximum(found[window.text], states[window.start : window.end].max(0), out=found[window.text])
                continue
            part = states[:1] if kind == "cls" else states[window.start : window.end]
            found[window.text] += part.sum(0)
            counts[window.text] += len(part)
        return found if kind == "max" else (found / np.maximum(counts, 1)).astype(np.float32)

    def embed_chunks(
        self,
        texts: Sequence[str],
        tokens: int = 128,
        *,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        overlap: int | None = None,
    ) -> list[list[dict[str, Any]]]:
        """A vector for every chunk of every text, each computed with the whole text around it (late chunking).

        Args:
            texts: of any length.
            tokens: the longest chunk: as many whole sentences as fit; a longer sentence is cut.
            spans: the chunks of every text instead, as ``(start, end)`` in code points.
            normalize: to unit length; None: as the checkpoint's folder says, else yes.
            prompt: as in `Engine.embed`; it is read before the text and is part of no chunk.
            overlap: tokens that neighbouring windows share where a text is longer than the model; None: 64, or half a
                window where that is less.

        Returns:
            For every text its chunks in order: ``{"start", "end", "text", "vector"}``, ``vector`` (hidden,) float32 the mean
            of its tokens' states.

        Raises:
            InputError: no list of texts; ``tokens`` below 1; an overlap that leaves no room; spans that lie outside
                their text, cross each other or hold no token.
        """
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise InputError(f"tokens is {tokens!r}: it must be an integer of at least 1")
        if spans is not None and len(spans) != len(texts):
            raise InputError(f"spans has {len(spans)} lists, texts {len(texts)}: as many are needed")
        before = self.embedding.prompt(prompt)
        cut: list[Window] = []
        chunks: list[list[tuple[int, int]]] = []
        bins: list[NDArray[np.int64]] = []
        for number, (ids, places) in enumerate(self._tokens_of(texts, before)):
            places = [(start - len(before), end - len(before)) for start, end in places]
            if spans is None:
                own = _chunks(texts[number], places, tokens)
            else:
                own = [(int(start), int(end)) for start, end in spans[number]]
                _check_spans(own, len(texts[number]), f"spans[{number}]")
            chunks.append(own)
            bins.append(_bins(own, places))
            for at in range(len(own)):
                if not (bins[-1] == at).any():
                    raise InputError(f"spans[{number}][{at}] is {own[at]}: there is no token in it")
            cut.extend(self._cut(ids, number, overlap))
        sums = [np.zeros((len(own), self.hidden_size), np.float32) for own in chunks]
        for window, states in self._states_of(cut):
            first = window.start + (window.token < 0)
            token = max(window.token, 0)
            mine = bins[window.text][token : token + window.end - first]
            kept = np.flatnonzero(mine >= 0)
            np.add.at(sums[window.text], mine[kept], states[first + kept])
        unit = self.embedding.normalize if normalize is None else normalize
        found = []
        for text, own, total, own_bins in zip(texts, chunks, sums, bins, strict=True):
            counts = np.bincount(own_bins[own_bins >= 0], minlength=len(own))[:, None].astype(np.float32)
            vectors = normalized(total / counts) if unit else total / counts
            found.append(
                [
                    {"start": start, "end": end, "text": text[start:end], "vector": vector}
                    for (start, end), vector in zip(own, vectors, strict=True)
                ]
            )
        return found

    def _tokens_of(self, texts: Sequence[Any], before: str) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        """The ids and places of every text without special tokens."""
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise InputError(f"texts is of type {type(texts).__name__}: a list of texts is needed")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"texts[{number}] is of type {type(text).__name__}: long inputs must be texts")
        if texts:
            encoded = self.tokenizer(
                [before + text for text in texts], add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            yield from zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)

    def _cut(self, ids: Sequence[int], text: int, overlap: int | None) -> Iterator[Window]:
        """The windows of a text; together they read every token once, and the special ones at its two ends."""
        size = self.max_tokens - self.tokenizer.num_special_tokens_to_add()
        if overlap is None:
            overlap = min(_OVERLAP, size // 2)
        if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap < size:
            raise InputError(f"overlap is {overlap!r}: it must be an integer from 0 to {size - 1}")
        spans, before = windows(len(ids), size, overlap), before_first(self.tokenizer)
        for number, (start, end) in enumerate(spans):
            row = list(self.tokenizer.build_inputs_with_special_tokens(list(ids[start:end])))
            first, last = number == 0, number == len(spans) - 1
            low = start if first else (start + spans[number - 1][1]) // 2
            high = end if last else (end + spans[number + 1][0]) // 2
            place = 0 if first else before + low - start
            yield Window(row, text, place, len(row) if last else before + high - start, -1 if first else low)

    def _states_of(self, cut: list[Window]) -> Iterator[tuple[Window, Floats]]:
        """The states (tokens, hidden) of every window, as they are ready."""
        for members, lengths, (states,) in self._read([window.ids for window in cut], lambda states, *_: [states]):
            for index, part in zip(members, np.split(states, np.cumsum(lengths)[:-1]), strict=True):
                yield cut[index], part


def _chunks(text: str, places: Sequence[tuple[int, int]], tokens: int) -> list[tuple[int, int]]:
    """As many whole sentences as have at most ``tokens`` tokens, one after the other, without the white space around."""
    ends = [match.end() for match in _ENDS.finditer(text)]
    sentence_of = np.searchsorted(np.asarray([*ends, len(text) + 1]), [max(end - 1, 0) for _, end in places], "right")
    own = [index for index, (_, end) in enumerate(places) if end > 0]  # without the prompt's

    def parts_at(stop: int) -> bool:  # several tokens may stand for one character: they stay together
        return stop == len(own) or places[own[stop]][1] > places[own[stop - 1]][1]

    found: list[tuple[int, int]] = []
    at = 0
    while at < len(own):
        stop = min(at + tokens, len(own))
        if stop < len(own):
            whole = stop  # back to the end of a sentence, unless one fills all of it
            while whole > at and sentence_of[own[whole - 1]] == sentence_of[own[whole]]:
                whole -= 1
            stop = whole if whole > at else stop
        while not parts_at(stop):
            stop += 1
        start, end = max(places[own[at]][0], found[-1][1] if found else 0), places[own[stop - 1]][1]
        part = text[start:end]
        if part.strip():
            start, end = end - len(part.lstrip()), start + len(part.rstrip())
        found.append((start, end))
        at = stop
    return found


def _bins(chunks: Sequence[tuple[int, int]], places: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The chunk in which every token ends, -1 for none."""
    found = np.full(len(places), -1, np.int64)
    if not chunks:
        return found
    starts = np.asarray([start for start, _ in chunks])
    stops = np.asarray([end for _, end in chunks])
    last = np.asarray([end - 1 for _, end in places], np.int64)
    at = np.searchsorted(starts, last, "right") - 1
    inside = (at >= 0) & (last < stops[np.maximum(at, 0)]) & (last >= 0)
    found[inside] = at[inside]
    return found


def _check_spans(spans: Sequence[tuple[int, int]], length: int, name: str) -> None:
    before = 0
    for number, (start, end) in enumerate(spans):
        if not before <= start < end <= length:
            raise InputError(
                f"{name}[{number}] is ({start}, {end}): it must begin at {before} or later, where the one before it ends, "
                f"hold a character and end at {length}, the length of the text, or earlier"
            )
        before = end
