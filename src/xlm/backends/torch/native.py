"""The compiled kernels of ``kernels/``, where they were built and the processor has what they need.

They are optional: installing the package compiles them if there is a C++ compiler, and without them other tables of
operations compute. ``XLM_KERNELS=0`` in the environment leaves them out.
"""

from __future__ import annotations

import ctypes
import os
import re
import sysconfig
from ctypes import c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm.errors import InputError

VERSION = 3
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.uint8: 2, torch.int8: 2}
"""What a number is, of rows and of weights."""
NONE, GELU, RELU = 0, 1, 2
"""Activations that follow a product."""
GROUPS = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 4}
"""Inputs that are multiplied at once: the number of inputs must be a multiple."""
FLOATS = (torch.float32, torch.bfloat16)
"""What states may be."""
_ALONE = 1 << 18
"""Products of fewer multiplications take less time than waking other threads."""
_OPENMP = re.compile(r"lib[gi]?omp[-.\w]*\.so[.\d]*$")


class Product(ctypes.Structure):
    """A linear layer on some rows and what follows it, see ``kernels/product.h``."""

    _fields_ = [
        *((name, c_void_p) for name in ("rows", "weight", "bias", "residual", "out", "scale", "sums", "factor")),
        *((name, c_void_p) for name in ("norm_scale", "norm_bias")),
        *((name, c_int64) for name in ("count", "inputs", "outputs", "row_stride", "residual_stride", "out_stride")),
        *((name, c_int32) for name in ("type", "row_type", "residual_type", "out_type")),
        *((name, c_int32) for name in ("activation", "zero", "out_zero", "threads")),
        *((name, c_float) for name in ("out_factor", "eps")),
    ]


class AttentionCall(ctypes.Structure):
    """Attention inside the sequences of packed rows, see ``kernels/attention.h``."""

    _fields_ = [
        *((name, c_void_p) for name in ("q", "k", "v", "out", "offsets")),
        *((name, c_int64) for name in ("sequences", "heads", "width", "stride", "out_stride", "longest")),
        *((name, c_int32) for name in ("type", "causal", "threads")),
        ("scale", c_float),
    ]


class Layer(ctypes.Structure):
    """A layer's products but for their rows, and norms that stand before its blocks, see ``kernels/kernels.cpp``."""

    _fields_ = [
        *((name, Product) for name in ("query", "output", "up", "down")),
        *((name, c_void_p) for name in ("first_scale", "first_bias", "second_scale", "second_bias")),
        *((name, c_float) for name in ("first_eps", "second_eps")),
    ]


class Stack(ctypes.Structure):
    """Layers one after the other, see ``kernels/kernels.cpp``."""

    _fields_ = [
        *((name, c_void_p) for name in ("layers", "rows", "out", "middle", "normed", "query", "context", "inner")),
        *((name, c_int64) for name in ("count", "tokens", "hidden", "alone")),
        ("attention", AttentionCall),
        *((name, c_int32) for name in ("pre", "type", "inner_type", "threads")),
    ]


def path() -> Path:
    """Where the compiled kernels are, if they are."""
    return Path(__file__).with_name("_kernels" + (sysconfig.get_config_var("EXT_SUFFIX") or ".so"))


@cache
def library() -> Any:
    """The loaded kernels, ``None`` where there are none: not built, for another processor, or left out."""
    if os.environ.get("XLM_KERNELS") == "0" or not path().is_file():
        return None
    try:
        found = ctypes.CDLL(str(path()))
    except OSError:  # built elsewhere
        return None
    if found.xlm_version() != VERSION or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return None
    found.xlm_packed_size.argtypes, found.xlm_packed_size.restype = (c_int64, c_int64), c_int64
    found.xlm_pack.argtypes = (*(c_void_p,) * 3, c_int64, c_int64, c_int32, c_int32, c_int32)
    found.xlm_pack.restype = None
    found.xlm_norm.argtypes = (
        *(c_void_p, c_int64, c_int32, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_float, c_int32),
    )
    found.xlm_norm.restype = None
    for name in ("xlm_product", "xlm_attention", "xlm_layers"):
        getattr(found, name).argtypes = (c_void_p,)
    found.xlm_threads.argtypes, found.xlm_threads.restype = (c_void_p, c_void_p, c_void_p), None
    if (runtime := _openmp()) is not None:
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        if all(hasattr(runtime, name) for name in names):
            found.xlm_threads(*(ctypes.cast(getattr(runtime, name), c_void_p) for name in names))
    return found


