"""Everything that decides what a corpus becomes, and the files it is made of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xlm.data.compressed import without_suffix
from xlm.data.readers import find_files
from xlm.errors import ConfigError, DataError

Kind = Literal["text", "pairs"]
FORMATS = {"txt": "text", "jsonl": "text", "parquet": "text", "tsv": "pairs"}
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".tsv": "tsv"}
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{1,8})*")
AUTO = "auto"


@dataclass(frozen=True)
class Source:
    """One input file. ``language`` is a code or ``auto``; ``pivot`` the language of a pair's second column."""

    path: str
    language: str
    format: str
    pivot: str = ""

    @property
    def kind(self) -> Kind:
        """``pairs`` for files of two columns, else ``text``."""
        return "pairs" if self.pivot else "text"


@dataclass(frozen=True)
class Cleaning:
    """Which documents stay, and how they are repaired. The defaults change and drop nothing but empty ones.

    Attributes:
        fix_unicode: repair mojibake, control characters and broken HTML entities (ftfy's careful settings).
        min_characters, max_characters: of a document; of each side of a pair.
        min_letters: least share of letters and their marks among the characters that are not white space.
        max_digits: largest share of digits among them.
        max_ratio: a pair's longer side in characters over its shorter one; 0 is no limit.
        dedup: ``exact``: a text is kept once; ``near``: also of texts that share most of their word 5-grams (MinHash).
        identify: ``langid`` (97 languages, comes with the extra) or the path of a fastText model (lid.176, GlotLID).
        identify_threshold: a document goes when another language has at least this probability, and its own is one that
            the model can tell.
        identify_characters: shorter ones are not judged.
    """

    fix_unicode: bool = False
    min_characters: int = 1
    max_characters: int = 1_000_000
    min_letters: float = 0.0
    max_digits: float = 1.0
    max_ratio: float = 0.0
    dedup: Literal["none", "exact", "near"] = "none"
    identify: str | None = None
    identify_threshold: float = 0.65
    identify_characters: int = 20

    def __post_init__(self) -> None:
        for name in ("min_letters", "max_digits", "identify_threshold"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise ConfigError(f"{name} is {value}: it must lie between 0 and 1")
        if not 1 <= self.min_characters <= self.max_characters:
            raise ConfigError(
                f"min_characters is {self.min_characters}, max_characters {self.max_characters}: "
                "both must be at least 1, the first not above the second"
            )
        if self.max_ratio and self.max_ratio < 1.0:
            raise ConfigError(f"max_ratio is {self.max_ratio}: it must be at least 1, or 0 for no limit")
        if self.dedup not in ("none", "exact", "near"):
            raise ConfigError(f"dedup is {self.dedup!r}: it must be none, exact or near")


@dataclass(frozen=True)
class CorpusOptions:
    """What ``build_corpus`` makes of which files.

    Attributes:
        sources: the input files.
        out: the corpus folder.
        tokenizer: folder of the vocabulary.
        languages: documents of other ones are dropped; None keeps all.
        text_field, language_field: of JSONL and Parquet records; a record's own language goes before its file's.
        documents: of plain text, ``line``: each line is one; ``block``: blank lines stand between them (CC-100).
        errors: ``strict``: lines of invalid UTF-8 go to the quarantine; ``replace``: U+FFFD is put in their place.
        bad_rows: so many rows of one file may go to the quarantine before the build stops.
        held_out: share of the documents, by a hash of their text (of pairs: of the pivot's side), kept for validation.
        shard_bytes: text of a shard, roughly; also what bounds memory when duplicates are looked for.
    """

    sources: tuple[Source, ...]
    out: Path
    tokenizer: Path
    languages: tuple[str, ...] | None = None
    text_field: str = "text"
    language_field: str | None = None
    documents: Literal["line", "block"] = "line"
    errors: Literal["strict", "replace"] = "strict"
    bad_rows: int = 1000
    held_out: float = 0.0
    shard_bytes: int = 64 << 20
    cleaning: Cleaning = field(default_factory=Cleaning)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty: at least one file is needed")
        if not 0.0 <= self.held_out <= 0.5:
            raise ConfigError(f"held_out is {self.held_out}: it must lie between 0 and 0.5")
        if self.documents not in ("line", "block"):
            raise ConfigError(f"documents is {self.documents!r}: it must be line or block")
        if self.errors not in ("strict", "replace"):
            raise ConfigError(f"errors is {self.errors!r}: it must be strict or replace")
        if self.bad_rows < 0 or self.shard_bytes < 1 << 10:
            raise ConfigError(
                f"bad_rows is {self.bad_rows}, shard_bytes {self.shard_bytes}: at least 0 and 1,024 are needed"
            )
        for source in self.sources:
            if source.language == AUTO and not (self.cleaning.identify or self.language_field):
                raise ConfigError(f"{source.path}: language auto needs identify or language_field")
        pivots = {source.pivot for source in self.sources if source.pivot}
        if len(pivots) > 1:
            raise ConfigError(
                f"pairs with different second languages ({', '.join(sorted(pivots))}): one corpus has one"
            )

    def record(self) -> dict[str, Any]:
        """What decides the content, as plain values; paths are known by content elsewhere."""
        values = dataclasses.asdict(self)
        for name in ("sources", "out", "tokenizer"):
            del values[name]
        return values | {"languages": None if self.languages is None else sorted(self.languages)}


def check_language(code: str, where: str) -> str:
    """The code if it looks like one (``sw``, ``zh-Hant``, ``swh_Latn``), or ``auto``.

    Raises ``ConfigError`` naming where it stands.
    """
    if code != AUTO and not _LANGUAGE.fullmatch(code):
        raise ConfigError(f"{where}: {code!r} is no language code (like sw, zh-Hant or swh_Latn); say LANGUAGE={where}")
    return code


def parse_sources(specs: Sequence[str], pivot: str = "en", format: str | None = None) -> tuple[Source, ...]:
    """``sw=crawl.jsonl.zst``, ``text/{language}.txt.gz``, or a file whose name begins with its language: ``sw.txt``.

    A TSV file has pairs: ``sw-fr=pairs.tsv`` or ``sw-fr.tsv``; without a second language it is ``pivot``.

    Raises ``DataError`` for files that are not there, ``ConfigError`` for languages and formats that cannot be.
    """
    found: list[Source] = []
    for spec in specs:
        language, equals, name = spec.partition("=")
        if "{language}" in spec:
            found += [_source(path, code, pivot, format) for code, path in find_files(spec).items()]
        elif equals and not Path(spec).exists():
            found.append(_source(Path(name), language, pivot, format))
        else:
            found.append(_source(Path(spec), Path(spec).name.split(".")[0], pivot, format))
    for path, count in ((s.path, sum(t.path == s.path for t in found)) for s in found):
        if count > 1:
            raise ConfigError(f"{path}: given {count} times")
    return tuple(found)


def _source(path: Path, language: str, pivot: str, format: str | None) -> Source:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    kind = format or _SUFFIXES.get(Path(without_suffix(path.name)).suffix, "txt")
    if kind not in FORMATS:
        raise ConfigError(f"format is {kind!r}: it must be one of {', '.join(FORMATS)}")
    if FORMATS[kind] == "text":
        return Source(str(path.resolve()), check_language(language, str(path)), kind)
    left, dash, right = language.rpartition("-")
    if not dash:
        left, right = language, pivot
    if AUTO in (left, right):
        raise ConfigError(f"{path}: the languages of pairs cannot be {AUTO}: name them, like sw-en={path}")
    return Source(str(path.resolve()), check_language(left, str(path)), kind, check_language(right, str(path)))
