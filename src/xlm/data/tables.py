"""Files of labelled data -> rows: JSONL, JSON, CSV, TSV, CoNLL, SQuAD, Parquet, plain lines, and sets on the hub.

Each row comes with where it stands (``file:line``); what cannot be read as a row comes as a :class:`BadRow`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from xlm.data.readers import decode_lines, open_bytes
from xlm.errors import DataError, MissingExtraError

HUB = "hub:"
SIDES = "|||"
"""Between two files whose lines translate each other: ``de.txt ||| en.txt``."""
FORMATS = ("jsonl", "json", "csv", "tsv", "pairs", "conll", "conllu", "txt", "parquet")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".conll": "conll"}
_SUFFIXES |= {".conllu": "conllu", ".iob": "conll", ".iob2": "conll", ".bio": "conll", ".txt": "txt"}
_SUFFIXES |= {".parquet": "parquet"}


@dataclass(frozen=True)
class Row:
    """The values of one record by column."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class BadRow:
    """What could not be used, where it stands and why; ``row`` is its content as far as it could be read."""

    where: str
    reason: str
    row: Any = field(default=None, compare=False)


def format_of(path: str) -> str:
    """The format that a file's name ends in, ``.gz`` apart.

    Raises:
        DataError: an ending that says nothing.
    """
    name = Path(path.removesuffix(".gz"))
    if name.suffix.lower() not in _SUFFIXES:
        raise DataError(f"{path}: the ending says no format: name one of {', '.join(FORMATS)}")
    return _SUFFIXES[name.suffix.lower()]


def read_rows(path: str, format: str | None = None) -> Iterator[Row | BadRow]:
    """The records of a file in its order, of two parallel files ``A ||| B``, or of a set ``hub:NAME[:CONFIG][:SPLIT]``.

    Raises:
        DataError: no such file, an unknown format, damaged gzip data, a file that is no JSON or Parquet at all, or sides of
            different length.
        MissingExtraError: Parquet and hub sets need the extra ``data``.
    """
    if path.startswith(HUB):
        yield from _hub(path)
        return
    if SIDES in path:
        yield from _two_files(*[side.strip() for side in path.split(SIDES)])
        return
    format = format or format_of(path)
    if format not in FORMATS:
        raise DataError(f"{path}: format is {format!r}: it must be one of {', '.join(FORMATS)}")
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    if format == "parquet":
        yield from _parquet(path)
    elif format == "json":
        yield from _json(path)
    elif format in _SENTENCES:
        yield from _sentences(path, _SENTENCES[format])
    else:
        # Lines of invalid UTF-8 come out before the row that follows them.
        broken: list[BadRow] = []
        with open_bytes(Path(path)) as stream:
            lines = decode_lines(stream, path, lambda error, raw: broken.append(_broken(path, error, raw)))
            for row in _LINES[format](path, lines):
                yield from broken
                broken.clear()
                yield row
        yield from broken


def _broken(path: str, error: DataError, raw: bytes) -> BadRow:
    where, reason = str(error).removeprefix(path + ":").split(": ", 1)
    return BadRow(f"{path}:{where}", reason, raw.decode("utf-8", "backslashreplace"))


Lines = Iterator[tuple[int, str]]


def json_lines(path: str, lines: Lines) -> Iterator[Row | BadRow]:
    """An object a line; blank lines are skipped."""
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRow(where, f"not JSON: {error}", line)
            continue
        if isinstance(values, dict):
            yield Row(where, values)
        else:
            yield BadRow(where, f"a JSON {type(values).__name__}: an object is needed", line)


