"""The steps of a build as datatrove's pipelines take them: read, repair, filter, look for duplicates, tokenize.

Every step is a plain datatrove block: `xlm.data.corpora.run` runs the pipelines on this machine, `xlm.data.corpora.cluster`
under datatrove's executors for Slurm and Ray.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import regex
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupFilter,
    MinhashDedupSignature,
    exact_dedup,
    minhash,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.utils.text import TextNormConfig
from datatrove.utils.word_tokenizers import WordTokenizer

from xlm.data.compressed import open_bytes
from xlm.data.corpora.languages import canonical, open_identifier
from xlm.data.corpora.ledger import PAIR, Ledger, piece_folder, plan_bins
from xlm.data.corpora.options import AUTO, Cleaning, CorpusOptions, check_language
from xlm.data.corpora.rows import BadRow, read_rows
from xlm.data.corpora.tokens import TokenSink
from xlm.errors import ConfigError

Documents = Iterator[Document]


# ---- files to documents ----------------------------------------------------------------------------------------------
class ReadSources(PipelineStep):
    """Rows of input files as documents; a pair is one document, its sides on two lines."""

    type, name = "reader", "input files"

    def __init__(self, options: CorpusOptions, ledger: Ledger) -> None:
        super().__init__()
        self.options, self.ledger = options, ledger

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        """Every ``world_size``-th file from ``rank`` on. When a file's last document has gone through, its books close."""
        for index in range(rank, len(self.options.sources), world_size):
            if not self.ledger.done(index):
                yield from self._source(index)

    def _source(self, index: int) -> Documents:
        source, ledger = self.options.sources[index], self.ledger
        ledger.begin(index, source)
        for row in read_rows(source, self.options):
            if isinstance(row, BadRow):
                ledger.quarantine(row)
                continue
            language = row.language or source.language
            try:
                check_language(language, f"{source.path}:{row.line}")
            except ConfigError:
                ledger.quarantine(BadRow(row.line, f"{language!r} is no language code", row.texts[0][:200]))
                continue
            ledger.rows += 1
            ledger.replaced += row.replaced
            texts = [text.strip() for text in row.texts]
            if not all(texts):
                ledger.drop(source.kind, language, "empty", "")
                continue
            ledger.count(source.kind, language, "read")
            meta = {"kind": source.kind, "language": language, "pivot": source.pivot}
            yield Document(PAIR.join(texts), f"{index}:{row.line}", metadata=meta)
        ledger.finish()


class KeepDocuments(PipelineStep):
    """What arrives here is kept."""

    type, name = "writer", "pieces"

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        for doc in data:
            self.ledger.keep(doc.metadata["kind"], doc.metadata["language"], doc.text)
            yield doc


class _Dropped:
    """Takes what a filter drops, as the writers that datatrove's filters are given do."""

    def __init__(self, books: Any, reason: str = "") -> None:
        self.books, self.reason = books, reason

    def __enter__(self) -> _Dropped:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is open."""

    def write(self, doc: Document, rank: int = 0) -> None:
        reason = self.reason or doc.metadata.get("filter_reason", "filtered")
        self.books.drop(doc.metadata["kind"], doc.metadata["language"], reason, doc.text)


# ---- filters ---------------------------------------------------------------------------------------------------------
def sides(doc: Document) -> list[str]:
    """The texts that a document's limits hold for: itself, or each side of a pair."""
    return doc.text.split(PAIR) if doc.metadata["kind"] == "pairs" else [doc.text]


class WantedLanguage(BaseFilter):
    """Languages that were asked for."""

    name = "languages"

    def __init__(self, languages: tuple[str, ...], ledger: Ledger) -> None:
        super().__init__(cast(Any, _Dropped(ledger)))
        self.languages = {*languages, AUTO}

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        return doc.metadata["language"] in self.languages or (False, "language not asked for")


class Shape(BaseFilter):
    """Lengths and shares of characters."""

    name = "lengths and characters"

    def __init__(self, limits: Cleaning, ledger: Ledger) -> None:
        super().__init__(cast(Any, _Dropped(ledger)))
        self.limits = limits

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        limits, texts = self.limits, [text.strip() for text in sides(doc)]
        if not all(texts) or (doc.metadata["kind"] == "pairs" and len(texts) != 2):
            return False, "empty"
        if min(map(len, texts)) < limits.min_characters:
            return False, "too short"
        if max(map(len, texts)) > limits.max_characters:
            return False, "too long"
        if limits.max_ratio and len(texts) == 2 and max(map(len, texts)) > limits.max_ratio * min(map(len, texts)):
            return False, "sides of unlike length"
        if limits.min_letters or limits.max_digits < 1.0:
            for text in texts:
                letters, digits, total = character_counts(text)
                if letters < limits.min_letters * total:
                    return False, "few letters"
                if digits > limits.max_digits * total:
                    return False, "many digits"
        return True


@lru_cache(1 << 16)
def _category(char: str) -> str:
    return unicodedata.category(char)[0]


def character_counts(text: str) -> tuple[int, int, int]:
    """Letters with their marks, numbers, and all characters that are not white space or separators."""
    counts: Counter[str] = Counter(_category(char) for char in text if not char.isspace())
    return counts["L"] + counts["M"], counts["N"], sum(counts.values()) - counts["Z"]


