"""Which column of labelled data is which field of a task: found by their usual names, in the first row of a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from xlm.errors import DataError

# task -> field -> the names that columns have for it, the likeliest first. A field that is not optional must be found.
COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "classify": {
        "text": (
            "text",
            "sentence",
            "sentence1",
            "premise",
            "question1",
            "text1",
            "review",
            "content",
            "tweet",
            "question",
        ),
        "pair": ("pair", "sentence2", "hypothesis", "question2", "text_pair", "text2"),
        "label": ("label", "labels", "gold_label", "class", "category", "score"),
    },
    "tag": {
        "words": ("words", "tokens", "text"),
        "tags": ("tags", "ner_tags", "pos_tags", "labels", "upos", "spans", "entities"),
    },
    "answer": {
        "question": ("question",),
        "context": ("context", "passage", "document"),
        "answers": ("answers", "answer"),
        "impossible": ("is_impossible", "impossible"),
        "title": ("title",),
    },
    "choose": {
        "prompt": ("prompt", "premise", "context", "sentence", "ctx", "sent1", "question"),
        "choices": ("choices", "options", "endings"),
        "label": ("label", "answer", "correct"),
        "question": ("question", "asks_for", "sent2"),
    },
    "embed": {
        "text": ("text", "query", "anchor", "sentence1", "question", "premise"),
        "other": ("other", "positive", "pos", "sentence2", "translation", "answer", "hypothesis"),
        "negatives": ("negatives", "negative", "neg"),
        "score": ("score", "label", "similarity"),
    },
    "fill": {"text": ("text", "content", "sentence")},
}
COLUMNS["rerank"] = {
    **COLUMNS["embed"],
    "other": ("other", "document", "passage", "doc", *COLUMNS["embed"]["other"][1:]),
}
COLUMNS["generate"] = COLUMNS["fill"]
_SHARED = {"language": ("language", "lang"), "id": ("id", "qid", "guid")}
_OPTIONAL = {"pair", "label", "tags", "answers", "impossible", "title", "question", "negatives", "score"} | set(_SHARED)
# Where a field is optional in general, some tasks cannot do without it.
_NEEDED = {("answer", "question")}
# Columns of a task that are two fields only where both are there: QNLI's question is no text of its own, its sentence is.
_TOGETHER = {"classify": ({"text": "question", "pair": "sentence"}, {"text": "question", "pair": "passage"})}
# Choices in columns of their own, as a table has them: choice1, ending0, option_a.
_CHOICE = re.compile(r"(choice|option|ending)[ _-]?([0-9]{1,2}|[a-z])", re.IGNORECASE)


class Columns:
    """The columns of one file. They are looked up in the first row that has them all.

    Args:
        task: what the rows are for.
        chosen: field -> column, where names are unusual.
        file: what errors call it.

    Raises:
        DataError: ``chosen`` names a field that the task does not have.
    """

    def __init__(self, task: str, chosen: Mapping[str, str], file: str) -> None:
        self.task, self.file = task, file
        self.names = {**COLUMNS[task], **_SHARED}
        for name in chosen:
            if name not in self.names:
                raise DataError(f"columns: {name!r} is no field of {task}: it has {', '.join(self.names)}")
        self.chosen = dict(chosen)
        self.found: dict[str, str] = {}
        self._checked = False

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Field -> value of a row; fields without a column are left out.

        Raises:
            DataError: the file has no column for a field that the task needs.
        """
        if not self._checked:
            self._check(row)
        values: dict[str, Any] = {}
        for name, usual in self.names.items():
            column = self.chosen.get(name) or next(
                (one for one in usual if row.get(one) is not None and one not in self.chosen.values()), None
            )
            # One column is one field: a prompt that stands in "question" is not its question too.
            if column is not None and column not in {k for n, k in self.found.items() if n != name}:
                values[name] = row.get(column)
                self.found[name] = column
        if self._choices_in:
            values["choices"] = [one for column in self._choices_in if (one := row.get(column)) not in (None, "")]
        return values

    def needed(self) -> list[str]:
        """The fields that every example has."""
        return [n for n in self.names if n not in _OPTIONAL or (self.task, n) in _NEEDED]

    def of(self, name: str) -> str | None:
        """The column of a field, where one is known."""
        return self.chosen.get(name) or self.found.get(name)

    def _check(self, values: Mapping[str, Any]) -> None:
        """Raise DataError when the file has no column for a field."""
        self._checked = True
        self._first = values
        self._choices_in: list[str] = []
        for name, column in self.chosen.items():
            if column not in values:
                raise DataError(f"{self.file}: no column {column!r} (for {name}): there are {', '.join(values)}")
        usual = {column for field in ("text", "pair") for column in self.names.get(field, ()) if column in values}
        for pair in _TOGETHER.get(self.task, ()):
            # Only where these are all that could be meant.
            if set(pair.values()) <= set(values) and usual <= set(pair.values()) and not set(pair) & set(self.chosen):
                self.chosen |= pair
        self._otherwise_written(values)
        for name in self.needed():
            if name == "choices" and self._choices_in:
                continue
            if name not in self.chosen and not any(column in values for column in self.names[name]):
                bare = len(values) == 2 and "other" in self.names and ".tsv" in self.file
                hint = "; of texts without a header say data.format=pairs" if bare else ""
                if self.task == "tag" and self.table:
                    hint = "; a table's cells hold no lists: give CoNLL, a word and its tag a line, or JSONL"
                raise DataError(f"{self.file}: no column for {name}: {self._looked(name, values)}{hint}")

    @property
    def table(self) -> bool:
        """Whether the file is one whose first line names its columns."""
        return self.file.removesuffix(".gz").lower().endswith((".csv", ".tsv"))

    def _looked(self, name: str, values: Mapping[str, Any]) -> str:
        """What a column for a field may be called, and what there is instead."""
        there = "its first line has" if self.table else "there are"
        return f"looked for {', '.join(self.names[name])}; {there} {_listed(values)}; say data.columns.{name}=COLUMN"

    def _otherwise_written(self, values: Mapping[str, Any]) -> None:
        """Take columns whose names differ from the usual ones in case alone, and choices that have a column each."""
        for name, usual in self.names.items():
            if name in self.chosen or any(column in values for column in usual):
                continue
            like = {str(c).strip().lower(): c for c in values if c not in self.chosen.values()}
            if found := next((like[one] for one in usual if one in like), None):
                self.chosen[name] = found
        if (
            self.task == "choose"
            and "choices" not in self.chosen
            and not any(c in values for c in self.names["choices"])
        ):
            numbered = [
                (m[1].lower(), m[2].zfill(2).lower(), c) for c in values if (m := _CHOICE.fullmatch(str(c).strip()))
            ]
            if len({kind for kind, _, _ in numbered}) == 1 and len(numbered) > 1:
                self._choices_in = [column for _, _, column in sorted(numbered)]

    def note(self) -> str | None:
        """Which columns were taken for what, and which others hold texts; None where the names say it all."""
        if not self._checked:
            return None
        taken = {name: column for name, column in self.found.items() if name != column}
        if self._choices_in:
            taken["choices"] = ", ".join(self._choices_in)
        unused = [
            column
            for column, value in self._first.items()
            if isinstance(value, str)
            and " " in value.strip()
            and column not in (*self.found.values(), *self._choices_in)
        ]
        if not taken and not unused:
            return None
        used = ", ".join(f"{name} is {column!r}" for name, column in {**self.found, **taken}.items())
        return f"columns: {used}" + (f"; not used: {', '.join(map(repr, unused))}" if unused else "")

    def without(self, name: str, values: Mapping[str, Any]) -> str:
        """That a row has nothing for a field, and where it was looked for."""
        column = self.of(name)
        return f"the row has no {name}: " + (
            f"nothing in column {column!r}"
            if column or values.get(name) is not None
            else self._looked(name, self._first)
        )


def _listed(columns: Mapping[str, Any]) -> str:
    """Their names, the first of many, each cut where it is a text rather than a name."""
    names = [name if len(name) <= 40 else name[:39] + "…" for name in map(str, columns)]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
