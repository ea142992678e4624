"""How an error says that memory is used up; PyTorch has a class of its own for the allocator of GPUs alone."""

from __future__ import annotations

import torch

_SHORT = (
    "allocate memory",  # the CPU's allocator
    "not enough memory",  # the same on Windows
    "CUDA error: out of memory",  # the runtime, also for pinned memory
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # what a product needs beside its result
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what the first product of a process needs
)


def is_short(error: BaseException) -> bool:
    """Whether an error says that memory is used up, the CPU's or a GPU's."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _SHORT)
    )