def _table(tabs: bool) -> Any:
    """Rows of a table whose first line names its columns. CSV is separated by what stands in that line: a comma, or else, as
    spreadsheets in much of Europe write it, a semicolon, or else a tab; its cells may be quoted."""

    def rows(path: str, lines: Lines) -> Iterator[Row | BadRow]:
        numbers = [0]

        def texts(first: tuple[int, str]) -> Iterator[str]:
            for number, line in chain([first], lines):
                numbers[0] = number
                yield line + "\n"

        first = next(lines, None)
        if first is None:
            return
        delimiter = "\t" if tabs else next((one for one in ",;\t" if one in first[1]), ",")
        quoting = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
        reader = csv.reader(texts(first), delimiter=delimiter, quoting=quoting, strict=True)
        header: list[str] | None = None
        while True:
            start = numbers[0] + 1
            where = f"{path}:{start}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield BadRow(where, f"not CSV: {error}")
                continue
            if cells is None:
                return
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if len(set(header)) != len(header):
                    raise DataError(f"{where}: the header names a column twice: {', '.join(header)}")
            elif len(cells) != len(header):
                yield BadRow(where, f"{len(cells)} columns, the header has {len(header)}", cells)
            else:
                yield Row(where, dict(zip(header, cells, strict=True)))

    return rows


def _pairs(path: str, lines: Lines) -> Iterator[Row | BadRow]:
    """Two texts a line with a tab between, and no header."""
    for number, line in lines:
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) == 2:
            yield Row(f"{path}:{number}", {"text": cells[0].strip(), "other": cells[1].strip()})
        else:
            yield BadRow(f"{path}:{number}", f"{len(cells)} columns where a pair has 2, with a tab between", line)


def _two_files(*paths: str) -> Iterator[Row | BadRow]:
    """Line n of one file beside line n of the other; lines that both files leave empty are skipped."""
    if len(paths) != 2 or not all(paths):
        raise DataError(f"{SIDES.join(paths)!r}: exactly two files are needed, as in 'de.txt {SIDES} en.txt'")
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f"{path}: no such file")
    with open_bytes(Path(paths[0])) as first, open_bytes(Path(paths[1])) as second:
        sides = decode_lines(first, paths[0]), decode_lines(second, paths[1])
        counts = [0, 0]
        for here, there in zip_longest(*sides):
            counts = [count + (line is not None) for count, line in zip(counts, (here, there), strict=True)]
            if here is None or there is None:
                continue
            texts = here[1].strip(), there[1].strip()
            if all(texts):
                yield Row(f"{paths[0]}:{here[0]}", {"text": texts[0], "other": texts[1]})
            elif any(texts):
                empty = paths[0] if not texts[0] else paths[1]
                yield BadRow(f"{empty}:{here[0]}", "the line is empty, that of the other side is not", list(texts))
    if counts[0] != counts[1]:
        raise DataError(
            f"{paths[0]} has {counts[0]:,} lines, {paths[1]} has {counts[1]:,}: line n of one translates line n of the "
            "other, so there must be as many"
        )


Cells = Callable[[str], tuple[str, str] | None]
"""A line -> its word and its tag; None: a line without a word. Raises ValueError saying what is wrong with it."""


def _sentences(path: str, cells: Cells) -> Iterator[Row | BadRow]:
    """Sentences of a line a word; an empty line ends one. A line that cannot be read makes its whole sentence a bad row."""
    invalid: list[DataError] = []
    with open_bytes(Path(path)) as stream:
        words: list[str] = []
        tags: list[str] = []
        begins, fault = 0, None
        for number, line in chain(decode_lines(stream, path, replaced=invalid.append), [(0, "")]):
            if not line.strip():
                if fault:
                    yield BadRow(fault[0], fault[1], {"words": words, "tags": tags})
                elif words:
                    yield Row(f"{path}:{begins}", {"words": words, "tags": tags, "lines": begins})
                words, tags, fault = [], [], None
                continue
            where, reason = f"{path}:{number}", None
            if invalid:
                reason = str(invalid.pop()).removeprefix(f"{where}: ")
            try:
                found = cells(line)
            except ValueError as error:
                found, reason = (line, ""), reason or str(error)
            if reason and fault is None:
                fault = (where, reason)
            if found is not None:
                begins = begins if words else number
                words.append(found[0])
                tags.append(found[1])


