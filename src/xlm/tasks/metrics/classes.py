"""Scores of classes and of numbers: accuracy, F1, Matthews' and the two correlations, as GLUE defines them.

Single scores are those of scikit-learn and SciPy; their sums are written out here only so that resampling is quick, and a
test holds both equal.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from xlm.errors import InputError
from xlm.tasks.metrics.measured import Floats, Measured, aligned, from_sums, means


def accuracy(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> Measured:
    """Share of items whose class is right."""
    return means({"accuracy": _right(gold, predicted)})


def classes(gold: Sequence[Hashable], predicted: Sequence[Hashable], labels: Sequence[Hashable]) -> Measured:
    """Accuracy, macro F1 over ``labels`` and Matthews' correlation; a label neither gold nor guessed has an F1 of 0.

    Raises:
        InputError: an empty set, other lengths, or a class that is not among ``labels``.
    """
    right = _right(gold, predicted)
    number = {label: index for index, label in enumerate(labels)}
    a, b = _numbers(gold, number, "gold"), _numbers(predicted, number, "predicted")
    size = len(number)
    cells = np.zeros((len(a), size * size))
    cells[np.arange(len(a)), a * size + b] = 1

    def score(sums: Floats) -> dict[str, Floats]:
        confusion = sums.reshape(len(sums), size, size)
        hits = np.diagonal(confusion, axis1=1, axis2=2)
        golds, guesses = confusion.sum(2), confusion.sum(1)
        total = golds.sum(1)
        f1 = 2 * hits / np.maximum(golds + guesses, 1e-300)
        covariance = hits.sum(1) * total - (golds * guesses).sum(1)
        spread = (total**2 - (guesses**2).sum(1)) * (total**2 - (golds**2).sum(1))
        matthews = np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)
        return {
            "accuracy": 100 * hits.sum(1) / total,
            "macro_f1": 100 * f1.mean(1),
            "matthews": 100 * matthews,
        }

    return from_sums(cells, score, right, {"confusion": cells.sum(0).reshape(size, size).astype(int).tolist()})


def matthews(gold: Sequence[Hashable], predicted: Sequence[Hashable], labels: Sequence[Hashable]) -> Measured:
    """GLUE's CoLA: Matthews' correlation first, accuracy beside it."""
    found = classes(gold, predicted, labels)
    return _ordered(found, ("matthews", "accuracy"))


def binary_f1(gold: Sequence[Hashable], predicted: Sequence[Hashable], positive: Hashable = 1) -> Measured:
    """GLUE's MRPC and QQP: F1 of the positive class, accuracy, and their mean; the mean is the main score."""
    right = _right(gold, predicted)
    a = np.array([value == positive for value in gold], np.float64)
    b = np.array([value == positive for value in predicted], np.float64)
    table = np.stack([a * b, a, b, right, np.ones(len(a))], axis=1)

    def score(sums: Floats) -> dict[str, Floats]:
        f1 = 200 * sums[:, 0] / np.maximum(sums[:, 1] + sums[:, 2], 1e-300)
        exact = 100 * sums[:, 3] / sums[:, 4]
        return {"accuracy_and_f1": (f1 + exact) / 2, "f1": f1, "accuracy": exact}

    return from_sums(table, score, right)


def multilabel(gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]) -> Measured:
    """Micro F1 over the sets of labels, macro F1 over the labels that occur, and the share of items whose set is right."""
    aligned(gold, predicted)
    pairs = [(set(a), set(b)) for a, b in zip(gold, predicted, strict=True)]
    labels = sorted({label for a, b in pairs for label in a | b}, key=str)
    exact = np.array([a == b for a, b in pairs], np.float64)
    cells = np.array(
        [[[label in a and label in b, label in a, label in b] for label in labels] for a, b in pairs], np.float64
    ).reshape(len(pairs), 3 * len(labels))
    table = np.concatenate([cells, exact[:, None], np.ones((len(pairs), 1))], axis=1)

    def score(sums: Floats) -> dict[str, Floats]:
        hits, golds, guesses = sums[:, :-2].reshape(len(sums), len(labels), 3).transpose(2, 0, 1)
        micro = 200 * hits.sum(1) / np.maximum(golds.sum(1) + guesses.sum(1), 1e-300)
        macro = (200 * hits / np.maximum(golds + guesses, 1e-300)).mean(1) if labels else micro
        return {"micro_f1": micro, "macro_f1": macro, "exact": 100 * sums[:, -2] / sums[:, -1]}

    return from_sums(table, score, exact)


def correlations(gold: Sequence[float], predicted: Sequence[float]) -> Measured:
    """STS: Pearson's and Spearman's correlation and their mean, GLUE's STS-B; Spearman's first, as in retrieval papers.

    A constant side has no correlation: the score is 0, where SciPy returns NaN.

    Raises:
        InputError: an empty set, other lengths, or a value that is not a finite number.
    """
    aligned(gold, predicted, "scores")
    x, y = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    for name, values in (("gold", x), ("predicted", y)):
        if not np.isfinite(values).all():
            raise InputError(f"{name}: value {int(np.flatnonzero(~np.isfinite(values))[0])} is not a finite number")

    def resample(weights: Floats) -> dict[str, Floats]:
        pearson = np.array([_pearson(x, y, w) for w in weights])
        spearman = np.array([_pearson(_ranks(x, w), _ranks(y, w), w) for w in weights])
        both = (pearson + spearman) / 2
        return {"spearman": 100 * spearman, "pearson": 100 * pearson, "pearson_and_spearman": 100 * both}

    scale = (x.max() - x.min()) or 1.0
    fitted = np.interp(y, np.sort(y), np.sort(x))  # the guesses on the scale of the gold scores
    return Measured(len(x), resample, 1 - np.abs(fitted - x) / scale, {})


def _pearson(x: Floats, y: Floats, weights: Floats) -> float:
    """Pearson's correlation of items that count ``weights`` times."""
    total = weights.sum()
    dx, dy = x - weights @ x / total, y - weights @ y / total
    spread = np.sqrt((weights @ (dx * dx)) * (weights @ (dy * dy)))
    return float(weights @ (dx * dy) / spread) if spread > 1e-12 * total else 0.0


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Average ranks of items that count ``weights`` times, equals sharing theirs."""
    _, group = np.unique(values, return_inverse=True)
    sizes = np.bincount(group, weights=weights)
    return (np.cumsum(sizes) - sizes + (sizes + 1) / 2)[group]


def _right(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> Floats:
    aligned(gold, predicted)
    return np.array([a == b for a, b in zip(gold, predicted, strict=True)], np.float64)


def _numbers(values: Sequence[Hashable], number: dict[Hashable, int], argument: str) -> NDArray[np.int64]:
    unknown = sorted({str(value) for value in values if value not in number})
    if unknown:
        known = ", ".join(str(label) for label in number)
        raise InputError(f"{argument}: unknown labels {', '.join(unknown[:5])}: the labels are {known}")
    return np.array([number[value] for value in values], np.int64)


def _ordered(found: Measured, names: tuple[str, ...]) -> Measured:
    def resample(weights: Floats) -> dict[str, Floats]:
        scores = found.resample(weights)
        return {name: scores[name] for name in names}

    return Measured(found.items, resample, found.correct, found.details)
