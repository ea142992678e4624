"""What counts as too little memory, in the words of the CPU's allocator, CUDA, cuBLAS and Triton."""

from __future__ import annotations

import pytest
import torch

from xlm.backends.torch.shortage import is_short

SAID = [
    "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA"), *map(RuntimeError, SAID)], ids=repr)
def test_a_shortage_is_known_by_what_is_said(error: BaseException) -> None:
    assert is_short(error)


def test_nothing_else_is_one() -> None:
    others = [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: invalid argument"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("CUDA error: out of memory"),
    ]
    assert not any(map(is_short, others))
