"""Word vectors from counts: how a short pretraining run begins with what the text says of its words, before any step.

Tokens that occur near each other, and tokens of a text and of its translation, are counted; the positive pointwise mutual
information of the counts is factorised (Levy and Goldberg 2014). What a token's vector then says, language, topic and
translations, is what the first hundreds of steps of a run from random vectors would go into.

Shape suffixes: V vocabulary, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from xlm.data.store import TokenStore

_CHUNK = 1 << 22


def cooccurrences(
    text: Mapping[str, TokenStore],
    pairs: Mapping[str, TokenStore],
    size: int,
    window: int = 5,
    pair_weight: float = 3.0,
) -> Tensor:
    """Symmetric counts (V, V), fp32: neighbours up to ``window`` apart weigh 1 / distance, every token of a text and
    every token of its translation ``pair_weight / length``. A language's counts weigh by the root of how small it is."""
    counts = torch.zeros(size * size)
    largest = max(len(store.tokens) for store in text.values())
    for store in text.values():
        weight = (largest / max(len(store.tokens), 1)) ** 0.5
        for start in range(0, len(store.tokens), _CHUNK):
            ids = torch.from_numpy(store.slice(start, min(start + _CHUNK, len(store.tokens))))
            for distance in range(1, window + 1):
                _add(counts, ids[:-distance], ids[distance:], torch.tensor(weight / distance), size)
    for language, store in pairs.items():
        weight = (
            (largest / max(len(text[language].tokens), 1)) ** 0.5 * pair_weight if language in text else pair_weight
        )
        left, right, values = [], [], []
        for k in range(len(store) // 2):
            a, b = store.sentence(2 * k), store.sentence(2 * k + 1)
            if 0 < len(a) <= 200 and 0 < len(b) <= 200:
                left.append(np.repeat(a, len(b)))
                right.append(np.tile(b, len(a)))
                values.append(np.full(len(a) * len(b), weight / len(a), np.float32))
            if len(left) == 10000 or (left and k == len(store) // 2 - 1):
                rows, columns, shares = (torch.from_numpy(np.concatenate(part)) for part in (left, right, values))
                _add(counts, rows, columns, shares, size)
                left, right, values = [], [], []
    counts_VV = counts.view(size, size)
    return counts_VV.add_(counts_VV.T.clone())


def _add(counts: Tensor, left: Tensor, right: Tensor, weights: Tensor, size: int) -> None:
    counts.scatter_add_(0, left * size + right, weights.expand(len(left)))


def word_vectors(counts_VV: Tensor, special_ids: list[int], dimensions: int, seed: int) -> Tensor:
    """Unit vectors (V, D) whose products follow the mutual information of the counts, which are overwritten; zero
    rows for tokens without counts. Contexts are smoothed by the power 0.75."""
    counts_VV[special_ids] = 0
    counts_VV[:, special_ids] = 0
    row_V = counts_VV.sum(1) + 1e-3
    context_V = row_V**0.75
    context_V /= context_V.sum()
    for rows, total in zip(counts_VV.split(1000), row_V.split(1000), strict=True):
        rows.div_(total[:, None] * context_V).clamp_(min=1.0).log_()
    counts_VV.add_(counts_VV.T.clone()).mul_(0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, values, right = torch.svd_lowrank(counts_VV, q=min(2 * dimensions + 44, len(counts_VV)), niter=3)
    # The matrix is symmetric, so a left vector is its right one or the negative of it. Directions of negative eigenvalues
    # are left out: two words that share them would be drawn together for *not* occurring together.
    signs = (left * right).sum(0)
    vectors = (left * values.sqrt())[:, signs > 0][:, :dimensions]
    if vectors.shape[1] < dimensions:  # fewer words than dimensions
        vectors = torch.nn.functional.pad(vectors, (0, dimensions - vectors.shape[1]))
    norms = vectors.norm(dim=1, keepdim=True)
    return torch.where(norms > 1e-3, vectors / norms.clamp(min=1e-3), torch.zeros(()))
