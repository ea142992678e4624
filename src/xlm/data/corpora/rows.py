"""Input files -> rows, streamed: one at a time, of bounded size, each with its line; what cannot be read is a bad row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from xlm.data.compressed import DAMAGED, open_bytes
from xlm.data.corpora.options import CorpusOptions, Source
from xlm.data.readers import UTF16
from xlm.errors import DataError, MissingExtraError

MAX_BYTES = 64 << 20
"""Longer lines, and documents of several lines, are bad rows; they are never held in memory."""
_BOM = b"\xef\xbb\xbf"
_BATCH = 1024


@dataclass(frozen=True)
class Row:
    """``texts`` is one text, or the two sides of a pair; ``language`` what the record itself says."""

    line: int
    texts: tuple[str, ...]
    language: str | None = None
    replaced: bool = False


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: where, why, and how it begins."""

    line: int
    reason: str
    sample: str = ""


def read_rows(source: Source, options: CorpusOptions) -> Iterator[Row | BadRow]:
    """The rows of one file in its order, empty ones included.

    Raises ``DataError`` naming ``file:line`` where the file itself cannot be read on: damaged compression, a failing
    disk, no Parquet.
    """
    if source.format == "parquet":
        yield from _parquet(source, options)
        return
    number = 0
    try:
        with open_bytes(Path(source.path)) as stream:
            lines = _lines(stream, source.path, options.errors == "replace")
            readers = {"txt": _documents if options.documents == "block" else _plain, "jsonl": _jsonl, "tsv": _pairs}
            for row in readers[source.format](lines, options):
                number = row.line
                yield row
    except DAMAGED as error:
        raise DataError(f"{source.path}:{number + 1}: damaged compressed data: {error}") from error
    except OSError as error:
        if isinstance(error, DataError | MissingExtraError):
            raise
        raise DataError(f"{source.path}:{number + 1}: cannot be read: {error.strerror or error}") from error


def _lines(stream: IO[bytes], name: str, replace: bool) -> Iterator[Row | BadRow]:
    """Lines end at ``\\n`` alone; one ``\\r`` before it and a byte-order mark at the start are dropped."""
    number = 0
    while raw := stream.readline(MAX_BYTES + 1):
        number += 1
        if len(raw) > MAX_BYTES and not raw.endswith(b"\n"):
            size, head = len(raw), raw[:80]
            while (more := stream.readline(MAX_BYTES)) and not more.endswith(b"\n"):
                size += len(more)
            reason = f"a line of {size + len(more):,} bytes: at most {MAX_BYTES:,} are read"
            yield BadRow(number, reason, head.decode("utf-8", "replace"))
            continue
        if number == 1:
            if raw.startswith(UTF16):
                raise DataError(f"{name}:1: UTF-16, by its byte-order mark: save the text as UTF-8")
            raw = raw.removeprefix(_BOM)
        try:
            text, replaced = raw.decode("utf-8"), False
        except UnicodeDecodeError as error:
            if not replace:
                reason = (
                    f"invalid UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start} of the line ({error.reason})"
                )
                yield BadRow(number, reason, raw[:200].decode("utf-8", "replace"))
                continue
            text, replaced = raw.decode("utf-8", "replace"), True
        yield Row(number, (text.removesuffix("\n").removesuffix("\r"),), None, replaced)


def _plain(lines: Iterator[Row | BadRow], options: CorpusOptions) -> Iterator[Row | BadRow]:
    return lines


def _documents(lines: Iterator[Row | BadRow], options: CorpusOptions) -> Iterator[Row | BadRow]:
    """Lines up to a blank one together; a document with a bad line is bad as a whole."""
    held: list[Row] = []
    size, bad = 0, None
    for row in lines:
        if isinstance(row, Row) and row.texts[0].strip():
            size += len(row.texts[0])
            if size <= MAX_BYTES:
                held.append(row)
            continue
        if isinstance(row, BadRow):
            bad = bad or row
            continue
        yield from _document(held, size, bad)
        held, size, bad = [], 0, None
    yield from _document(held, size, bad)


def _document(held: list[Row], size: int, bad: BadRow | None) -> Iterator[Row | BadRow]:
    if bad is not None:
        yield bad
    elif size > MAX_BYTES:
        reason = f"a document of {size:,} characters: at most {MAX_BYTES:,} are read"
        yield BadRow(held[0].line, reason, held[0].texts[0][:80])
    elif held:
        yield Row(held[0].line, ("\n".join(row.texts[0] for row in held),), None, any(row.replaced for row in held))


def _jsonl(lines: Iterator[Row | BadRow], options: CorpusOptions) -> Iterator[Row | BadRow]:
    for row in lines:
        if isinstance(row, BadRow) or not row.texts[0].strip():
            yield row
            continue
        text = row.texts[0]
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield BadRow(row.line, f"not JSON: {error}", text[:200])
            continue
        yield _from_record(record, row.line, options, text, row.replaced)


def _from_record(record: Any, line: int, options: CorpusOptions, shown: str, replaced: bool = False) -> Row | BadRow:
    if not isinstance(record, dict):
        return BadRow(
            line, f"a JSON {type(record).__name__} where an object with {options.text_field!r} is needed", shown
        )
    text, language = record.get(options.text_field), None
    if not isinstance(text, str):
        kind = "missing" if options.text_field not in record else f"{type(text).__name__}, not text"
        return BadRow(line, f"field {options.text_field!r} is {kind}", shown[:200])
    if options.language_field is not None:
        language = record.get(options.language_field)
        if not isinstance(language, str) or not language:
            return BadRow(line, f"field {options.language_field!r} is {language!r}, not a language", shown[:200])
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        return BadRow(line, "the text has a lone surrogate, which is no character", ascii(text[:80]))
    return Row(line, (text,), language, replaced)


def _pairs(lines: Iterator[Row | BadRow], options: CorpusOptions) -> Iterator[Row | BadRow]:
    for row in lines:
        if isinstance(row, Row) and row.texts[0].strip():
            columns = tuple(row.texts[0].split("\t"))
            if len(columns) != 2:
                reason = f"{len(columns)} columns where a pair needs exactly 2, separated by one tab"
                yield BadRow(row.line, reason, row.texts[0][:200])
                continue
            row = Row(row.line, columns, None, row.replaced)
        yield row


def _parquet(source: Source, options: CorpusOptions) -> Iterator[Row | BadRow]:
    """Rows are numbered from 1, as lines are."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(f"{source.path}: reading Parquet", "pyarrow", "corpus") from error
    wanted = [options.text_field, *([options.language_field] if options.language_field else [])]
    number = 0
    try:
        with parquet.ParquetFile(source.path) as file:
            missing = [name for name in wanted if name not in file.schema_arrow.names]
            if missing:
                raise DataError(
                    f"{source.path}: no column {', '.join(missing)}; there are {', '.join(file.schema_arrow.names)}"
                )
            for batch in file.iter_batches(_BATCH, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield _from_record(record, number, options, str(record.get(options.text_field))[:200])
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source.path}:{number + 1}: cannot be read as Parquet: {error}") from error
