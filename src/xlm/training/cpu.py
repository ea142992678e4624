"""What makes a training step fast on a CPU, without changing what it computes.

- Linear layers in fp32 go through oneDNN, forward and backward where its kernels use more of the processor than MKL's
  (AVX-512 on processors of any maker), forward only otherwise.
- bf16 is not autocast, which casts the same states and weights again for every layer: the states between layers are
  bf16, every weight has one bf16 copy made once a step, and the weights and their gradients stay fp32. Norms, the
  softmax of attention and every sum inside a product are computed in fp32. In pre-norm models the residual sum,
  which no norm ever brings back to size, stays fp32 too.
- Dropout draws 16 random bits an element instead of a float: a quarter of the time, probabilities exact to 1/65536.
- The gradient of the word table is accumulated in place (see ``xlm.training.fused``).
- Freed memory stays with the process: the kernel clears every page that it hands out anew, at the price of a sum.
"""

from __future__ import annotations

import ctypes
import math
import sys
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlm.backends.torch.ops import Operations
from xlm.training.fused import accumulate_embeddings

_STEPS = 1 << 16
_ONE = 0x3F80  # the bits of 1.0 in bf16
LONGEST_PLAIN = 512  # tokens up to which attention's weights are kept for backward rather than computed again


def _onednn(x_TI: Tensor, weight_OI: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """``x @ weight.T + bias`` of fp32 matrices through oneDNN. T rows, I inputs, O outputs."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias: Tensor | None, backward: bool) -> Tensor:
        ctx.save_for_backward(x_TI, weight_OI)
        ctx.backward_too, ctx.has_bias = backward, bias is not None
        return _onednn(x_TI, weight_OI, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:  # type: ignore[override]
        (d_TO,) = gradients
        x_TI, weight_OI = ctx.saved_tensors
        d_TO = d_TO.contiguous()
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _onednn(d_TO, weight_OI.T.contiguous(), None) if ctx.backward_too else d_TO @ weight_OI
        if ctx.needs_input_grad[1]:
            if ctx.backward_too:
                dw = _onednn(d_TO.T.contiguous(), x_TI.T.contiguous(), None)
            else:
                dw = d_TO.T @ x_TI
        return dx, dw, d_TO.sum(0) if ctx.has_bias else None, None


class _LowLinear(torch.autograd.Function):
    """The same in bf16: ``low`` and ``low_bias`` are the copies of fp32 ``weight`` and ``bias``, which get the gradients."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias: Tensor | None, low_OI: Tensor, low_bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x_TI, low_OI)
        ctx.has_bias = bias is not None
        return F.linear(x_TI, low_OI, low_bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (d_TO,) = gradients
        x_TI, low_OI = ctx.saved_tensors
        dx = d_TO @ low_OI if ctx.needs_input_grad[0] else None
        dw = (d_TO.T @ x_TI).float() if ctx.needs_input_grad[1] else None
        return dx, dw, d_TO.sum(0).float() if ctx.has_bias else None, None, None


def kept(like: Tensor, p: float) -> tuple[Tensor, float]:
    """A bf16 tensor in the shape of ``like``, 0 with probability ``p`` (to 1/65536) and 1 elsewhere, and the inverse of
    the share kept."""
    dropped = round(p * _STEPS)
    # PyTorch's generator only seeds the one that draws: it is serial and three times as slow.
    seed = int(torch.randint(2**62, ()))
    words = np.random.SFC64(seed).random_raw((like.numel() + 3) // 4).view(np.int16)
    bits = torch.from_numpy(words)[: like.numel()].view(like.shape)
    return bits.ge_(dropped - _STEPS // 2).mul_(_ONE).view(torch.bfloat16), _STEPS / (_STEPS - dropped)


class _Dropout(torch.autograd.Function):
    """Keeps two bytes an element for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        keep, ctx.scale = kept(x, p)
        ctx.save_for_backward(keep)
        return (x * keep.to(x.dtype)).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        return (gradients[0] * keep.to(gradients[0].dtype)).mul_(ctx.scale), None


class _Attention(torch.autograd.Function):
    """Softmax attention that keeps its weights, and what was dropped of them, for backward.

    q, k, v (b, heads, tokens, width); P the softmax's weights, D those after dropout, less its scale.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
        root = 1 / math.sqrt(q.shape[-1])
        q = q * root
        k, v = k.contiguous(), v.contiguous()
        weights_P = torch.softmax(q @ k.transpose(-1, -2), dim=-1)
        keep, ctx.scale = kept(weights_P, p) if p else (None, 1.0)
        ctx.root = root
        ctx.save_for_backward(q, k, v, weights_P, keep)
        if keep is None:
            return weights_P @ v
        return ((weights_P * keep.to(q.dtype)) @ v).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        q, k, v, weights_P, keep = ctx.saved_tensors
        d = gradients[0] * ctx.scale
        if keep is None:
            dv = weights_P.transpose(-1, -2) @ d
            d_P = d @ v.transpose(-1, -2)
        else:
            factor = keep.to(q.dtype)
            dv = (weights_P * factor).transpose(-1, -2) @ d
            d_P = (d @ v.transpose(-1, -2)).mul_(factor)
        d_P = torch.ops.aten._softmax_backward_data(d_P, weights_P, -1, weights_P.dtype)
        return (d_P @ k).mul_(ctx.root), d_P.transpose(-1, -2) @ q, dv, None


class FastDropout(nn.Dropout):
    """``nn.Dropout`` for a CPU; PyTorch's generator seeds its numbers, so seeds hold."""

    def forward(self, input: Tensor) -> Tensor:
        """The input with elements dropped while training."""
        if not self.training or self.p == 0.0:
            return input
        return _Dropout.apply(input, self.p)  # type: ignore[return-value]


class CPUOperations(Operations):
    """The table of operations for training on a CPU, in fp32, or in bf16 wherever gradients are asked for."""

    def __init__(self, bf16: bool = False) -> None:
        self._backward = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        self._bf16 = bf16
        self._copies: dict[Tensor, Tensor] = {}
        self._fresh: dict[Tensor, int] = {}

    def refresh(self) -> None:
        """Say that the weights have changed: their bf16 copies are made again, in place, when they are next needed."""
        self._fresh.clear()

    def _low(self, parameter: Tensor | None) -> Tensor | None:
        if parameter is None:
            return None
        if self._fresh.get(parameter) != parameter._version:  # an optimizer's fused step leaves the version as it is
            with torch.no_grad():
                if parameter in self._copies:
                    self._copies[parameter].copy_(parameter)
                else:
                    self._copies[parameter] = parameter.detach().bfloat16()
            self._fresh[parameter] = parameter._version
        return self._copies[parameter]

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        """``module(x)``; adapters take their own way."""
        if type(module) is not nn.Linear or module.weight.dtype != torch.float32 or x.ndim != 2:
            low = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                return module(x)
        if x.dtype == torch.bfloat16 and self._bf16:
            weight, bias = module.weight, module.bias
            return _LowLinear.apply(x, weight, bias, self._low(weight), self._low(bias))  # type: ignore[return-value]
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return module(x)
        return _Linear.apply(x, module.weight, module.bias, self._backward)  # type: ignore[return-value]

    def linear_act(self, module: nn.Module, x: Tensor, act: Any) -> Tensor:
        """A linear layer and its activation."""
        return act(self.linear(module, x))

    def norm(self, module: nn.Module, x: Tensor) -> Tensor:
        """Layer normalisation, computed in fp32; its result is bf16 where training is."""
        out = module(x)
        return out.bfloat16() if self._bf16 and torch.is_grad_enabled() else out

    def add_norm(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        """Layer normalisation of a sum."""
        return self.norm(module, x + residual)

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, causal: bool = False
    ) -> Tensor:
        """Softmax attention. With dropout PyTorch's kernel falls back to plain products and slow random numbers; without,
        it computes the weights again in backward, which costs more than keeping them while rows are short."""
        plain = bias is None and not causal and not torch.is_autocast_enabled("cpu")
        if plain and torch.is_grad_enabled() and (dropout or k.shape[2] <= LONGEST_PLAIN):
            return _Attention.apply(q, k, v, dropout)  # type: ignore[return-value]
        return super().attention(q, k, v, bias, dropout, causal)


def make_fast(model: nn.Module, bf16: bool = False) -> CPUOperations:
    """Give a model the CPU's operations, dropouts and embedding, in place. Parameters keep their names and ties.

    Returns the table; its ``refresh`` is to be called after every change of the weights.
    """
    keep_freed_memory()
    operations = CPUOperations(bf16)
    for module in list(model.modules()):
        if hasattr(module, "ops"):
            module.ops = operations  # type: ignore[assignment]
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, FastDropout(child.p).train(child.training))
    accumulate_embeddings(model)
    return operations


def keep_freed_memory() -> None:
    """Let glibc's allocator serve tensors up to 32 MiB from memory that was freed before; elsewhere nothing changes."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 2**31 - 1)
