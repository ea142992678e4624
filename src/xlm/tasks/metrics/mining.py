"""Retrieval: the nearest sentence (Tatoeba, FLORES), and mining of parallel sentences with margin scores (BUCC).

Sources: LASER's tasks/bucc and source/mine_bitexts.py (Artetxe and Schwenk 2018, arXiv:1811.01136); XTREME's use of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xlm.errors import InputError
from xlm.tasks.metrics.measured import Floats, Measured, aligned, f_measure, from_sums, means

Vectors = NDArray[np.float32]
Pair = tuple[str, str]
_ROWS = 2048


def nearest(queries: Vectors, candidates: Vectors) -> NDArray[np.int64]:
    """The nearest candidate (n,) of every query by cosine, the first among equals; rows are vectors of any length."""
    unit, others = _unit(queries), _unit(candidates)
    parts = [(unit[at : at + _ROWS] @ others.T).argmax(1) for at in range(0, len(unit), _ROWS)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def translation_accuracy(queries: Vectors, candidates: Vectors) -> Measured:
    """Tatoeba: how often the nearest candidate is the query's own line."""
    aligned(list(queries), list(candidates), "sentences")
    return means({"accuracy": (nearest(queries, candidates) == np.arange(len(queries))).astype(np.float64)})


def mine(
    source: Vectors,
    target: Vectors,
    neighbours: int = 4,
    margin: Literal["ratio", "distance", "absolute"] = "ratio",
) -> list[tuple[int, int, float]]:
    """Pairs (source row, target row, score) that are most likely translations, best first, every row at most once.

    The score of a pair is its cosine against the mean cosine of both sides' ``neighbours`` nearest: their ratio, their
    difference, or the cosine alone. Each side proposes its best neighbour; the best proposals win (LASER's ``max``).

    Raises:
        InputError: an unknown margin, fewer than one neighbour, or an empty side.
    """
    if margin not in ("ratio", "distance", "absolute"):
        raise InputError(f"margin is {margin!r}: it must be ratio, distance or absolute")
    if neighbours < 1:
        raise InputError(f"neighbours is {neighbours}: at least 1 is needed")
    for name, side in (("source", source), ("target", target)):
        if not len(side):
            raise InputError(f"{name}: no sentences: at least 1 is needed")
    x, y = _unit(source), _unit(target)
    forth, there = _neighbours(x, y, neighbours)
    back, here = _neighbours(y, x, neighbours)
    means_x, means_y = forth.mean(1), back.mean(1)
    left, left_score = _proposals(forth, there, means_x, means_y, margin)
    right, right_score = _proposals(back, here, means_y, means_x, margin)
    pairs = np.concatenate([np.stack([np.arange(len(x)), left], 1), np.stack([right, np.arange(len(y))], 1)])
    scores = np.concatenate([left_score, right_score])
    seen_x, seen_y = set(), set()
    found = []
    for at in np.argsort(-scores, kind="stable").tolist():
        i, j = pairs[at].tolist()
        if i not in seen_x and j not in seen_y:
            seen_x.add(i)
            seen_y.add(j)
            found.append((i, j, float(scores[at])))
    return found


def best_threshold(scored: dict[Pair, float], gold: Collection[Pair]) -> float:
    """The score above which mined pairs have the best F1: half-way to the next pair, as LASER's BUCC script sets it."""
    wanted = set(gold)
    items = sorted(scored.items(), key=lambda item: -item[1])
    best, threshold, correct = 0.0, 0.0, 0
    for count, (pair, score) in enumerate(items, 1):
        correct += pair in wanted
        if correct:
            precision, recall = correct / count, correct / len(wanted)
            f1 = 2 * precision * recall / (precision + recall)
            if f1 > best:
                # The official script fails on a threshold after the last pair; everything is kept there.
                best, threshold = f1, (score + items[count][1]) / 2 if count < len(items) else score
    return threshold


def mining_f1(gold: Collection[Pair], mined: Collection[Pair]) -> Measured:
    """BUCC: F1, precision and recall of the pairs of ids that were mined; resampled by the pairs' source ids.

    Raises:
        InputError: no gold pairs.
    """
    wanted, found = set(gold), set(mined)
    aligned(list(wanted), list(wanted), "pairs")
    sources = sorted({source for source, _ in wanted | found})
    place = {source: index for index, source in enumerate(sources)}
    table = np.zeros((len(sources), 3))
    for column, pairs in enumerate((wanted & found, found, wanted)):
        np.add.at(table[:, column], [place[source] for source, _ in pairs], 1)

    def score(sums: Floats) -> dict[str, Floats]:
        precision, recall, f1 = f_measure(sums[:, 0], sums[:, 1], sums[:, 2])
        return {"f1": f1, "precision": precision, "recall": recall}

    return from_sums(table, score, table[:, 0] / np.maximum(table[:, 1:].max(1), 1))


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)


def _neighbours(x: Vectors, y: Vectors, count: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Cosines and rows (n, count) of the nearest in ``y``, best first."""
    count = min(count, len(y))
    similar, rows = [], []
    for at in range(0, len(x), _ROWS):
        block = x[at : at + _ROWS] @ y.T
        some = np.argpartition(-block, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(block, some, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        similar.append(np.take_along_axis(values, order, 1))
        rows.append(np.take_along_axis(some, order, 1))
    return np.concatenate(similar), np.concatenate(rows)


def _proposals(
    cosines: Vectors, rows: NDArray[np.int64], own: Vectors, others: Vectors, margin: str
) -> tuple[NDArray[np.int64], Vectors]:
    """Every row's best neighbour by margin, and its score."""
    context = (own[:, None] + others[rows]) / 2
    scores = {"ratio": cosines / context, "distance": cosines - context, "absolute": cosines}[margin]
    best = scores.argmax(1)[:, None]
    return np.take_along_axis(rows, best, 1)[:, 0], np.take_along_axis(scores, best, 1)[:, 0]
