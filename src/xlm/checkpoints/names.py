"""One engine for every table of checkpoint names: two columns of `{}` templates, read in either direction.

A table is plain text, one tensor pattern a line::

    # ours                                              theirs
    roberta.encoder.layer.{}.attention.self.query.{}    transformer.attentions.{}.q_lin.{}
    roberta.encoder.layer.{}.intermediate.dense.weight  encoder/layer/{}/kernel              T
    roberta.embeddings.LayerNorm.{}                     encoder.emb_layer_norm.{}            old

Each `{}` stands for exactly one dotted component; the placeholders appear in the same order on both sides. A third
column may hold flags: ``T`` says that the foreign tensor is the transpose of ours, ``old`` that the foreign name is
read but never written (a historic spelling). The inverse is derived from the same lines. A key matches at most one line: two
lines that could both match one key are refused when the table is parsed, so no lookup is ever ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from xlm.errors import ConfigError

_HOLE = "{}"
_FLAGS = ("T", "old")


@dataclass(frozen=True)
class Line:
    """One line of a table: our template, the foreign template, and how the tensors behind them relate."""

    ours: str
    theirs: str
    transposed: bool = False
    old: bool = False


@dataclass(frozen=True)
class Match:
    """What a lookup found: the name on the other side and whether the tensor has to be transposed on the way."""

    name: str
    transposed: bool


class _Side:
    """The templates of one column, compiled for lookup by the number of components and their fixed parts."""

    def __init__(self, pairs: Iterable[tuple[str, str, bool]]) -> None:
        self.by_size: dict[int, list[tuple[re.Pattern[str], str, bool]]] = {}
        for source, target, transposed in pairs:
            holes = ("([^.]+)" if part == _HOLE else re.escape(part) for part in source.split("."))
            entry = (re.compile(r"\.".join(holes)), target.replace(_HOLE, "%s"), transposed)
            self.by_size.setdefault(source.count(".") + 1, []).append(entry)

    def match(self, name: str) -> Match | None:
        for pattern, target, transposed in self.by_size.get(name.count(".") + 1, ()):
            if found := pattern.fullmatch(name):
                return Match(target % found.groups(), transposed)
        return None


class NameTable:
    """A two-way table between our tensor names and those of one foreign layout."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines = tuple(lines)
        for line in self.lines:
            _check_line(line)
        written = [line for line in self.lines if not line.old]
        _check_unique("ours", [line.ours for line in written])
        _check_unique("theirs", [line.theirs for line in self.lines])
        self._to_theirs = _Side((line.ours, line.theirs, line.transposed) for line in written)
        self._to_ours = _Side((line.theirs, line.ours, line.transposed) for line in self.lines)

    @classmethod
    def parse(cls, text: str) -> NameTable:
        """Build a table from its text; blank lines and lines that begin with ``#`` are skipped.

        Raises ConfigError, naming the line, for a missing column, an unknown flag, placeholders that do not
        correspond, or two lines that could match the same key.
        """
        lines = []
        for number, raw in enumerate(text.splitlines(), 1):
            columns = raw.split()
            if not columns or columns[0].startswith("#"):
                continue
            flags = columns[2:]
            if len(columns) < 2 or any(flag not in _FLAGS for flag in flags):
                raise ConfigError(
                    f"line {number} of a name table is {raw.strip()!r}: expected 'ours theirs' and the flags {_FLAGS}"
                )
            lines.append(Line(columns[0], columns[1], "T" in flags, "old" in flags))
        return cls(lines)

    def ours(self, name: str) -> Match | None:
        """Our name for a foreign one, with its transposition; None when no line matches."""
        return self._to_ours.match(name)

    def theirs(self, name: str) -> Match | None:
        """The foreign name for ours, with its transposition; None when no line matches."""
        return self._to_theirs.match(name)

    def to_ours(self, name: str) -> str | None:
        """Our name for a foreign one, or None when no line matches."""
        found = self._to_ours.match(name)
        return found.name if found else None

    def to_theirs(self, name: str) -> str | None:
        """The foreign name for ours, or None when no line matches."""
        found = self._to_theirs.match(name)
        return found.name if found else None

    def without(self, ours: str = "", theirs: str = "") -> NameTable:
        """The table of a model saved without its head: both prefixes cut off, lines without them left out."""
        return NameTable(
            Line(line.ours.removeprefix(ours), line.theirs.removeprefix(theirs), line.transposed, line.old)
            for line in self.lines
            if line.ours.startswith(ours) and line.theirs.startswith(theirs)
        )

    def __add__(self, other: NameTable) -> NameTable:
        return NameTable(self.lines + other.lines)

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        return f"NameTable({len(self.lines)} lines)"


def _check_line(line: Line) -> None:
    for template in (line.ours, line.theirs):
        for part in template.split("."):
            if not part or (_HOLE in part and part != _HOLE) or "%" in part:
                raise ConfigError(
                    f"template {template!r} has the component {part!r}: each is plain text or exactly '{{}}'"
                )
    if line.ours.count(_HOLE) != line.theirs.count(_HOLE):
        raise ConfigError(f"{line.ours!r} and {line.theirs!r} have different numbers of placeholders")


def _check_unique(side: str, templates: list[str]) -> None:
    """Refuse two templates that could match the same key: same length, and at no place two different fixed parts."""
    by_size: dict[int, list[tuple[str, list[str]]]] = {}
    for template in templates:
        parts = template.split(".")
        by_size.setdefault(len(parts), []).append((template, parts))
    for group in by_size.values():
        for (one, left), (two, right) in combinations(group, 2):
            if all(a == b or _HOLE in (a, b) for a, b in zip(left, right, strict=True)):
                raise ConfigError(
                    f"name table is ambiguous in the column '{side}': {one!r} and {two!r} match the same key"
                )
