"""Dynamic masking for masked-language-model training. NumPy only; every choice comes from the generator given.

- ``select_per_sequence`` (RoBERTa, XLM-R): in a sequence of n eligible tokens exactly ``int(rate * n + U)`` are chosen, U
  uniform in [0, 1), without replacement.
- ``select_weighted`` (XLM's paper): exactly ``ceil(rate * n)`` of the n tokens of the batch, special ones counted but never
  chosen, without replacement, with probability proportional to ``max(count, 1)^-alpha``: frequent words less often.
- ``select_independent`` (XLM's code without that option): every eligible token by itself with probability ``rate``.
- ``corrupt``: of the chosen tokens 80 % become the mask, 10 % stay, 10 % become a random ordinary token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlm.batches.packing import sequence_ids
from xlm.errors import InputError


@dataclass(frozen=True)
class Masked:
    """A masked batch: ``ids`` (tokens,) to feed, ``positions`` (chosen,) ascending, ``targets`` (chosen,) the true ids."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]


def eligible_tokens(ids: NDArray[np.int64], special_ids: Sequence[int]) -> NDArray[np.bool_]:
    """True (tokens,) where a token may be chosen: everything but the special ids (padding, ``<s>``, ``</s>``, ...)."""
    return ~np.isin(ids, np.asarray(special_ids, dtype=np.int64))


def select_per_sequence(
    eligible: NDArray[np.bool_], lengths: Sequence[int], rate: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """RoBERTa's selection: positions (chosen,), ascending."""
    _check_rate(rate)
    if len(eligible) != sum(lengths):
        raise InputError(f"lengths sum to {sum(lengths)}, but there are {len(eligible)} tokens")
    candidates = np.flatnonzero(eligible)
    rows = sequence_ids(lengths)[candidates]
    counts = np.bincount(rows, minlength=len(lengths))
    wanted = (rate * counts + rng.random(len(lengths))).astype(np.int64)
    order = np.lexsort((rng.random(len(candidates)), rows))
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(candidates)) - starts[rows]  # rows are ascending, so order keeps every row's range in place
    return np.sort(candidates[order[rank < wanted[rows]]])


def select_weighted(
    ids: NDArray[np.int64],
    eligible: NDArray[np.bool_],
    weights: NDArray[np.float64],
    rate: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """XLM's selection: positions (chosen,), ascending. ``weights`` (vocab,) as from ``frequency_weights``.

    All tokens of the batch count towards its size, as in XLM; only ``eligible`` ones of a weight above 0 are chosen.
    """
    _check_rate(rate)
    weight = np.where(eligible, weights[ids], 0.0)
    candidates = np.flatnonzero(weight > 0)
    wanted = min(math.ceil(rate * len(ids)), len(candidates))
    # The smallest of independent exponential clocks with these rates are a weighted draw without replacement.
    clocks = rng.exponential(size=len(candidates)) / weight[candidates]
    chosen = np.argpartition(clocks, wanted - 1)[:wanted] if wanted else np.zeros(0, np.int64)
    return np.sort(candidates[chosen])


def select_independent(eligible: NDArray[np.bool_], rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions (chosen,), ascending: each eligible token with probability ``rate``."""
    _check_rate(rate)
    return np.flatnonzero(eligible & (rng.random(len(eligible)) < rate))


def frequency_weights(counts: NDArray[np.int64], alpha: float = 0.5) -> NDArray[np.float64]:
    """``max(count, 1)^-alpha`` for every id (vocab,), and 0 for ids that never occur."""
    return np.where(counts > 0, np.maximum(counts, 1).astype(np.float64) ** -alpha, 0.0)


def ordinary_ids(vocab_size: int, special_ids: Sequence[int]) -> NDArray[np.int64]:
    """All ids but the special ones: what a random replacement is drawn from."""
    return np.setdiff1d(np.arange(vocab_size, dtype=np.int64), np.asarray(special_ids, dtype=np.int64))


def corrupt(
    ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    mask_id: int,
    replacements: NDArray[np.int64],
    rng: np.random.Generator,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> Masked:
    """Replace the chosen tokens: by ``mask_id``, by themselves, or by one of ``replacements``, in the given shares."""
    if min(shares) < 0 or abs(sum(shares) - 1.0) > 1e-6:
        raise InputError(f"shares (mask, keep, random) are {shares}: they must not be negative and must sum to 1")
    targets = ids[positions]
    draw = rng.random(len(positions))
    random = replacements[rng.integers(0, len(replacements), size=len(positions))]
    new = np.where(draw < shares[0], mask_id, np.where(draw < shares[0] + shares[1], targets, random))
    fed = ids.copy()
    fed[positions] = new
    return Masked(fed, positions, targets)


def _check_rate(rate: float) -> None:
    if not 0.0 < rate < 1.0:
        raise InputError(f"rate is {rate}: it must lie between 0 and 1, both excluded")
