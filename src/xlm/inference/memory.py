"""What to do when memory is short in the middle of much work: the same in smaller parts, before giving up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("xlm")
# The CPU's allocator; the driver, also for pinned memory; what a product needs beside its result.
_SHORT = ("allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_short(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on the CPU (where PyTorch has no class of its own for it) or a GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _SHORT)
    )


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
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # outside the handler, whose error held on to what was made
    middle = len(items) // 2
    yield from in_halves(call, items[:middle])
    yield from in_halves(call, items[middle:])