class InLanguage(BaseFilter):
    """Texts in the language that they are said to be in; where that is ``auto``, the language is written down."""

    name = "language identification"

    def __init__(self, limits: Cleaning, languages: tuple[str, ...] | None, ledger: Ledger) -> None:
        super().__init__(cast(Any, _Dropped(ledger)))
        self.limits, self.languages = limits, languages

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        assert self.limits.identify
        identify, meta = open_identifier(self.limits.identify), doc.metadata
        declared = [meta["language"], meta["pivot"]]
        for text, language in zip(sides(doc), declared, strict=False):
            if language != AUTO and len(text) < self.limits.identify_characters:
                continue
            if language != AUTO:
                if identify.speaks_against(text, language, self.limits.identify_threshold):
                    return False, "another language"
                continue
            found, probability = identify.guess(text)
            if probability < self.limits.identify_threshold:
                return False, "language unclear"
            if self.languages is not None and found not in map(canonical, self.languages):
                meta["language"] = found
                return False, "language not asked for"
            meta["language"] = found
        return True


# ---- duplicates ------------------------------------------------------------------------------------------------------
class ReadPieces(PipelineStep):
    """The kept documents, shard by shard: the same order in every stage that asks for the same ranks."""

    type, name = "reader", "pieces"

    def __init__(self, work: Path, sources: int, shard_bytes: int, sink: TokenSink | None = None) -> None:
        super().__init__()
        self.work, self.sources, self.shard_bytes, self.sink = work, sources, shard_bytes, sink

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        """Every ``world_size``-th shard from ``rank`` on."""
        for one in plan_bins(self.work, self.sources, self.shard_bytes)[rank::world_size]:
            meta = {"kind": one.kind, "language": one.language}
            if self.sink:
                self.sink.begin(one)
            for name in one.pieces:
                with open_bytes(piece_folder(self.work) / name) as stream:
                    for number, line in enumerate(stream):
                        yield Document(json.loads(line), f"{name}:{number}", metadata=dict(meta))
            if self.sink:
                self.sink.finish()


def _text(doc: Document) -> str:
    return doc.text


_ALONE = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]|[\p{L}\p{M}\p{N}]+"
)


class Words(WordTokenizer):
    """Words for comparing texts of any language: runs of letters, and the characters of scripts without spaces."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of ``text``."""
        return _ALONE.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Texts are not cut here."""
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Texts are not cut here."""
        return [(0, len(text))]


EXACT = ExactDedupConfig(content_getter=_text)
# Marks stay on letters, in many scripts they are vowels; and texts that differ in their numbers are not the same.
NEAR = MinhashConfig(norm_config=TextNormConfig(norm_unicode_diacritics=False, norm_numbers=False))


def _no_bar(items: Any, **options: Any) -> Any:
    return items


# Their progress bars cannot be switched off once tqdm is imported.
for _module in (exact_dedup, minhash):
    _module.tqdm = _no_bar  # type: ignore[attr-defined]


# ---- pipelines -------------------------------------------------------------------------------------------------------
def stages(options: CorpusOptions, work: Path) -> list[tuple[str, list[PipelineStep], int]]:
    """``(name, pipeline, tasks)`` of every stage, to be run one after another.

    ``tasks`` 0: as many as wanted, the same for all such stages after the first; 1 and more: exactly so many.
    """
    cleaning, count = options.cleaning, len(options.sources)
    ledger = Ledger(work, options.shard_bytes, options.bad_rows)
    first: list[PipelineStep] = [ReadSources(options, ledger)]
    if options.languages is not None:
        first.append(WantedLanguage(options.languages, ledger))
    if cleaning.fix_unicode:
        first.append(FTFYFormatter())
    first.append(Shape(cleaning, ledger))
    if cleaning.identify:
        first.append(InLanguage(cleaning, options.languages, ledger))
    found: list[tuple[str, list[PipelineStep], int]] = [("clean", [*first, KeepDocuments(ledger)], 0)]

    def documents(sink: TokenSink | None = None) -> list[PipelineStep]:
        steps: list[PipelineStep] = [ReadPieces(work, count, options.shard_bytes, sink)]
        if cleaning.dedup != "none":
            dropped = cast(Any, _Dropped(sink, "duplicate")) if sink else None
            steps.append(ExactDedupFilter(str(work / "exact" / "found"), EXACT, dropped))
        return steps

    if cleaning.dedup != "none":
        signatures, duplicates = str(work / "exact" / "signatures"), str(work / "exact" / "found")
        pieces = ReadPieces(work, count, options.shard_bytes)
        found.append(("exact signatures", [pieces, ExactDedupSignature(signatures, EXACT)], 0))
        found.append(("exact duplicates", [ExactFindDedups(signatures, duplicates, EXACT)], 1))
    if cleaning.dedup == "near":
        hashes, buckets, near = (str(work / "near" / name) for name in ("signatures", "buckets", "found"))
        signature = MinhashDedupSignature(hashes, NEAR, cast(Any, Words()))
        found.append(("near signatures", [*documents(), signature], 0))
        found.append(("near buckets", [MinhashDedupBuckets(hashes, buckets, config=NEAR)], NEAR.num_buckets))
        found.append(("near clusters", [MinhashDedupCluster(buckets, near, NEAR)], 1))
    pivot = next((source.pivot for source in options.sources if source.pivot), "")
    sink = TokenSink(work, options.tokenizer, options.held_out, pivot)
    last = documents(sink)
    if cleaning.dedup == "near":
        last.append(MinhashDedupFilter(str(work / "near" / "found"), cast(Any, _Dropped(sink, "near duplicate"))))
    return [*found, ("tokens", [*last, WriteTokens(sink)], 0)]


class WriteTokens(PipelineStep):
    """Documents to ids, into the shard that is open."""

    type, name = "writer", "token shards"

    def __init__(self, sink: TokenSink) -> None:
        super().__init__()
        self.sink = sink

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        for doc in data:
            self.sink.add(doc.text)
            yield doc
