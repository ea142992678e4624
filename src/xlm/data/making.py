"""One row of labelled data -> an example of a task, its values checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeGuard

from xlm.data.columns import Columns
from xlm.data.tables import Row
from xlm.errors import InputError
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

Bio = Literal["quarantine", "repair", "keep"]


class Maker:
    """Rows of one file -> examples."""

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
        self.task, self.language, self.bio, self.labelled = task, language, bio, labelled
        self.columns = Columns(task, columns, file)
        self.repaired = 0
        self._make: Callable[[Mapping[str, Any], dict[str, Any]], Example] = getattr(self, f"_{_KIND[task]}")

    def __call__(self, row: Row) -> Example:
        values = self.columns.values(row.values)
        shared = {
            "language": text_of(values.pop("language", None)) or self.language,
            "id": text_of(values.pop("id", None)),
        }
        for name in self.columns.needed():
            if values.get(name) is None:
                raise InputError(f"no value for {name} (column {self.columns.of(name)})")
        return self._make(values, shared)

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
        if label == "-" and self.columns.found.get("label") == "gold_label":
            label = None  # as SNLI and MNLI write that annotators did not agree
        if label in (None, "") and self.labelled and self.task == "classify":
            raise InputError(self.columns.without("label", values))
        return TextExample(_need_text(values, "text"), text_of(values.get("pair")), label, **shared)

    def _tagged(self, values: Mapping[str, Any], shared: dict[str, Any]) -> Example:
        words, tags = values["words"], values.get("tags")
        if isinstance(words, str):
            if tags is None and self.labelled:
                hint = (
                    "; a table's cells hold no lists: give CoNLL, a word and its tag a line, or JSONL"
                    * self.columns.table
                )
                raise InputError(self.columns.without("tags", values) + hint)
            return self._spans(words, tags, shared)
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise InputError(f"words are {_show(words)}: a list of texts is needed")
        if not words:
            raise InputError("there are no words")
        if tags is None:
            if self.labelled:
                raise InputError(self.columns.without("tags", values))
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
            raise InputError(self.columns.without("answers", values))
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
            raise InputError(self.columns.without("label", values))
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


def _is_place(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def text_of(value: object) -> str | None:
    """A value as text; None where there is none."""
    return None if value is None or value == "" else str(value)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
