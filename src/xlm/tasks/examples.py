"""What a task's data is made of: one small frozen record a task, the same from every kind of file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xlm.errors import InputError

Span = tuple[int, int]


@dataclass(frozen=True)
class TextExample:
    """A text, or a pair of texts, with its label: a class, several classes (a tuple), or a value (a float)."""

    text: str
    pair: str | None = None
    label: str | float | tuple[str, ...] | None = None
    language: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class TaggedExample:
    """Words with a tag each. ``text`` and ``offsets`` say where they came from, if they came from running text."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    text: str | None = None
    offsets: tuple[Span, ...] | None = None
    language: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Gold:
    """One right answer: ``text`` is found in the context at ``start`` (in code points)."""

    text: str
    start: int


@dataclass(frozen=True)
class QuestionExample:
    """A question about a context. ``impossible``: the context does not answer it."""

    question: str
    context: str
    answers: tuple[Gold, ...] = ()
    impossible: bool = False
    title: str | None = None
    language: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class ChoiceExample:
    """A prompt with choices, of which number ``label`` (from 0) is right. ``question`` stands between the two."""

    prompt: str
    choices: tuple[str, ...]
    label: int | None = None
    question: str | None = None
    language: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class PairExample:
    """Two texts that belong together (``score`` None or 1), or do not (0), with texts that do not belong to the first."""

    text: str
    other: str
    negatives: tuple[str, ...] = ()
    score: float | None = None
    language: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class RankedExample:
    """A query with all its documents, and how well each fits, from 0 to 1."""

    query: str
    documents: tuple[str, ...]
    gains: tuple[float, ...]
    language: str | None = None
    id: str | None = None


Example = TextExample | TaggedExample | QuestionExample | ChoiceExample | PairExample


# -- tags of spans --------------------------------------------------------------------------------------------------------


def is_bio(tags: Sequence[str]) -> bool:
    """Whether tags mark spans: ``O``, ``B-TYPE`` and ``I-TYPE``, at least one of the latter."""
    marked = [tag for tag in tags if tag != "O"]
    return bool(marked) and all(tag[:2] in ("B-", "I-") and len(tag) > 2 for tag in marked)


def check_bio(tags: Sequence[str], where: str) -> None:
    """Raise InputError naming the place of the first ``I-`` that continues nothing of its type."""
    before = "O"
    for place, tag in enumerate(tags):
        if tag.startswith("I-") and before[2:] != tag[2:]:
            raise InputError(f"{where}: tag {place + 1} is {tag} after {before}: a span must begin with B-{tag[2:]}")
        before = tag


def repair_bio(tags: Sequence[str]) -> tuple[str, ...]:
    """The tags with every ``I-`` that continues nothing of its type made a ``B-``, which is how conlleval reads it."""
    fixed: list[str] = []
    for tag in tags:
        orphan = tag.startswith("I-") and (not fixed or fixed[-1][2:] != tag[2:])
        fixed.append("B-" + tag[2:] if orphan else tag)
    return tuple(fixed)


def spans_of(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """``(first word, word after the last, type)`` of every span of BIO tags; of plain tags every one but ``O``."""
    found: list[tuple[int, int, str]] = []
    if any(tag != "O" for tag in tags) and not is_bio(tags):
        return [(place, place + 1, tag) for place, tag in enumerate(tags) if tag != "O"]
    for place, tag in enumerate(repair_bio(tags)):
        if tag.startswith("B-"):
            found.append((place, place + 1, tag[2:]))
        elif tag.startswith("I-"):
            found[-1] = (found[-1][0], place + 1, tag[2:])
    return found


def tags_of(offsets: Sequence[Span], spans: Sequence[tuple[int, int, str]], where: str) -> tuple[str, ...]:
    """BIO tags of words that lie at ``offsets``, from labelled spans of the text.

    Raises:
        InputError: two spans overlap, or one is empty, holds no word or cuts through one.
    """
    ordered = sorted(spans)
    for (start, end, label), after in zip(ordered, [*ordered[1:], None], strict=True):
        if start >= end:
            raise InputError(f"{where}: span {start}-{end} ({label}) is empty: its end must lie behind its start")
        if after is not None and after[0] < end:
            raise InputError(
                f"{where}: spans {start}-{end} ({label}) and {after[0]}-{after[1]} ({after[2]}) overlap: "
                "a character has at most one label"
            )
    tags = ["O"] * len(offsets)
    for start, end, label in ordered:
        inside = [place for place, (low, high) in enumerate(offsets) if low < end and high > start]
        if not inside:
            raise InputError(f"{where}: span {start}-{end} ({label}) holds no word")
        if offsets[inside[0]][0] < start or offsets[inside[-1]][1] > end:
            raise InputError(f"{where}: span {start}-{end} ({label}) cuts through a word")
        for place in inside:
            tags[place] = f"{'B' if place == inside[0] else 'I'}-{label}"
    return tuple(tags)
