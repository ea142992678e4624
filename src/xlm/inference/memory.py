"""What to do when memory is short in the middle of much work: the same in smaller parts, before giving up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from xlm.backends.torch.shortage import is_short

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("xlm")
ROWS_A_PACK = 32_768
"""Sequences that may run at once: kernels count them in a dimension of a GPU's grid, which ends at 65,535."""


def empty_caches() -> None:
    """Return to the driver what a GPU's allocators keep for later: of its own memory, and of pinned memory beside it."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        empty_pinned = getattr(torch._C, "_host_emptyCache", None)  # not in every release
        if empty_pinned is not None:
            empty_pinned()


def in_halves(call: Callable[[list[T]], R], items: list[T]) -> Iterator[R]:
    """What ``call`` gives for all items at once; where memory is short, for halves of them, down to one item each.

    Raises:
        MemoryError, RuntimeError: memory is too short for one item.
    """
    try:
        found = call(items)
    except Exception as error:
        if not is_short(error) or len(items) == 1:
            raise
        log.warning("memory is short for %d rows at once: they are computed in halves", len(items))
    else:
        yield found
        return
    empty_caches()  # outside the handler, whose error held on to what was made
    middle = len(items) // 2
    yield from in_halves(call, items[:middle])
    yield from in_halves(call, items[middle:])
