"""What is wanted of packs' states, made on their device and read by the host while a GPU computes the next pack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xlm.backends.torch.transfer import Arrays, download
from xlm.inference.memory import in_halves

T = TypeVar("T")
Pack = tuple[list[int], list[int], Tensor]
"""Indices of rows, their lengths, and their states (tokens, hidden) end to end."""
Wanted = Callable[[Tensor, list[int], list[int]], Sequence[Tensor]]
"""States (tokens, hidden) of rows end to end, their lengths and their indices -> what the host is to read of them."""
Read = tuple[list[int], list[int], Arrays]
"""Indices of rows, their lengths, and what was wanted of them."""
_Begun = tuple[list[int], list[int], Callable[[], Arrays]]


def read(packs: Iterable[Pack], wanted: Wanted, ahead: bool) -> Iterator[Read]:
    """What is wanted of every pack, in arrays; where memory is short for it, of halves of a pack.

    Args:
        ahead: begin the next pack before the results of one are waited for, so that a GPU always has something to do.
    """
    begun = _begun(packs, wanted)
    for members, lengths, arrive in one_ahead(begun) if ahead else begun:
        yield members, lengths, arrive()


def _begun(packs: Iterable[Pack], wanted: Wanted) -> Iterator[_Begun]:
    for members, lengths, states in packs:
        # Rows stand side by side: so do those of a half.
        rows = list(zip(members, lengths, np.cumsum(lengths).tolist(), strict=True))
        yield from in_halves(partial(_begin, states, wanted), rows)
        del states  # the next pack has its memory


def _begin(states: Tensor, wanted: Wanted, rows: list[tuple[int, int, int]]) -> _Begun:
    members, lengths = [row[0] for row in rows], [row[1] for row in rows]
    first, last = rows[0][2] - lengths[0], rows[-1][2]
    with torch.inference_mode():
        return members, lengths, download(wanted(states[first:last], lengths, members))


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each when the one after it has been made."""
    held: list[T] = []
    for item in items:
        yield from held
        held = [item]
    yield from held


def pack_ids(rows: Sequence[Sequence[int]], members: Sequence[int]) -> tuple[NDArray[np.int64], list[int]]:
    """The ids (tokens,) of chosen rows end to end, and the rows' lengths."""
    chosen = [rows[index] for index in members]
    lengths = list(map(len, chosen))
    return np.fromiter(chain.from_iterable(chosen), np.int64, sum(lengths)), lengths
