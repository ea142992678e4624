"""Ids of the chunks of one language's text: remembered, and learnt many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import numpy as np

from xlm.tokenizers import moses
from xlm.tokenizers.bpe_batch import BatchBPE
from xlm.tokenizers.memo import LONGEST, Memo
from xlm.tokenizers.xlm_words import strip_accents, without_accents

# Chunks remembered, which is also about how many are looked at together.
_REMEMBERED = 65_536
# Fewer new chunks are faster one by one; and the tables that many need at once take as long to make as so many chunks
# for every merge save.
_FEW, _WORTH = 48, 0.25

# A stretch of text as chunks, or as the ids that it has already.
Part = list[str] | tuple[int, ...]


class ChunkIds(Memo[tuple[int, ...]]):
    """``chunk -> ids``. ``words_to_ids`` is for a few words, ``batch`` makes (or finds) what is for thousands.

    ``merges`` is their number in the vocabulary."""

    def __init__(
        self,
        lang: str,
        accents: bool,
        words_to_ids: Callable[[list[str]], tuple[int, ...]],
        batch: Callable[[], BatchBPE | None],
        merges: int,
    ) -> None:
        super().__init__(self._one, _REMEMBERED)
        self._splitter, self._accents = moses.tokenizer(lang), accents
        self._words_to_ids, self._batch = words_to_ids, batch
        self._until_worth = int(_WORTH * merges)

    def _one(self, chunk: str) -> tuple[int, ...]:
        words = self._splitter.chunk_words(chunk)
        return self._words_to_ids(strip_accents(words) if self._accents else words)

    def rows(self, texts: Iterable[list[Part]]) -> list[list[int]]:
        """The ids of every text, given in parts."""
        rows: list[list[int]] = []
        group: list[list[Part]] = []
        size = 0
        for parts in texts:
            group.append(parts)
            size += sum(map(len, parts))
            if size >= _REMEMBERED:
                rows += self._group(group)
                group, size = [], 0
        return rows + self._group(group)

    def _group(self, texts: list[list[Part]]) -> list[list[int]]:
        self._learn(set().union(*[part for parts in texts for part in parts if not isinstance(part, tuple)]))
        get = self.__getitem__
        rows: list[list[int]] = []
        for parts in texts:
            row: list[int] = []
            for part in parts:
                row += part if isinstance(part, tuple) else chain.from_iterable(map(get, part))
            rows.append(row)
        return rows

    def _learn(self, chunks: set[str]) -> None:
        """Remember the ids of those chunks that are new, all at once if they are many."""
        old = self._old
        new = [chunk for chunk in chunks if chunk not in self and chunk not in old and len(chunk) <= LONGEST]
        self._until_worth -= len(new)
        batch = self._batch() if len(new) >= _FEW and self._until_worth < 0 else None
        if batch is None:
            return
        text, counts = self._splitter.words_of_chunks(new)
        text = without_accents(text) if self._accents else text
        ids, ends = batch(np.frombuffer(text.encode("utf-32-le"), np.uint32))
        words = np.ones(len(new) + 1, np.int64)
        words[list(counts)] = list(counts.values())
        words[-1] = 0
        bounds = ends[np.cumsum(words) - words].tolist()
        self.remember({chunk: ids[low:high] for chunk, low, high in zip(new, bounds, bounds[1:], strict=False)})
