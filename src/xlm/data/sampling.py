"""Which language comes next: p^alpha sampling, in an order that is a pure function of the seed and the position.

With ``n_l`` tokens (or pairs) of language l and ``q_l = n_l / sum(n)``, language l is drawn with probability
``q_l^alpha / sum(q^alpha)`` (alpha 1: as the data is, 0: uniform; the XLM-R paper uses 0.3, the XLM paper 0.7).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from xlm.data.random import keyed
from xlm.errors import ConfigError

CYCLE = 4096


def language_probabilities(counts: Mapping[str, int], alpha: float) -> dict[str, float]:
    """The probability of every language. Languages with a count of 0 are a ``ConfigError``: they could never be drawn."""
    empty = [language for language, count in counts.items() if count <= 0]
    if not counts or empty:
        raise ConfigError(f"languages without data cannot be sampled: {', '.join(empty) or 'no language at all'}")
    if not 0.0 <= alpha:
        raise ConfigError(f"data.alpha is {alpha}: it must be at least 0")
    q = np.array(list(counts.values()), dtype=np.float64)
    weights = (q / q.sum()) ** alpha
    return dict(zip(counts, (weights / weights.sum()).tolist(), strict=True))


def quotas(probabilities: NDArray[np.float64], cycle: int) -> NDArray[np.int64]:
    """Whole numbers that sum to ``cycle`` and lie nearest to ``probabilities * cycle`` (largest remainders), each at
    least 1.
    """
    if len(probabilities) > cycle:
        raise ConfigError(f"{len(probabilities)} languages do not fit into a sampling cycle of {cycle} draws")
    exact = probabilities * cycle
    whole = np.maximum(np.floor(exact).astype(np.int64), 1)
    order = np.argsort(-(exact - np.floor(exact)), kind="stable")
    missing = int(cycle - whole.sum())
    if missing >= 0:
        whole[order[: missing % len(order)]] += 1
        whole += missing // len(order)
    while (excess := int(whole.sum() - cycle)) > 0:
        # Only rounding tiny languages up to 1 can overshoot; the largest languages give the draws back.
        whole[np.argsort(-whole, kind="stable")[:1]] -= min(excess, int(whole.max()) - 1)
    return whole


class LanguageOrder:
    """The endless order of draws: draw ``i`` takes item ``rank`` of language ``l``, where ranks count up within a language.

    In every cycle of ``cycle`` draws language l comes exactly ``quotas(p)[l]`` times, in an order shuffled by
    ``(seed, cycle)``: the shares are exact, and how often a language came before draw i needs no counter to be stored.
    """

    def __init__(self, probabilities: Mapping[str, float], seed: int, name: str, cycle: int = CYCLE) -> None:
        self.languages = list(probabilities)
        self.cycle, self._seed, self._name = cycle, seed, name
        self._quota = quotas(np.array(list(probabilities.values()), dtype=np.float64), cycle)
        self._cached: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def _cycle(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._cached is None or self._cached[0] != index:
            order = np.repeat(np.arange(len(self._quota)), self._quota)
            keyed(self._seed, "languages", self._name, index).shuffle(order)
            rank = np.empty_like(order)
            by_language = np.argsort(order, kind="stable")
            rank[by_language] = np.concatenate([np.arange(count) for count in self._quota])
            self._cached = (index, order, rank + index * self._quota[order])
        return self._cached[1], self._cached[2]

    def draw(self, start: int, count: int) -> list[tuple[int, int]]:
        """``(language index, rank)`` of the draws ``start .. start + count - 1``."""
        drawn: list[tuple[int, int]] = []
        position, end = start, start + count
        while position < end:
            index, within = divmod(position, self.cycle)
            stop = min(self.cycle, within + end - position)
            order, rank = self._cycle(index)
            drawn.extend(zip(order[within:stop].tolist(), rank[within:stop].tolist(), strict=True))
            position += stop - within
        return drawn
