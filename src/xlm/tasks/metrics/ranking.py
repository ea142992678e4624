"""Ranks and ranked lists: where the right text stands among others, and how well documents are ordered for their queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xlm.errors import InputError
from xlm.tasks.metrics.measured import Floats, Measured, aligned, means

DEEP = 10
"""As far down a list as nDCG looks."""
RELEVANT = 0.5
"""From this gain on a document is a right one."""
_ROWS = 2048


def ranking(ranks: Sequence[int]) -> Measured:
    """Accuracy (rank 1) and mean reciprocal rank; ranks count from 1.

    Raises:
        InputError: no ranks, or one below 1.
    """
    aligned(ranks, ranks, "ranks")
    found = np.asarray(ranks, np.float64)
    if (found < 1).any():
        raise InputError(f"ranks: {int(found.min())} is below 1: the best rank is 1")
    return means({"accuracy": (found == 1).astype(np.float64), "mrr": 1 / found})


def partner_ranks(
    similar: Callable[[int, int], NDArray[np.floating]], others: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each text's partner stands among the partners of all texts, and which of these is nearest.

    Args:
        similar: ``similar(start, end)`` are the similarities (end - start, n) of those texts to all ``others``.
        others: the partner of every text. One that is the partner's twin is no rival; ties count against the partner.

    Returns:
        The ranks (n,) from 1, and the numbers (n,) of the nearest: a text's own where its rank is 1.
    """
    kinds = np.unique(np.asarray(others, object), return_inverse=True)[1]
    ranks, nearest = np.zeros(len(kinds), np.int64), np.arange(len(kinds))
    for start in range(0, len(kinds), _ROWS):
        own = np.arange(start, min(start + _ROWS, len(kinds)))
        block = np.array(similar(start, int(own[-1]) + 1))
        partner = block[own - start, own]
        block[kinds[own][:, None] == kinds[None, :]] = -np.inf
        ranks[own] = 1 + (block >= partner[:, None]).sum(1)
        behind = ranks[own] > 1
        nearest[own[behind]] = block[behind].argmax(1)
    return ranks, nearest


def ranked_lists(gains: Sequence[Sequence[float]], scores: Sequence[Sequence[float]]) -> Measured:
    """Queries with their documents' gains, and the scores that order them: mean reciprocal rank of the first right document,
    nDCG of the first ten (gains as they are, logarithmic discount), and how often a right one comes first.

    Ties count against the better document.

    Raises:
        InputError: no query, other numbers of documents, or a query without a right or without a wrong document.
    """
    aligned(gains, scores, "queries")
    table = np.zeros((len(gains), 3))
    for query, (worth, order) in enumerate(zip(gains, scores, strict=True)):
        aligned(worth, order, "documents")
        if not judged(worth):
            raise InputError(f"gold: query {query} needs documents with a gain of at least {RELEVANT}, and others")
        found = np.asarray(worth, np.float64)
        listed = found[np.lexsort((found, -np.asarray(order, np.float64)))]
        rank = 1 + int((listed >= RELEVANT).argmax())
        table[query] = 1 / rank, _gain(listed) / _gain(np.sort(found)[::-1]), rank == 1
    return means({"mrr": table[:, 0], f"ndcg_at_{DEEP}": table[:, 1], "accuracy": table[:, 2]})


def judged(gains: Sequence[float]) -> bool:
    """Whether an order of documents with these gains can be right or wrong: some are right, some are not."""
    return any(gain >= RELEVANT for gain in gains) and any(gain < RELEVANT for gain in gains)


def _gain(listed: Floats) -> float:
    """The discounted gain of a list."""
    top = listed[:DEEP]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())