def _openmp() -> Any:
    """The OpenMP runtime that PyTorch computes with: a second one would fight it for the processor's cores."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = {line[line.index("/") :] for line in maps.splitlines() if _OPENMP.search(line)}
    home = str(Path(torch.__file__).parent)
    ours = sorted(found, key=lambda name: (not name.startswith(home), name))
    return ctypes.CDLL(ours[0]) if ours else None


def threads(work: int) -> int:
    """How many threads compute so many multiplications."""
    return 1 if work < _ALONE else torch.get_num_threads()


@cache
def writes(dtype: torch.dtype) -> bool:
    """Whether the processor rounds to this type itself."""
    return dtype != torch.bfloat16 or bool(torch.cpu._is_avx512_bf16_supported())


def attends(q: Tensor, heads: int) -> bool:
    """Whether the kernels compute attention with heads of this width."""
    return q.dtype in FLOATS and (q.shape[1] // heads) % GROUPS[q.dtype] == 0


def need_rows(x: Tensor, inputs: int, types: tuple[torch.dtype, ...]) -> None:
    """Refuse what the kernels would misread: they take addresses of plain rows in this machine's memory.

    Raises:
        InputError: says what it is; a model loaded without ``for_inference`` computes with PyTorch's own operations.
    """
    if type(x) not in (Tensor, torch.nn.Parameter) or x.device.type != "cpu":
        what = f"a {type(x).__name__} on {x.device}"
    elif x.dtype not in types:
        what = str(x.dtype)
    elif x.ndim != 2 or x.shape[1] != inputs:
        what = f"of shape {tuple(x.shape)}: must be (rows, {inputs})"
    elif torch.is_grad_enabled() and x.requires_grad:
        what = "to be learnt through"
    elif torch._C._get_tracing_state() is not None:
        what = "traced"
    else:
        return
    raise InputError(
        f"x is {what}; weights packed for inference on this CPU multiply plain rows of "
        f"{' or '.join(str(t).removeprefix('torch.') for t in types)}: load the model without for_inference"
    )


def address(x: Tensor | None) -> int:
    """Where the numbers of a tensor are; 0 for none."""
    return 0 if x is None else x.data_ptr()


def rows_of(x: Tensor) -> Tensor:
    """Rows whose numbers lie side by side; the rows themselves may be apart."""
    return x if x.stride(1) == 1 else x.contiguous()


@dataclass(frozen=True)
class Norm:
    """A layer norm: scale and bias float32."""

    weight: Tensor
    bias: Tensor
    eps: float


class Packed:
    """A weight (outputs, inputs) as the kernels read it, and what else of its product is known before there are rows.

    Args:
        weight: float32, bfloat16 or int8; the inputs a multiple of ``GROUPS``.
        scale: of an int8 weight (outputs,).
        zero: the byte that stands for 0 in its rows.
        factor: (inputs,) what the rows are multiplied by to become bytes; ``None``: every row has its own scale.
    """

    def __init__(
        self, weight: Tensor, scale: Tensor | None = None, zero: int = 0, factor: Tensor | None = None
    ) -> None:
        self.lib, self.dtype = library(), weight.dtype
        self.outputs, self.inputs = weight.shape
        if not self.inputs:
            raise InputError(f"weight has the shape {tuple(weight.shape)}: it must have inputs")
        self._reads = (*FLOATS, torch.uint8) if weight.dtype == torch.int8 else (weight.dtype,)
        weight, kind = weight.contiguous(), TYPES[weight.dtype]
        packed = torch.empty(self.lib.xlm_packed_size(self.outputs, self.inputs), dtype=weight.dtype)
        sums = torch.zeros(self.outputs if scale is not None else 0, dtype=torch.int32)
        self.lib.xlm_pack(
            *(weight.data_ptr(), packed.data_ptr(), sums.data_ptr(), self.outputs, self.inputs, kind, zero),
            threads(weight.numel()),
        )
        scale, factor = (None if t is None else t.detach().float().contiguous() for t in (scale, factor))
        self._kept = (packed, scale, sums, factor)  # whose addresses the call holds
        self._call = Product(
            weight=packed.data_ptr(),
            scale=address(scale),
            sums=sums.data_ptr(),
            factor=address(factor),
            inputs=self.inputs,
            outputs=self.outputs,
            type=kind,
            zero=zero,
        )

    def __call__(
        self,
        x: Tensor,
        dtype: torch.dtype,
        bias: Tensor | None,
        *,
        activation: int = NONE,
        residual: Tensor | None = None,
        norm: Norm | None = None,
        as_bytes: tuple[float, int] | None = None,
    ) -> Tensor:
        """The product with rows (t, inputs), and what follows it; (t, outputs) of ``dtype``.

        Args:
            bias: (outputs,) float32.
            residual: (t, outputs), added behind the activation.
            norm: a layer norm of the sum, its scale and bias float32.
            as_bytes: scale and zero of the bytes that are the result.
        """
        need_rows(x, self.inputs, self._reads)
        if residual is not None:
            need_rows(residual, self.outputs, FLOATS)
        x = rows_of(x)
        count = x.shape[0]
        out = torch.empty(count, self.outputs, dtype=dtype)
        call = self.call(bias, activation, norm, as_bytes)
        call.rows, call.row_type, call.row_stride, call.count = x.data_ptr(), TYPES[x.dtype], x.stride(0), count
        call.out, call.out_type, call.out_stride = out.data_ptr(), TYPES[dtype], self.outputs
        call.threads = threads(self.outputs * self.inputs * count)
        if residual is not None:
            residual = rows_of(residual)
            call.residual, call.residual_type = residual.data_ptr(), TYPES[residual.dtype]
            call.residual_stride = residual.stride(0)
        if self.lib.xlm_product(ctypes.byref(call)):
            raise MemoryError(f"no space for {count} rows of {self.inputs} numbers")
        return out

    def call(
        self,
        bias: Tensor | None,
        activation: int = NONE,
        norm: Norm | None = None,
        as_bytes: tuple[float, int] | None = None,
    ) -> Product:
        """The product but for its rows, see :meth:`__call__`; it holds addresses of its arguments."""
        call = Product.from_buffer_copy(self._call)
        call.bias, call.activation = address(bias), activation
        if norm is not None:
            call.norm_scale, call.norm_bias, call.eps = norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps
        if as_bytes is not None:
            call.out_factor, call.out_zero = 1 / as_bytes[0], as_bytes[1]
        return call


def layer_norm(module: Norm, x: Tensor) -> Tensor:
    """Layer norm of rows, float32 or bfloat16."""
    need_rows(x, module.weight.shape[0], FLOATS)
    x = rows_of(x)
    out = torch.empty_like(x)
    count, width = x.shape
    kind = TYPES[x.dtype]
    library().xlm_norm(
        *(x.data_ptr(), x.stride(0), kind, out.data_ptr(), count, width),
        *(module.weight.data_ptr(), module.bias.data_ptr(), module.eps, threads(8 * x.numel())),
    )
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, offsets: Tensor, longest: int, causal: bool) -> Tensor:
    """Softmax attention inside each sequence of packed rows (t, heads * d), float32, or bfloat16 with an even ``d``.

    Args:
        offsets: (sequences + 1,) int64, where each sequence begins, and the end.
    """
    tokens, width = q.shape
    for rows in (q, k, v):
        need_rows(rows, width, FLOATS)
    if not q.stride() == k.stride() == v.stride() or q.stride(1) != 1:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty(tokens, width, dtype=q.dtype)
    call = _attention(q, k, v, out, heads=heads, offsets=offsets, longest=longest, causal=causal)
    if library().xlm_attention(ctypes.byref(call)):
        raise MemoryError(f"no space for the attention of {longest} tokens")
    return out


def _attention(*rows: Tensor, heads: int, offsets: Tensor, longest: int, causal: bool) -> AttentionCall:
    """Attention of rows q, k, v to rows out."""
    q, k, v, out = rows
    tokens, width = q.shape
    if int(offsets[-1]) != tokens:
        raise InputError(f"lengths of sequences are {int(offsets[-1]):,} tokens together: there are {tokens:,}")
    d = width // heads
    return AttentionCall(
        *(q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), offsets.data_ptr()),
        *(offsets.shape[0] - 1, heads, d, q.stride(0), width, longest),
        *(TYPES[q.dtype], causal, threads(tokens * longest * width), d**-0.5),
    )


@dataclass(frozen=True)
class Layers:
    """Layers that run as one call, what they compute with, and whatever else must live as long as they do.

    ``attends_in`` is the type of queries, keys, values and what attention gives, ``inner`` that between the two products
    of the feed-forward block.
    """

    calls: Any  # an array of Layer
    pre: bool
    heads: int
    hidden: int
    wide: int  # heads * d
    intermediate: int
    attends_in: torch.dtype
    inner: torch.dtype
    held: Any

    def __call__(self, x: Tensor, count: int, offsets: Tensor, longest: int, causal: bool) -> Tensor:
        """The first ``count`` layers over packed rows (t, hidden), ``t`` not 0."""
        need_rows(x, self.hidden, FLOATS)
        x = x.contiguous()
        tokens = x.shape[0]
        out, middle = torch.empty_like(x), torch.empty_like(x)
        normed = torch.empty_like(x) if self.pre else None
        query = torch.empty(tokens, 3 * self.wide, dtype=self.attends_in)
        context = torch.empty(tokens, self.wide, dtype=self.attends_in)
        inner = torch.empty(tokens, self.intermediate, dtype=self.inner)
        q, k, v = query.chunk(3, dim=1)
        stack = Stack(
            ctypes.addressof(self.calls),
            *(address(t) for t in (x, out, middle, normed, query, context, inner)),
            *(count, tokens, self.hidden, _ALONE),
            _attention(q, k, v, context, heads=self.heads, offsets=offsets, longest=longest, causal=causal),
            *(self.pre, TYPES[x.dtype], TYPES[self.inner], torch.get_num_threads()),
        )
        if library().xlm_layers(ctypes.byref(stack)):
            raise MemoryError(f"no space for {tokens} rows in layers of {self.hidden} numbers")
        return out
