"""Tables of operations for inference on CPUs: what the weights are stored in, and what this processor computes fastest.

stored     processor                 computed by
any        AVX-512 without AMX       our own kernels where they were built (``kernels/``); else, as follows
float32    AVX-512                   oneDNN with weights packed once, activation fused
float32    others                    PyTorch (its BLAS is as fast there)
bfloat16   AVX-512 BF16, AMX         oneDNN bfloat16 with weights packed once
bfloat16   others                    weights widened to float32 block by block, float32 products and states
int8       AVX-512 VNNI              8-bit products of oneDNN, activations quantized by row or fixed scales
int8       others                    weights widened block by block, scaled per output channel, float32 states
"""

from __future__ import annotations

from functools import cache

import torch

from xlm.backends.torch import native
from xlm.backends.torch.ops import Operations
from xlm.backends.torch.ops_compiled import CompiledBytes, CompiledFloats
from xlm.backends.torch.ops_int8 import Int8
from xlm.backends.torch.ops_packed import Packed
from xlm.backends.torch.ops_widening import Widening


@cache
def has_avx512() -> bool:
    """Whether PyTorch computes with 512-bit vectors here."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@cache
def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in checks if hasattr(torch.cpu, name))


@cache
def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16 and int8, as only oneDNN does here."""
    return hasattr(torch.cpu, "_is_amx_tile_supported") and bool(torch.cpu._is_amx_tile_supported())


@cache
def has_kernels() -> bool:
    """Whether our own kernels were built, and are the best there is here."""
    return native.library() is not None and not has_amx()


@cache
def has_vnni() -> bool:
    """Whether the processor multiplies 8-bit integers and sums them in 32 bits, 64 products an instruction."""
    return has_avx512() and bool(torch.cpu._is_vnni_supported())


def choose(dtype: torch.dtype, quantized: bool, calibrated: bool = False) -> tuple[Operations | None, str]:
    """The best table for weights stored in ``dtype``, and its name and reason; ``None``: PyTorch's own.

    ``calibrated``: the checkpoint has fixed scales for activations.
    """
    if quantized:
        if has_vnni():
            how = "by fixed scales" if calibrated else "row by row"
            if has_kernels():
                return CompiledBytes(has_bf16()), f"own kernels int8; activations quantized {how} (AVX-512 VNNI)"
            return Int8(has_bf16()), f"oneDNN int8, packed; activations quantized {how} (AVX-512 VNNI)"
        return Widening(), "int8 weights, float32 products (no AVX-512 VNNI)"
    if dtype == torch.bfloat16:
        if has_bf16() and has_kernels():
            return CompiledFloats(), "own kernels bfloat16 (the processor multiplies bfloat16)"
        if has_bf16():
            return Packed(), "oneDNN bfloat16, packed (the processor multiplies bfloat16)"
        return Widening(), "bfloat16 weights, float32 products (no AVX-512 BF16, no AMX)"
    if dtype == torch.float32:
        if has_kernels():
            return CompiledFloats(), "own kernels float32 (AVX-512)"
        if has_avx512():
            return Packed(), "oneDNN float32, packed (AVX-512)"
        return None, "PyTorch float32 (no AVX-512)"
    return None, "PyTorch " + str(dtype).removeprefix("torch.")


def choices() -> dict[str, str]:
    """What is chosen here for each dtype of ``xlm.load``, and why."""
    cases = {"float32": (torch.float32, False), "bfloat16": (torch.bfloat16, False), "int8": (torch.bfloat16, True)}
    return {name: choose(*case)[1] for name, case in cases.items()}
