"""Fixed scales for int8 activations, from what a float32 model computes on sample texts.

Inputs that a layer norm or attention leaves have a few channels far larger than the others. Each channel gets a scale of
its own, which the weights take over (Xiao et al. 2023, arXiv:2211.10438):

    W x = (W diag(a)) (x / a)            a[c] ~ sqrt(max|x[c]| / max|W[:, c]|), so that x / a fits signed bytes

What follows an activation function gets one scale and zero for all its channels, because the product before it is to give
bytes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.ops import Operations

_LARGEST = 127
_TINY = 1e-6


@dataclass(frozen=True)
class Activations:
    """How the rows that a linear layer reads are stored in bytes: ``x[c] ~ scale[c] * (byte - zero)``.

    Attributes:
        scale: (inputs,) float32, positive.
        zero: the byte that stands for 0.
    """

    scale: Tensor
    zero: int

    @cached_property
    def uniform(self) -> float | None:
        """The scale, where all channels share one."""
        return float(self.scale[0]) if bool((self.scale == self.scale[0]).all()) else None


class Observer(Operations):
    """Another table's operations, noting the range of every channel that a linear layer reads."""

    def __init__(self, inner: Operations) -> None:
        self.inner = inner
        self.lowest: dict[nn.Module, Tensor] = {}
        self.highest: dict[nn.Module, Tensor] = {}

    def _note(self, module: nn.Module, x: Tensor) -> None:
        low, high = torch.aminmax(x.float(), dim=0)
        if module in self.lowest:
            low, high = torch.minimum(low, self.lowest[module]), torch.maximum(high, self.highest[module])
        self.lowest[module], self.highest[module] = low, high

    def enter(self, x: Tensor) -> Tensor:
        return self.inner.enter(x)

    def norm(self, module: nn.Module, x: Tensor) -> Tensor:
        return self.inner.norm(module, x)

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        self._note(module, x)
        return self.inner.linear(module, x)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        self._note(module, x)
        return self.inner.linear_act(module, x, act)

    def linear_add(self, module: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        self._note(module, x)
        return self.inner.linear_add(module, x, residual, dropout)

    def linear_add_norm(
        self, module: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module
    ) -> Tensor:
        self._note(module, x)
        return self.inner.linear_add_norm(module, norm, x, residual, dropout)

    def qkv(self, query: nn.Module, key: nn.Module, value: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._note(query, x)
        return self.inner.qkv(query, key, value, x)

    def ragged_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged, dropout: float) -> Tensor:
        return self.inner.ragged_attention(q, k, v, heads, layout, dropout)

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, causal: bool = False
    ) -> Tensor:
        return self.inner.attention(q, k, v, bias, dropout, causal)

    def by_channel(self, modules: tuple[nn.Module, ...], weights: list[Tensor]) -> Activations:
        """A scale a channel for layers that read the same rows, the first of which was observed."""
        largest = torch.maximum(self.highest[modules[0]], -self.lowest[modules[0]]).clamp_min_(_TINY)
        columns = torch.stack([w.detach().float().abs().amax(0) for w in weights]).amax(0).clamp_min_(_TINY)
        scale = (largest / columns).sqrt()
        return Activations(scale * ((largest / scale).max() / _LARGEST), _LARGEST + 1)

    def uniformly(self, module: nn.Module) -> Activations:
        """One scale and zero for all channels, so that the whole range lies in 0 to 255."""
        low, high = min(0.0, float(self.lowest[module].min())), max(_TINY, float(self.highest[module].max()))
        step = (high - low) / 255
        return Activations(torch.full_like(self.lowest[module], step), round(-low / step))
