"""What makes a training step fast on a CPU, without changing what it computes.

- Linear layers in fp32 go through oneDNN, forward and backward where its kernels use more of the processor than MKL's
  (AVX-512 on processors of any maker), forward only otherwise.
- Dropout draws 16 random bits an element instead of a float: a quarter of the time, probabilities exact to 1/65536.
- The gradient of the word table is accumulated in place (see ``xlm.training.fused``).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from xlm.backends.torch.ops import Operations
from xlm.training.fused import accumulate_embeddings

_STEPS = 1 << 16


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


def kept(like: Tensor, p: float) -> tuple[Tensor, float]:
    """Booleans in the shape of ``like``, False with probability ``p`` (to 1/65536), and the inverse of the share kept."""
    dropped = round(p * _STEPS)
    words = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: like.numel()].view(like.shape)
    return bits >= dropped - _STEPS // 2, _STEPS / (_STEPS - dropped)


class _Dropout(torch.autograd.Function):
    """Keeps one byte an element for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        keep, ctx.scale = kept(x, p)
        ctx.save_for_backward(keep)
        return (x * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        return (gradients[0] * keep).mul_(ctx.scale), None


class _DroppingAttention(torch.autograd.Function):
    """Softmax attention whose weights are dropped out; what was dropped is computed again for backward, not stored.

    q, k, v (b, heads, tokens, width); P the softmax's weights, D those after dropout.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
        ctx.root = 1 / math.sqrt(q.shape[-1])
        weights_P = torch.softmax((q * ctx.root) @ k.transpose(-1, -2), dim=-1)
        keep, ctx.scale = kept(weights_P, p)
        ctx.save_for_backward(q, k, v, weights_P, keep)
        return (weights_P * keep).mul_(ctx.scale) @ v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        (d,) = gradients
        q, k, v, weights_P, keep = ctx.saved_tensors
        dv = (weights_P * keep).mul_(ctx.scale).transpose(-1, -2) @ d
        d_P = (d @ v.transpose(-1, -2)).mul_(keep).mul_(ctx.scale)
        d_P.sub_((d_P * weights_P).sum(-1, keepdim=True)).mul_(weights_P).mul_(ctx.root)
        return d_P @ k, d_P.transpose(-1, -2) @ q, dv, None


class FastDropout(nn.Dropout):
    """``nn.Dropout`` for a CPU; its numbers are drawn from PyTorch's generator, so seeds hold."""

    def forward(self, input: Tensor) -> Tensor:
        """The input with elements dropped while training."""
        if not self.training or self.p == 0.0:
            return input
        return _Dropout.apply(input, self.p)  # type: ignore[return-value]


class CPUOperations(Operations):
    """The table of operations for training in fp32 on a CPU."""

    def __init__(self) -> None:
        self._backward = torch.backends.cpu.get_cpu_capability().startswith("AVX512")

    def _fits(self, module: nn.Module, x: Tensor) -> bool:
        return type(module) is nn.Linear and x.dtype == module.weight.dtype == torch.float32 and x.ndim == 2

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        """``module(x)``; adapters and low precision take their own way."""
        if not self._fits(module, x) or torch.is_autocast_enabled("cpu"):
            return module(x)
        return _Linear.apply(x, module.weight, module.bias, self._backward)  # type: ignore[return-value]

    def linear_act(self, module: nn.Module, x: Tensor, act: Any) -> Tensor:
        """A linear layer and its activation."""
        return act(self.linear(module, x))

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, causal: bool = False
    ) -> Tensor:
        """Softmax attention. With dropout PyTorch's kernel falls back to plain products and slow random numbers."""
        if not dropout or causal or bias is not None or torch.is_autocast_enabled("cpu"):
            return super().attention(q, k, v, bias, dropout, causal)
        return _DroppingAttention.apply(q, k, v, dropout)  # type: ignore[return-value]


def make_fast(model: nn.Module) -> None:
    """Give a model the CPU's operations, dropouts and embedding, in place. Parameters keep their names and ties."""
    operations = CPUOperations()
    for module in list(model.modules()):
        if hasattr(module, "ops"):
            module.ops = operations  # type: ignore[assignment]
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, FastDropout(child.p).train(child.training))
    accumulate_embeddings(model)