def _conll(line: str) -> tuple[str, str] | None:
    """``word … tag``: columns are separated by tabs, or else by spaces."""
    if line.startswith("-DOCSTART-"):
        return None
    columns = line.split("\t") if "\t" in line else line.split()
    if len(columns) < 2:
        raise ValueError(f"{line!r}: a word and a tag are needed")
    return columns[0], columns[-1].strip()


def _conllu(line: str) -> tuple[str, str] | None:
    """Universal Dependencies: the second column is the word, the fourth its part of speech."""
    if line.startswith("#"):
        return None
    columns = line.split("\t")
    if len(columns) != 10:
        raise ValueError(f"{len(columns)} columns where CoNLL-U has 10")
    return (columns[1], columns[3]) if columns[0].isdigit() else None  # 1-2 is a contraction, 1.1 an empty node


def _txt(path: str, lines: Lines) -> Iterator[Row | BadRow]:
    for number, line in lines:
        if text := line.strip():
            yield Row(f"{path}:{number}", {"text": text})


_LINES = {
    "jsonl": json_lines,
    "csv": _table(tabs=False),
    "tsv": _table(tabs=True),
    "pairs": _pairs,
    "txt": _txt,
}
_SENTENCES: dict[str, Cells] = {"conll": _conll, "conllu": _conllu}


def _json(path: str) -> Iterator[Row | BadRow]:
    """A list of objects, or SQuAD's nested articles."""
    with open_bytes(Path(path)) as stream:
        text = "\n".join(line for _, line in decode_lines(stream, path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    data = content.get("data") if isinstance(content, dict) else content
    if not isinstance(data, list):
        raise DataError(f"{path}: it must be a list of objects, or an object with a list 'data' (SQuAD)")
    for number, entry in enumerate(data):
        where = f"{path}: data[{number}]"
        if not isinstance(entry, dict):
            yield BadRow(where, f"a JSON {type(entry).__name__}: an object is needed", entry)
        elif "paragraphs" in entry:
            yield from _article(where, entry)
        else:
            yield Row(where, entry)


def _article(where: str, article: Mapping[str, Any]) -> Iterator[Row | BadRow]:
    for number, paragraph in enumerate(article["paragraphs"]):
        at = f"{where}.paragraphs[{number}]"
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list) or "context" not in paragraph:
            yield BadRow(at, "a paragraph needs 'context' and a list 'qas'", paragraph)
            continue
        for place, question in enumerate(paragraph["qas"]):
            if isinstance(question, dict):
                shared = {"context": paragraph["context"], "title": article.get("title")}
                yield Row(f"{at}.qas[{place}]", {**shared, **question})
            else:
                yield BadRow(f"{at}.qas[{place}]", "a question must be an object", question)


def _parquet(path: str) -> Iterator[Row | BadRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("reading Parquet", "pyarrow", "data") from error
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}: row {number}", values)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not Parquet: {error}") from error


def _hub(path: str) -> Iterator[Row | BadRow]:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingExtraError("reading data sets of the hub", "datasets", "data") from error
    name, _, rest = path.removeprefix(HUB).partition(":")
    config, _, split = rest.rpartition(":")
    try:
        loaded: Any = datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as error:  # the library raises errors of many kinds; all mean that there is no such set
        raise DataError(f"{path}: the data set cannot be loaded: {error}") from error
    for number, values in enumerate(loaded):
        # Classes are stored as numbers; their names stand in the set's description.
        named = {
            column: kind.int2str(values[column])
            for column, kind in loaded.features.items()
            if isinstance(kind, datasets.ClassLabel) and isinstance(values[column], int) and values[column] >= 0
        }
        listed = {
            column: [kind.feature.int2str(value) for value in values[column]]
            for column, kind in loaded.features.items()
            if isinstance(getattr(kind, "feature", None), datasets.ClassLabel)
        }
        yield Row(f"{path}: row {number}", {**values, **named, **listed})
