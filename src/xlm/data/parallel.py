"""Files of translations, and files of one language, that say which languages they hold.

``de-en=pairs.tsv`` and ``de=lines.txt``, or names that begin with the languages: ``de-en.train.tsv``, ``de.txt.gz``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xlm.data.examples import BadRow, read_examples
from xlm.data.readers import read_texts
from xlm.data.tables import HUB, SIDES, Row, format_of, read_rows
from xlm.errors import ConfigError, DataError


def named(given: str, parts: int, base: str | Path = ".", where: str = "file") -> tuple[tuple[str, ...], str]:
    """(languages, path) of a file; ``parts`` is 2 for pairs, 1 for text. Relative paths are those of ``base``.

    Raises:
        ConfigError: it does not say its languages; ``where`` is what the message begins with.
    """
    said, equals, path = given.partition("=")
    if not equals or not re.fullmatch(r"[\w|-]+", said):
        path, said = given, Path(given.split(SIDES)[0].strip()).name.split(".")[0]
    languages = tuple(said.split("-"))
    if len(languages) != parts or not all(languages):
        what, example = (
            ("two languages", "de-en=pairs.tsv or de-en.train.tsv")
            if parts == 2
            else ("language", "de=lines.txt or de.txt")
        )
        raise ConfigError(f"{where}: {given!r} does not say its {what}: {example}")
    if path.startswith(HUB):
        return languages, path
    sides = [Path(side.strip()).expanduser() for side in path.split(SIDES)]
    return languages, f" {SIDES} ".join(str(side if side.is_absolute() else Path(base) / side) for side in sides)


def read_pairs(
    path: str,
    languages: Sequence[str],
    *,
    columns: dict[str, str] | None = None,
    format: str | None = None,
    limit: int | None = None,
    max_bad: float = 0.0,
    quarantine: Path | None = None,
) -> tuple[list[tuple[str, str]], list[BadRow]]:
    """The pairs of a file, in the order of ``languages``, and the rows that cannot be used.

    A ``.tsv`` is ``text TAB text`` without a header; other tables may call their columns by the languages. ``A ||| B`` is
    two files whose lines translate each other.

    Raises:
        DataError: it cannot be read, its two sides have other numbers of lines (both are named), or more bad rows than
            ``max_bad``.
    """
    columns = dict(columns or {})
    if format is None and not columns and not path.startswith(HUB) and SIDES not in path:
        format = format_of(path)
        if format == "tsv":
            format = "pairs"
        elif format not in ("pairs", "txt"):
            first = next(iter(read_rows(path, format)), None)
            if isinstance(first, Row) and set(languages) <= set(first.values):
                columns = dict(zip(("text", "other"), languages, strict=True))
    loaded = read_examples(
        path, "embed", columns=columns, format=format, limit=limit, max_bad=max_bad, quarantine=quarantine
    )
    return [(example.text, example.other) for example in loaded.examples], loaded.bad


def read_sentences(path: str, limit: int | None = None) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        DataError: it cannot be read, or holds none.
    """
    found: list[str] = []
    for line in read_texts(Path(path)):
        if limit is not None and len(found) >= limit:
            break
        if text := line.strip():
            found.append(text)
    if not found:
        raise DataError(f"{path}: not one line with text")
    return found
