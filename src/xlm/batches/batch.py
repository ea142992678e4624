"""One frozen batch of token sequences: padded or packed behind one face.

Fields are arrays of any framework. A packed batch holds all tokens of all sequences in one row, without padding, and
the sequences' lengths as Python integers; no token ever sees another sequence.

What follows from ids and lengths (positions, masks) is derived by pure functions over an array namespace ``xp``
(``numpy``, ``torch``, ``jax.numpy``, ``tensorflow``), so that the same lines run on the host, under
``torch.compile`` and under ``jit``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xlm.errors import InputError

Array = Any


@dataclass(frozen=True)
class Batch:
    """Token sequences with what belongs to each token.

    Attributes:
        ids: (b, s) padded or (tokens,) packed, integers.
        mask: (b, s), 1 where a token is real; padded batches only.
        position_ids, token_type_ids, languages: of the shape of ``ids``, or ``None``.
        lengths: tokens of each sequence; packed batches only.
    """

    ids: Array
    mask: Array | None = None
    position_ids: Array | None = None
    token_type_ids: Array | None = None
    languages: Array | None = None
    lengths: tuple[int, ...] | None = None

    @classmethod
    def padded(
        cls,
        ids: Array,
        mask: Array | None = None,
        position_ids: Array | None = None,
        token_type_ids: Array | None = None,
        languages: Array | None = None,
    ) -> Batch:
        """A rectangular batch (b, s); without a mask every token is real.

        Raises:
            InputError: an array has another shape than ``ids``.
        """
        if ids.ndim != 2:
            raise InputError(f"ids of shape {tuple(ids.shape)}: a padded batch is (batch, sequence)")
        batch = cls(ids, mask, position_ids, token_type_ids, languages)
        batch._check_shapes()
        return batch

    @classmethod
    def packed(
        cls,
        ids: Array,
        lengths: Sequence[int],
        position_ids: Array | None = None,
        token_type_ids: Array | None = None,
        languages: Array | None = None,
    ) -> Batch:
        """All sequences one after the other (tokens,), ``lengths[i]`` tokens each.

        Raises:
            InputError: the lengths do not add up to the ids, or an array has another shape than ``ids``.
        """
        sizes = tuple(int(n) for n in lengths)
        if ids.ndim != 1:
            raise InputError(f"ids of shape {tuple(ids.shape)}: a packed batch is (tokens,)")
        if any(n < 0 for n in sizes) or sum(sizes) != ids.shape[0]:
            raise InputError(f"lengths add up to {sum(sizes)}: there are {ids.shape[0]} ids")
        batch = cls(ids, None, position_ids, token_type_ids, languages, sizes)
        batch._check_shapes()
        return batch

    @property
    def is_packed(self) -> bool:
        """Whether the sequences lie one after the other without padding."""
        return self.lengths is not None

    @property
    def tokens(self) -> int:
        """Number of places for tokens, padding included."""
        return int(self.ids.shape[0]) if self.is_packed else int(self.ids.shape[0] * self.ids.shape[1])

    def _check_shapes(self) -> None:
        for name in ("mask", "position_ids", "token_type_ids", "languages"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != tuple(self.ids.shape):
                raise InputError(f"{name} of shape {tuple(value.shape)}: must be {tuple(self.ids.shape)} like ids")


def equal_runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Consecutive sequences of equal length as ``(first token, number of sequences, length)``; empty ones are skipped.

    Attention over a packed batch is one dense call a run, so callers that sort by length pay for few calls.
    """
    start = index = 0
    while index < len(lengths):
        length, count = lengths[index], 1
        while index + count < len(lengths) and lengths[index + count] == length:
            count += 1
        if length:
            yield start, count, length
        start, index = start + count * length, index + count


def positions_after_padding(xp: Any, ids: Array, pad_id: int, past: int = 0) -> Array:
    """Positions of (b, s) ids that count real tokens only, from ``pad_id + 1``; padding gets ``pad_id`` (XLM-R)."""
    real = xp.where(ids != pad_id, 1, 0)  # TensorFlow neither adds nor multiplies truth values
    count = xp.cumsum(real, -1)
    return (count + past) * real + pad_id


def positions_after_padding_packed(xp: Any, ids: Array, starts: Array, pad_id: int) -> Array:
    """The same for packed ids (tokens,); ``starts`` (tokens,): index of the first token of each token's sequence."""
    real = ids != pad_id
    count = xp.cumsum(real, -1)
    before = count[starts] - 1 * real[starts]
    return (count - before) * real + pad_id


def causal_mask(xp: Any, queries: int, keys: int, offset: int) -> Array:
    """(queries, keys) booleans: query ``i`` stands at place ``offset + i`` and sees keys up to itself."""
    return xp.arange(keys)[None, :] <= xp.arange(offset, offset + queries)[:, None]
