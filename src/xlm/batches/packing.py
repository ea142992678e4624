"""Sentences -> training blocks, and sequences -> packed arrays. NumPy only.

Two ways to cut a text into blocks of at most ``capacity`` tokens, as fairseq names them:

- ``complete``: as many whole sentences as fit; a sentence longer than a block is cut into full blocks;
- ``stream``: one endless row of tokens cut every ``capacity`` tokens, so all blocks have one length and no token is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xlm.errors import InputError

Blocks = NDArray[np.int64]


def complete_blocks(offsets: NDArray[np.int64], capacity: int, first: int = 0) -> Blocks:
    """Blocks of whole sentences, as token ranges (blocks, 2) ``[start, end)`` in the order of the text.

    ``offsets`` (sentences + 1,) are the sentences' token positions; cutting begins at sentence ``first`` (so that every epoch
    can be cut elsewhere) and the sentences before it form the last blocks.
    """
    _check(capacity, "capacity")
    count = len(offsets) - 1
    if not 0 <= first <= max(count - 1, 0):
        raise InputError(f"first is {first}: it must lie between 0 and {max(count - 1, 0)}, the last sentence")
    blocks: list[tuple[int, int]] = []
    for low, high in ((first, count), (0, first)):
        sentence = low
        while sentence < high:
            start = int(offsets[sentence])
            end_sentence = min(int(np.searchsorted(offsets, start + capacity, side="right")) - 1, high)
            if end_sentence == sentence:
                stop = int(offsets[sentence + 1])
                blocks.extend((at, min(at + capacity, stop)) for at in range(start, stop, capacity))
                end_sentence += 1
            else:
                blocks.append((start, int(offsets[end_sentence])))
            sentence = end_sentence
    return np.array(blocks, dtype=np.int64).reshape(-1, 2)


def stream_blocks(tokens: int, capacity: int, shift: int = 0) -> Blocks:
    """Equal blocks, as token ranges (blocks, 2), beginning at ``shift`` (0 <= shift < capacity). The rest shorter than a
    block is left out, unless the whole text is shorter: then it is one block."""
    _check(capacity, "capacity")
    if not 0 <= shift < capacity:
        raise InputError(f"shift is {shift}: it must lie between 0 and {capacity - 1}")
    if tokens <= capacity:
        return np.array([[0, tokens]] if tokens else [], dtype=np.int64).reshape(-1, 2)
    starts = np.arange(shift if tokens - shift >= capacity else 0, tokens - capacity + 1, capacity, dtype=np.int64)
    return np.stack([starts, starts + capacity], axis=1)


def pack(rows: Sequence[NDArray[np.integer]]) -> tuple[NDArray[np.int64], list[int]]:
    """Rows laid end to end: ids (tokens,) and the rows' lengths."""
    lengths = [len(row) for row in rows]
    if not rows or min(lengths) == 0:
        raise InputError(
            f"rows: {len(rows)} rows, shortest {min(lengths, default=0)}: at least one row is needed, none empty"
        )
    return np.concatenate(rows).astype(np.int64), lengths


def split_budget(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Consecutive groups ``[start, end)`` of rows with at most ``budget`` tokens each (a longer row stands alone)."""
    _check(budget, "budget")
    groups: list[tuple[int, int]] = []
    start = total = 0
    for index, length in enumerate(lengths):
        if index > start and total + length > budget:
            groups.append((start, index))
            start, total = index, 0
        total += length
    if lengths:
        groups.append((start, len(lengths)))
    return groups


def sequence_ids(lengths: Sequence[int]) -> NDArray[np.int64]:
    """The row that every packed token belongs to (tokens,)."""
    return np.repeat(np.arange(len(lengths)), np.asarray(lengths))


def _check(value: int, name: str) -> None:
    if value < 1:
        raise InputError(f"{name} is {value}: it must be at least 1")
