"""Word vectors from counts: how a short pretraining run begins with what the text says of its words, before any step.

Tokens that occur near each other, and tokens of a text and of its translation, are counted; the positive pointwise mutual
information of the counts is factorised (Levy and Goldberg 2014). What a token's vector then says, language, topic and
translations, is what the first hundreds of steps of a run from random vectors would go into.

The counts are sparse: a vocabulary of 250,002 tokens has 62 billion pairs, of which a corpus knows some millions.

Shape suffixes: V vocabulary, D dimensions, N pairs of tokens that have a count.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from xlm.data.store import TokenStore

_CHUNK = 1 << 22
_PENDING = 1 << 25  # counts that are held before equal ones are summed: a gigabyte with its sorting


class Counts:
    """Symmetric sums (V, V) of weights of pairs of tokens, those that are not zero."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._keys_N, self._values_N = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._held = 0

    def add(self, left: Tensor, right: Tensor, weights: Tensor) -> None:
        """Add ``weights`` to the pairs, either way round."""
        low, high = torch.minimum(left, right), torch.maximum(left, right)
        self._pending.append((low * self.size + high, weights.expand(len(left))))
        self._held += len(left)
        if self._held >= _PENDING:
            self._sum()

    def _sum(self) -> None:
        keys = torch.cat([self._keys_N, *(keys for keys, _ in self._pending)])
        values = torch.cat([self._values_N, *(values for _, values in self._pending)])
        self._pending, self._held = [], 0
        keys, order = keys.sort()
        self._keys_N, place = torch.unique_consecutive(keys, return_inverse=True)
        self._values_N = torch.zeros(len(self._keys_N)).index_add_(0, place, values[order])

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values (N,) of the whole matrix; a pair of a token with itself counts for both."""
        self._sum()
        low, high, values = self._keys_N // self.size, self._keys_N % self.size, self._values_N
        same = low == high
        values = torch.where(same, 2 * values, values)
        other = ~same
        return torch.cat([low, high[other]]), torch.cat([high, low[other]]), torch.cat([values, values[other]])


def cooccurrences(
    text: Mapping[str, TokenStore],
    pairs: Mapping[str, TokenStore],
    size: int,
    window: int = 5,
    pair_weight: float = 3.0,
) -> Counts:
    """Neighbours up to ``window`` apart weigh 1 / distance, every token of a text and every token of its translation
    ``pair_weight / length``. A language's counts weigh by the root of how small it is."""
    counts = Counts(size)
    largest = max((len(store.tokens) for store in text.values()), default=1)
    for store in text.values():
        weight = (largest / max(len(store.tokens), 1)) ** 0.5
        for start in range(0, len(store.tokens), _CHUNK):
            ids = torch.from_numpy(store.slice(start, min(start + _CHUNK, len(store.tokens))))
            for distance in range(1, window + 1):
                counts.add(ids[:-distance], ids[distance:], torch.tensor(weight / distance))
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
                counts.add(rows, columns, shares)
                left, right, values = [], [], []
    return counts


def word_vectors(counts: Counts, special_ids: list[int], dimensions: int, seed: int) -> Tensor:
    """Unit vectors (V, D) whose products follow the mutual information of the counts; zero rows for tokens without counts.
    Contexts are smoothed by the power 0.75."""
    rows_N, columns_N, values_N = counts.pairs()
    plain_V = torch.ones(counts.size, dtype=torch.bool)
    plain_V[special_ids] = False
    kept = plain_V[rows_N] & plain_V[columns_N]
    rows_N, columns_N, values_N = rows_N[kept], columns_N[kept], values_N[kept]
    row_V = torch.zeros(counts.size).index_add_(0, rows_N, values_N) + 1e-3
    context_V = row_V**0.75
    context_V /= context_V.sum()
    # The counts are symmetric; the mean of both ways round makes the information so, too.
    ways = (row_V[rows_N] * context_V[columns_N], row_V[columns_N] * context_V[rows_N])
    here_N, there_N = ((values_N / expected).clamp_(min=1.0).log_() for expected in ways)
    matrix_VV = _matrix(rows_N, columns_N, (here_N + there_N) / 2, counts.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, values, right = torch.svd_lowrank(matrix_VV, q=min(2 * dimensions + 44, counts.size), niter=3)
    # The matrix is symmetric, so a left vector is its right one or the negative of it. Directions of negative eigenvalues
    # are left out: two words that share them would be drawn together for *not* occurring together.
    signs = (left * right).sum(0)
    vectors = (left * values.sqrt())[:, signs > 0][:, :dimensions]
    if vectors.shape[1] < dimensions:  # fewer words than dimensions
        vectors = torch.nn.functional.pad(vectors, (0, dimensions - vectors.shape[1]))
    norms = vectors.norm(dim=1, keepdim=True)
    return torch.where(norms > 1e-3, vectors / norms.clamp(min=1e-3), torch.zeros(()))


def _matrix(rows_N: Tensor, columns_N: Tensor, values_N: Tensor, size: int) -> Tensor:
    """The sparse matrix (V, V) of the values that are not zero."""
    known = values_N > 0
    indices = torch.stack([rows_N[known], columns_N[known]])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)  # PyTorch's word on what is new in it
        matrix_VV = torch.sparse_coo_tensor(indices, values_N[known], (size, size))
        return matrix_VV.coalesce().to_sparse_csr()
