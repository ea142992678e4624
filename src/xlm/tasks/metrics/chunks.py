"""Precision, recall and F1 of chunks, exactly as conlleval and seqeval's default count them.

A chunk is a longest run of one type: it begins at ``B-`` or ``S-``, after ``O``, ``E-`` or ``S-``, and where the type
changes (so an ``I-`` without its ``B-`` begins one, as in IOB1), and is right when its place and its type are. Source:
conlleval of the CoNLL-2000 shared task (version of 2004-01-26).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xlm.errors import InputError
from xlm.tasks.metrics.measured import Floats, Measured, aligned, f_measure, from_sums


class Chunk(NamedTuple):
    """Words ``start`` to ``end`` (exclusive) of a sentence, and the type."""

    start: int
    end: int
    kind: str


def chunks(tags: Sequence[str]) -> list[Chunk]:
    """The chunks of a sentence's tags, in order: ``O``, or one of ``B I E S``, a hyphen and a type.

    Raises:
        InputError: a tag that is neither; names its place.
    """
    found: list[Chunk] = []
    start, kind, before = -1, "", "O"
    for index, tag in enumerate([*tags, "O"]):
        prefix, dash, new = tag.partition("-")
        if tag != "O" and not (dash and prefix in ("B", "I", "E", "S")):
            raise InputError(f"tags[{index}] is {tag!r}: it must be O, or B-, I-, E- or S- and a type")
        begins = prefix in ("B", "S") or before in ("O", "E", "S") or new != kind
        if start >= 0 and (tag == "O" or begins):
            found.append(Chunk(start, index, kind))
            start = -1
        if tag != "O" and begins:
            start, kind = index, new
        before = prefix
    return found


def chunk_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Measured:
    """F1, precision, recall of chunks and accuracy of tags over sentences; ``details["by_type"]`` has each type's.

    Args:
        gold: the right tags, one list a sentence.
        predicted: as many lists, each as long as its sentence.

    Raises:
        InputError: nothing to score, sentences or words without a counterpart, a malformed tag.
    """
    _same_lengths(gold, predicted)
    rows, correct = [], np.zeros(len(gold))
    right: Counter[str] = Counter()
    guessed: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for index, (a, b) in enumerate(zip(gold, predicted, strict=True)):
        golds, guesses = set(_chunks(a, f"gold[{index}]")), set(_chunks(b, f"predicted[{index}]"))
        hits = golds & guesses
        right.update(chunk.kind for chunk in hits)
        guessed.update(chunk.kind for chunk in guesses)
        wanted.update(chunk.kind for chunk in golds)
        rows.append([len(hits), len(guesses), len(golds), sum(x == y for x, y in zip(a, b, strict=True)), len(a)])
        correct[index] = 2 * len(hits) / (len(golds) + len(guesses)) if golds or guesses else 1.0
    by_type = {}
    for kind in sorted(set(guessed) | set(wanted)):
        counts = [np.array([float(counter[kind])]) for counter in (right, guessed, wanted)]
        precision, recall, f1 = (float(value[0]) for value in f_measure(*counts))
        by_type[kind] = {"f1": f1, "precision": precision, "recall": recall, "gold": wanted[kind]}

    def score(sums: Floats) -> dict[str, Floats]:
        precision, recall, f1 = f_measure(sums[:, 0], sums[:, 1], sums[:, 2])
        exact = 100 * sums[:, 3] / np.maximum(sums[:, 4], 1)
        return {"f1": f1, "precision": precision, "recall": recall, "accuracy": exact}

    return from_sums(np.array(rows, np.float64), score, correct, {"by_type": by_type})


def tag_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Measured:
    """Part of speech: the share of words whose tag is right, resampled by sentence.

    ``xtreme_f1`` is what XTREME reports: chunk F1 over the bare tags, where seqeval takes a tag's first letter for its
    prefix and the rest for its type, so that neighbours of one tag are one chunk.
    """
    _same_lengths(gold, predicted)
    rows = []
    both = zip(_letter_chunks(gold), _letter_chunks(predicted), strict=True)
    for a, b, (golds, guesses) in zip(gold, predicted, both, strict=True):
        exact = sum(x == y for x, y in zip(a, b, strict=True))
        rows.append([exact, len(a), len(golds & guesses), len(guesses), len(golds)])
    table = np.array(rows, np.float64)

    def score(sums: Floats) -> dict[str, Floats]:
        _, _, f1 = f_measure(sums[:, 2], sums[:, 3], sums[:, 4])
        return {"accuracy": 100 * sums[:, 0] / np.maximum(sums[:, 1], 1), "xtreme_f1": f1}

    confusion = Counter(pair for a, b in zip(gold, predicted, strict=True) for pair in zip(a, b, strict=True))
    details = {"pairs": [[a, b, count] for (a, b), count in sorted(confusion.items())]}
    return from_sums(table, score, table[:, 0] / np.maximum(table[:, 1], 1), details)


def _letter_chunks(sentences: Sequence[Sequence[str]]) -> list[set[Chunk]]:
    """Chunks of tags without prefixes as seqeval reads them, each in the sentence in which it ends.

    A tag is its first letter and a type, the rest; ``B E I S O`` keep their roles. Places count through the whole set, an
    ``O`` after every sentence, and a chunk that ends without having begun keeps the place where the last one began.
    """
    found: list[set[Chunk]] = []
    place, start, kind, before = 0, 0, "", "O"
    for tags in sentences:
        ended: set[Chunk] = set()
        for tag in (*tags, "O"):
            prefix, new = tag[:1], tag[1:].split("-", 1)[-1] or "_"
            ends = before in ("E", "S") or (before in ("B", "I") and prefix in ("B", "S", "O"))
            if ends or (before not in ("O", ".") and new != kind):
                ended.add(Chunk(start, place, kind))
            begins = prefix in ("B", "S") or (prefix in ("E", "I") and before in ("O", "E", "S"))
            if begins or (prefix not in ("O", ".") and new != kind):
                start = place
            before, kind = prefix, new
            place += 1
        found.append(ended)
    return found


def _chunks(tags: Sequence[str], where: str) -> list[Chunk]:
    try:
        return chunks(tags)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _same_lengths(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    aligned(gold, predicted, "sentences")
    for index, (a, b) in enumerate(zip(gold, predicted, strict=True)):
        if len(a) != len(b):
            raise InputError(f"predicted[{index}]: {len(b)} tags for {len(a)} words: one for each is needed")
