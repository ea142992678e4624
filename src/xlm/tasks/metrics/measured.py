"""What a metric found: statistics of every item, from which the score of all, or of any resampled set, follows.

Most scores are functions of sums over items (correct answers, overlapping chunks, products of deviations), so a metric
is a table (items, k) and a function of its column sums. A bootstrap resample is then a vector of weights, one an item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xlm.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Scores by name, from weights (resamples, items): arrays (resamples,) of percentages.

    ``items`` is the number of items; ``correct`` (items,) is each item's own share of the main score, from 0 to 1: what an
    error page sorts by. ``details`` are further facts of the official script, such as scores by entity type.
    """

    items: int
    resample: Callable[[Floats], dict[str, Floats]]
    correct: Floats
    details: dict[str, Any]

    @property
    def scores(self) -> dict[str, float]:
        """The scores of the items as they are, the main one first."""
        return {name: float(values[0]) for name, values in self.resample(np.ones((1, self.items))).items()}

    def intervals(self, draws: int = 1000, seed: int = 0, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Percentile bootstrap: the central ``level`` of each score over ``draws`` resamples of the items.

        The same seed and number of items draw the same resamples, so languages whose items are translations of each
        other are resampled together, and the interval of their average is one of the items.
        """
        edges = (50 * (1 - level), 50 * (1 + level))
        return {
            name: (float(low), float(high))
            for name, values in self.replicates(draws, seed).items()
            for low, high in [np.percentile(values, edges)]
        }

    def replicates(self, draws: int = 1000, seed: int = 0) -> dict[str, Floats]:
        """Every score (draws,) of that many resamples, each as large as the set."""
        rng = np.random.default_rng(seed)
        parts: list[dict[str, Floats]] = []
        rows = max(1, 4_000_000 // max(self.items, 1))
        for first in range(0, draws, rows):
            chosen = rng.integers(0, self.items, size=(min(rows, draws - first), self.items))
            weights = np.stack([np.bincount(row, minlength=self.items) for row in chosen]).astype(np.float64)
            parts.append(self.resample(weights))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def from_sums(
    statistics: Floats,
    score: Callable[[Floats], dict[str, Floats]],
    correct: Floats,
    details: dict[str, Any] | None = None,
) -> Measured:
    """A metric of column sums: ``statistics`` (items, k), ``score`` from sums (resamples, k) to scores (resamples,)."""
    return Measured(len(statistics), lambda weights: score(weights @ statistics), correct, details or {})


def means(columns: dict[str, Floats], details: dict[str, Any] | None = None) -> Measured:
    """Scores that are means of per-item values (items,) from 0 to 1, as percentages; the first is the main one."""
    names, table = list(columns), np.stack(list(columns.values()), axis=1).astype(np.float64)
    statistics = np.concatenate([table, np.ones((len(table), 1))], axis=1)

    def score(sums: Floats) -> dict[str, Floats]:
        return {name: 100 * sums[:, at] / sums[:, -1] for at, name in enumerate(names)}

    return from_sums(statistics, score, table[:, 0], details)


def f_measure(correct: Floats, guessed: Floats, gold: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and their harmonic mean in percent; 0 where nothing is guessed, in the gold or right."""
    precision = 100 * correct / np.maximum(guessed, 1e-300)
    recall = 100 * correct / np.maximum(gold, 1e-300)
    both = precision + recall
    return precision, recall, np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)


def aligned(gold: Sequence[Any], predicted: Sequence[Any], what: str = "items") -> None:
    """Refuse an empty evaluation set and predictions that do not stand beside their items.

    Raises:
        InputError: there is nothing to score, or the two differ in length.
    """
    if not len(gold):
        raise InputError(f"gold: the evaluation set is empty: at least 1 of its {what} is needed")
    if len(gold) != len(predicted):
        raise InputError(f"predicted: {len(predicted):,} {what} for {len(gold):,} in gold: one for each is needed")
