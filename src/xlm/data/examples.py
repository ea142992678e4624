"""Rows of labelled data -> a task's examples, with columns found by their usual names; bad rows are set aside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xlm.data.columns import COLUMNS
from xlm.data.making import Bio, Maker, text_of
from xlm.data.readers import find_files
from xlm.data.tables import HUB, SIDES, BadRow, Row, read_rows
from xlm.errors import DataError, InputError

__all__ = ["COLUMNS", "Bio", "Loaded", "examples_of", "read_examples"]

_SHOWN = 5
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass
class Loaded:
    """Examples in the order of their files, and the rows that could not be used."""

    examples: list[Any] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    """Where each stands: ``file:line``."""
    bad: list[BadRow] = field(default_factory=list)
    repaired: int = 0
    """Sentences in which an ``I-`` without its ``B-`` was made a ``B-``."""
    notes: list[str] = field(default_factory=list)
    """Which columns were taken for what, where their names do not say it, and which texts are in none of them."""


def read_examples(
    path: str | Path | Sequence[str | Path],
    task: str,
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    language: str | None = None,
    languages: Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
    limit: int | None = None,
    max_bad: float = 0.0,
    quarantine: Path | None = None,
    bio: Bio = "quarantine",
    labelled: bool = True,
    unit_scores: bool = True,
) -> Loaded:
    """Read examples of ``task`` from files, or from sets on the hub (``hub:NAME:CONFIG:SPLIT``).

    Args:
        path: one or several; ``{language}`` in a file's name stands for the language of its examples; ``A ||| B`` is two
            files whose lines translate each other.
        columns: field -> column, where the column has an unusual name.
        language: of all examples that do not say their own.
        languages: read only these of a pattern's.
        where: column -> value: only rows that have it are read.
        limit: at most so many examples of each file.
        max_bad: how many bad rows are put up with: a number, or a share of the rows when below 1.
        quarantine: a JSONL file for the bad rows.
        bio: what to do with ``I-X`` that continues no ``X``: a bad row, repaired as conlleval reads it, or left.
        labelled: whether rows without labels are bad.
        unit_scores: whether scores of pairs lie between 0 and 1, or are of any scale.

    Labels of CSV and TSV files are values, as numbers with a point are elsewhere, where all are numbers and at least one
    has a point.

    Raises:
        DataError: no file, a missing column, no example at all, or more bad rows than ``max_bad``.
    """
    if task not in COLUMNS:
        raise DataError(f"task is {task!r}: it must be one of {', '.join(COLUMNS)}")
    loaded = Loaded()
    rows = 0
    paths = [path] if isinstance(path, str | Path) else list(path)
    cells: list[int] = []  # examples whose label stood in a table's cell, where a number is as much a text as a word
    for file, of in _files([str(one) for one in paths], language, languages):
        make = Maker(task, columns or {}, of, bio, labelled, file, unit_scores)
        taken, table = 0, (format or Path(file.removesuffix(".gz")).suffix.lower().lstrip(".")) in ("csv", "tsv")
        for row in read_rows(file, format):
            if limit is not None and taken >= limit:
                break
            if (
                isinstance(row, Row)
                and where
                and any(text_of(row.values.get(k)) != text_of(v) for k, v in where.items())
            ):
                continue
            rows += 1
            if isinstance(row, Row):
                try:
                    loaded.examples.append(make(row))
                    loaded.where.append(row.where)
                    taken += 1
                    if table:
                        cells.append(len(loaded.examples) - 1)
                    continue
                except InputError as error:
                    row = BadRow(row.where, str(error), dict(row.values))
            loaded.bad.append(row)
        loaded.repaired += make.repaired
        if (note := make.columns.note()) is not None and note not in loaded.notes:
            loaded.notes.append(note)
    if task == "classify":
        _values(loaded.examples, cells)
    if quarantine is not None and loaded.bad:
        _write_bad(quarantine, loaded.bad)
    allowed = max_bad * rows if max_bad < 1 else max_bad
    if len(loaded.bad) > allowed:
        shown, more = _reasons(loaded.bad)
        saved = f"; all are in {quarantine}" if quarantine is not None else ""
        raise DataError(
            f"{shown}{more}: {len(loaded.bad):,} of {rows:,} rows cannot be used, max_bad is {max_bad}{saved}"
        )
    if not loaded.examples:
        narrowed = f" with {dict(where)}" if where else ""
        raise DataError(f"{', '.join(map(str, paths))}: not one example{narrowed}")
    return loaded


def _reasons(rows: Sequence[BadRow]) -> tuple[str, str]:
    """The first few reasons, each with the first row that has it and how many others do; how many rows have other reasons."""
    groups: dict[str, list[BadRow]] = {}
    for row in rows:
        groups.setdefault(row.reason, []).append(row)
    said = list(groups.items())[:_SHOWN]
    shown = [
        f"{of[0].where}: {reason}" + (f" (and in {len(of) - 1:,} more rows)" if len(of) > 1 else "")
        for reason, of in said
    ]
    left = len(rows) - sum(len(of) for _, of in said)
    return "; ".join(shown), f"; {left:,} more" if left else ""


def _values(examples: list[Any], cells: Sequence[int]) -> None:
    """Labels from cells become values where all are numbers and one has a point, as in other formats numbers with one are."""
    labels = [examples[number].label for number in cells]
    numbers = [isinstance(label, str) and _NUMBER.fullmatch(label) is not None for label in labels]
    if labels and all(numbers) and any("." in label for label in labels):
        for number in cells:
            examples[number] = replace(examples[number], label=float(examples[number].label))


def _files(
    paths: Sequence[str], language: str | None, languages: Sequence[str] | None
) -> Iterator[tuple[str, str | None]]:
    for path in paths:
        if path.startswith(HUB) or SIDES in path or "{language}" not in path:
            yield path, language
            continue
        found = find_files(path)
        chosen = list(found) if languages is None else list(languages)
        for name in chosen:
            if name not in found:
                raise DataError(f"{path}: no file of language {name!r}: there are {', '.join(found) or 'none'}")
            yield str(found[name]), name
        if not chosen:
            raise DataError(f"{path}: no file fits the pattern")


def _write_bad(path: Path, rows: Sequence[BadRow]) -> None:
    from xlm.atomic import make_folder, write_text

    make_folder(path.parent, "quarantine")
    lines = [json.dumps({"where": r.where, "reason": r.reason, "row": r.row}, ensure_ascii=False) for r in rows]
    write_text(path, "\n".join(lines) + "\n")


def examples_of(rows: Iterator[Row | BadRow], task: str, name: str) -> Iterator[tuple[str, Any]]:
    """``(where, example)`` of rows without labels, one after the other; ``name`` is what errors call their source.

    Raises:
        DataError: naming the first row that cannot be used.
    """
    make = Maker(task, {}, None, "keep", False, name)
    for row in rows:
        if isinstance(row, BadRow):
            raise DataError(f"{row.where}: {row.reason}")
        try:
            yield row.where, make(row)
        except InputError as error:
            raise DataError(f"{row.where}: {error}") from error
