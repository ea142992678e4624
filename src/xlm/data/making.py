"""One row of labelled data -> an example of a task: its columns found by their usual names, its values checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeGuard

from xlm.data.tables import Row
from xlm.errors import DataError, InputError
from xlm.tasks.examples import (
    ChoiceExample,
    Example,
    Gold,
    PairExample,
    QuestionExample,
    TaggedExample,
    TextExample,
    check_bio,
    is_bio,
    repair_bio,
    tags_of,
)
from xlm.tasks.words import split_words

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
Bio = Literal["quarantine", "repair", "keep"]


class Maker:
    """Rows of one file -> examples. Columns are looked up in the first row that has them all."""

    def __init__(
        self,
        task: str,
        columns: Mapping[str, str],
        language: str | None,
        bio: Bio,
        labelled: bool,
        file: str,
        unit_scores: bool = True,
    ) -> None:
        self.unit_scores = unit_scores
        self.task, self.language, self.bio, self.labelled, self.file = task, language, bio, labelled, file
        self.names = {**COLUMNS[task], **_SHARED}
        for name in columns:
            if name not in self.names:
                raise DataError(f"columns: {name!r} is no field of {task}: it has {', '.join(self.names)}")
        self.chosen = dict(columns)
        self.repaired = 0
        self._make: Callable[[Mapping[str, Any], dict[str, Any]], Example] = getattr(self, f"_{_KIND[task]}")
        self._checked = False

    def __call__(self, row: Row) -> Example:
        if not self._checked:
            self._check(row.values)
        values: dict[str, Any] = {}
        for name, usual in self.names.items():
            column = self.chosen.get(name) or next(
                (one for one in usual if row.values.get(one) is not None and one not in self.chosen.values()), None
            )
            # One column is one field: a prompt that stands in "question" is not its question too.
            if column is not None and column not in {k for n, k in self._found.items() if n != name}:
                values[name] = row.values.get(column)
                self._found[name] = column
        if self._choices_in:
            values["choices"] = [
                one for column in self._choices_in if (one := row.values.get(column)) not in (None, "")
            ]
        shared = {
            "language": text_of(values.pop("language", None)) or self.language,
            "id": text_of(values.pop("id", None)),
        }
        for name in self._needed():
            if values.get(name) is None:
                raise InputError(f"no value for {name} (column {self.chosen.get(name) or self._found.get(name)})")
        return self._make(values, shared)

    def _needed(self) -> list[str]:
        return [n for n in self.names if n not in _OPTIONAL or (self.task, n) in _NEEDED]

    def _check(self, values: Mapping[str, Any]) -> None:
        """Raise DataError when the file has no column for a field."""
        self._found: dict[str, str] = {}
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
        for name in self._needed():
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
        taken = {name: column for name, column in self._found.items() if name != column}
        if self._choices_in:
            taken["choices"] = ", ".join(self._choices_in)
        unused = [
            column
            for column, value in self._first.items()
            if isinstance(value, str)
            and " " in value.strip()
            and column not in (*self._found.values(), *self._choices_in)
        ]
        if not taken and not unused:
            return None
        used = ", ".join(f"{name} is {column!r}" for name, column in {**self._found, **taken}.items())
        return f"columns: {used}" + (f"; not used: {', '.join(map(repr, unused))}" if unused else "")

    def _without(self, name: str, values: Mapping[str, Any]) -> str:
        """That a row has nothing for a field, and where it was looked for."""
        column = self.chosen.get(name) or self._found.get(name)
        return f"the row has no {name}: " + (
            f"nothing in column {column!r}"
            if column or values.get(name) is not None
            else self._looked(name, self._first)
        )

    # -- one maker a kind of example --------------------------------------------------------------------------------------

    def _texts(self, values: Mapping[str, Any], shared: dict[str, Any]) -> Example:
        label = values.get("label")
        if isinstance(label, list | tuple):
            label = tuple(str(one) for one in label)
        elif isinstance(label, bool | int):
            label = str(int(label))
        elif isinstance(label, float):
            if not math.isfinite(label):
                raise InputError(f"label is {label}: a value must be a finite number")
        elif label is not None:
            label = str(label).strip()
        if label == "-" and self._found.get("label") == "gold_label":
            label = None  # as SNLI and MNLI write that annotators did not agree
        if label in (None, "") and self.labelled and self.task == "classify":
            raise InputError(self._without("label", values))
        return TextExample(_need_text(values, "text"), text_of(values.get("pair")), label, **shared)

    def _tagged(self, values: Mapping[str, Any], shared: dict[str, Any]) -> Example:
        words, tags = values["words"], values.get("tags")
        if isinstance(words, str):
            if tags is None and self.labelled:
                hint = "; a table's cells hold no lists: give CoNLL, a word and its tag a line, or JSONL" * self.table
                raise InputError(self._without("tags", values) + hint)
            return self._spans(words, tags, shared)
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise InputError(f"words are {_show(words)}: a list of texts is needed")
        if not words:
            raise InputError("there are no words")
        if tags is None:
            if self.labelled:
                raise InputError(self._without("tags", values))
            return TaggedExample(tuple(words), None, **shared)
        if not isinstance(tags, list | tuple) or len(tags) != len(words):
            count = len(tags) if isinstance(tags, list | tuple) else 0
            raise InputError(f"{count} tags for {len(words)} words: they must be as many")
        found = tuple(str(tag) for tag in tags)
        if bad := next((tag for tag in found if not tag.strip()), None):
            raise InputError(f"tag {bad!r} is empty")
        if is_bio(found) and self.bio != "keep":
            if self.bio == "repair":
                fixed = repair_bio(found)
                self.repaired += fixed != found
                found = fixed
            check_bio(found, "tags")
        elif any(tag[:2] in ("B-", "I-") for tag in found) and not is_bio(found):
            odd = next(tag for tag in found if tag != "O" and (tag[:2] not in ("B-", "I-") or len(tag) < 3))
            of = "; of BIOES write S- as B- and E- as I-" if odd[:2] in ("S-", "E-", "U-", "L-") else ""
            raise InputError(f"tag {odd!r} among BIO tags: it must be O, B-TYPE or I-TYPE{of}")
        return TaggedExample(tuple(words), found, **shared)

    def _spans(self, text: str, spans: Any, shared: dict[str, Any]) -> Example:
        """Running text with ``[{"start", "end", "label"}]`` in code points."""
        if spans is None and not self.labelled:
            offsets = tuple(split_words(text))
            return TaggedExample(tuple(text[a:b] for a, b in offsets), None, text, offsets, **shared)
        if not isinstance(spans, list | tuple) or not all(isinstance(span, Mapping) for span in spans):
            raise InputError(f"spans are {_show(spans)}: a list of objects with start, end and label is needed")
        found = []
        for span in spans:
            start, end, label = span.get("start"), span.get("end"), span.get("label", span.get("type"))
            if not _is_place(start) or not _is_place(end) or not isinstance(label, str) or end > len(text):
                raise InputError(
                    f"span {_show(dict(span))}: start and end must lie in the text of {len(text)} characters, with a label"
                )
            found.append((start, end, label))
        offsets = tuple(split_words(text, [border for start, end, _ in found for border in (start, end)]))
        tags = tags_of(offsets, found, "spans")
        return TaggedExample(tuple(text[a:b] for a, b in offsets), tags, text, offsets, **shared)

    def _questions(self, values: Mapping[str, Any], shared: dict[str, Any]) -> Example:
        context = _need_text(values, "context")
        answers, given = [], values.get("answers")
        if isinstance(given, Mapping):  # the columns of the hub's SQuAD
            texts, starts = given.get("text", []), given.get("answer_start", given.get("start", []))
            if not isinstance(texts, list):
                texts, starts = [texts], [starts]
            given = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
        if given is not None and not isinstance(given, list | tuple):
            raise InputError(f"answers are {_show(given)}: a list of objects with text and answer_start is needed")
        for one in given or ():
            text, start = one.get("text"), one.get("answer_start", one.get("start"))
            if not isinstance(text, str) or not _is_place(start):
                raise InputError(f"answer {_show(one)}: text and answer_start are needed")
            if not text:
                continue
            if context[start : start + len(text)] != text:
                raise InputError(_misplaced(context, text, start))
            answers.append(Gold(text, start))
        impossible = bool(values.get("impossible")) or (given is not None and not answers)
        if self.labelled and given is None and not impossible:
            raise InputError(self._without("answers", values))
        title = text_of(values.get("title"))
        return QuestionExample(
            _need_text(values, "question"), context, () if impossible else tuple(answers), impossible, title, **shared
        )

    def _choices(self, values: Mapping[str, Any], shared: dict[str, Any]) -> Example:
        choices, label = values["choices"], values.get("label")
        if isinstance(choices, Mapping):  # {"label": ["A", "B"], "text": [...]}
            names, choices = choices.get("label", []), choices.get("text", [])
            label = names.index(label) if label in names else label
        if not isinstance(choices, list | tuple) or len(choices) < 2:
            raise InputError(f"choices are {_show(choices)}: a list of at least two is needed")
        if isinstance(label, str):
            label = label.strip()
            letter = len(label) == 1 and "A" <= label <= "Z"
            label = None if not label else int(label) if label.isdecimal() else ord(label) - ord("A") if letter else -1
        if label is None and self.labelled:
            raise InputError(self._without("label", values))
        if label is not None and (not isinstance(label, int) or not 0 <= label < len(choices)):
            raise InputError(f"label is {values.get('label')!r}: it must be from 0 to {len(choices) - 1}, a choice")
        question = text_of(values.get("question"))
        return ChoiceExample(_need_text(values, "prompt"), tuple(map(str, choices)), label, question, **shared)

    def _pairs(self, values: Mapping[str, Any], shared: dict[str, Any]) -> Example:
        negatives, score = values.get("negatives") or (), values.get("score")
        if isinstance(negatives, str):
            negatives = (negatives,)
        try:
            value = None if score is None or score == "" else float(score)
        except (TypeError, ValueError) as error:
            needed = "a number from 0 to 1" if self.unit_scores else "a number"
            raise InputError(f"score is {score!r}: {needed} is needed") from error
        if value is not None and not math.isfinite(value):
            raise InputError(f"score is {value}: a finite number is needed")
        if value is not None and self.unit_scores and not 0.0 <= value <= 1.0:
            raise InputError(f"score is {value}: it must lie between 0 and 1")
        texts = _need_text(values, "text"), _need_text(values, "other")
        return PairExample(*texts, tuple(map(str, negatives)), value, **shared)


_KIND = {"classify": "texts", "fill": "texts", "generate": "texts", "tag": "tagged", "answer": "questions"}
_KIND |= {"choose": "choices", "embed": "pairs", "rerank": "pairs"}


def _misplaced(context: str, text: str, start: int) -> str:
    """What is wrong with an answer's place, and what it may come from."""
    there = context[start : start + len(text)]
    message = f"the answer {_show(text)} is not at {start} of the context, where {_show(there)} stands"
    nearest = min(_finds(context, text), key=lambda at: abs(at - start), default=None)
    if nearest is None:
        return f"{message}; it is nowhere in the context"
    if len(context[:nearest].encode()) == start:
        return f"{message}; {start} counts bytes, characters are needed: {nearest}"
    return f"{message}; it is at {nearest}: the offsets are shifted by {start - nearest:+d}"


def _finds(context: str, text: str) -> Iterator[int]:
    at = context.find(text)
    while at >= 0:
        yield at
        at = context.find(text, at + 1)


def _need_text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} is {_show(value)}: a text that is not empty is needed")
    return value


def _listed(columns: Mapping[str, Any]) -> str:
    """Their names, the first of many, each cut where it is a text rather than a name."""
    names = [name if len(name) <= 40 else name[:39] + "…" for name in map(str, columns)]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _is_place(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def text_of(value: object) -> str | None:
    """A value as text; None where there is none."""
    return None if value is None or value == "" else str(value)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
