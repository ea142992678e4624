"""The tables of operations that our own kernels compute (``kernels/``), for weights of float32, bfloat16 and int8.

    linear layer + activation + residual + layer norm      one call
    attention                                              one call, through the products' micro-kernel
    all layers of an encoder                               one call, where nothing but its states is wanted
    results                                                to the last bit the same whatever else is in the batch

For few rows, a short text's, products come close to the speed of memory, for many to that of the processor's arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlm.backends.torch import int8_products, native
from xlm.backends.torch.calibration import Activations
from xlm.backends.torch.layout import Layout, Ragged
from xlm.backends.torch.ops_int8 import Int8
from xlm.backends.torch.ops_packed import Packed
from xlm.backends.torch.watch import Watch, stamp

_FUSED: dict[Callable[[Tensor], Tensor], int] = {F.gelu: native.GELU, F.relu: native.RELU}
"""Activations that are computed on a product's sums."""
_MIDDLE = 128
"""What stands for zero in bytes of rows that have their own scale."""


class _Rows(ABC):
    """What the tables of floats and of bytes have in common: sums with norms, attention, and layers as one."""

    _products: dict[nn.Module, Any]

    def __init__(self) -> None:
        self._norms: dict[nn.Module, tuple[Any, native.Norm]] = {}
        self._stacks: dict[tuple[nn.Module, torch.dtype], tuple[Watch, native.Layers | None]] = {}

    @abstractmethod
    def _opened(self, product: Any, modules: Sequence[Any]) -> tuple[native.Packed, Tensor | None] | None:
        """A product's weight and bias; ``None`` where another library computes it."""

    def _made(self, *modules: Any) -> tuple[native.Packed, Tensor | None] | None:
        """The weight and bias of layers that are one matrix; ``None`` where they are not, or not the kernels'."""
        product = self._products.get(modules[0])
        if product is None or any(module in self._products for module in modules[1:]):
            return None
        return self._opened(product, modules)

    def by_row(self, module: nn.Module) -> bool:
        return self._made(module) is not None

    def attends_by_row(self, q: Tensor, heads: int) -> bool:
        return native.attends(q, heads)

    def _norm(self, module: Any) -> native.Norm:
        now = (stamp(module.weight, module.bias), module.eps)
        known, found = self._norms.get(module, (None, None))
        if found is None or known != now:  # copies: the module's own numbers may move while calls hold addresses
            weight, bias = (t.detach().to(torch.float32, copy=True) for t in (module.weight, module.bias))
            found = native.Norm(weight, bias, module.eps)
            self._norms[module] = now, found
        return found

    def norm(self, module: Any, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and (
            x.requires_grad or module.weight.requires_grad or module.bias.requires_grad
        )
        if learns or x.dtype not in native.FLOATS or not native.writes(x.dtype):
            return super().norm(module, x)  # type: ignore[misc]
        return native.layer_norm(self._norm(module), x)

    def linear_add_norm(
        self, module: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module
    ) -> Tensor:
        made = self._made(module)
        if made is None:
            return super().linear_add_norm(module, norm, x, residual, dropout)  # type: ignore[misc]
        packed, bias = made
        return packed(_read(packed, x), residual.dtype, bias, residual=residual, norm=self._norm(norm))

    def qkv(self, query: nn.Module, key: nn.Module, value: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = self._made(query, key, value)
        if made is None:
            return super().qkv(query, key, value, x)  # type: ignore[misc]
        packed, bias = made
        x = _read(packed, x)
        q, k, v = packed(x, self._attends_in(x.dtype), bias).chunk(3, dim=1)
        return q, k, v

    def ragged_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged, dropout: float) -> Tensor:
        if dropout or not layout.lengths or not native.attends(q, heads):
            return super().ragged_attention(q, k, v, heads, layout, dropout)  # type: ignore[misc]
        return native.attention(q, k, v, heads, layout.starts, layout.longest, layout.causal)

    def layers(self, layers: nn.ModuleList, x: Tensor, layout: Layout, last: bool) -> tuple[Tensor, int]:
        count = len(layers) if last else len(layers) - 1
        if not isinstance(layout, Ragged) or not layout.lengths or not x.shape[0] or not count:
            return x, 0
        watch, made = self._stacks.get((layers, x.dtype), (None, None))
        if watch is None or not watch.same():  # an adapter may have taken a layer's place, or numbers have changed
            watch, made = _watch(layers), self._stack(layers, x.dtype)
            self._stacks[layers, x.dtype] = watch, made
        if made is None or watch.watched():
            return x, 0
        return made(x, count, layout.starts, layout.longest, layout.causal), count

    def _stack(self, layers: Any, dtype: torch.dtype) -> native.Layers | None:
        """Layers whose products the kernels compute and which are alike, as one call."""
        calls, held, alike = (native.Layer * len(layers))(), [], set()
        for call, layer in zip(calls, layers, strict=True):
            block, core = layer.attention.output, layer.attention.core
            products = [
                self._made(*modules)
                for modules in ((core.query, core.key, core.value), (block.dense,), (layer.intermediate.dense,))
            ]
            products.append(self._made(layer.output.dense))
            found = [product for product in products if product is not None]
            if len(found) < 4 or layer.act not in _FUSED or core.relative != "absolute":
                return None
            (query, query_bias), (out, out_bias), (up, up_bias), (down, down_bias) = found
            if query.dtype not in (dtype, torch.int8):
                return None
            norms = [self._norm(block.LayerNorm), self._norm(layer.output.LayerNorm)]
            inner, as_bytes = self._inner(layer.intermediate.dense, dtype)
            behind = (None, None) if layer.pre else norms
            call.query = query.call(query_bias)
            call.output = out.call(out_bias, norm=behind[0])
            call.up = up.call(up_bias, _FUSED[layer.act], as_bytes=as_bytes)
            call.down = down.call(down_bias, norm=behind[1])
            call.first_scale, call.first_bias = norms[0].weight.data_ptr(), norms[0].bias.data_ptr()
            call.second_scale, call.second_bias = norms[1].weight.data_ptr(), norms[1].bias.data_ptr()
            call.first_eps, call.second_eps = norms[0].eps, norms[1].eps
            held += [products, norms]
            alike.add((layer.pre, core.heads, out.outputs, out.inputs, up.outputs, inner))
        if len(alike) != 1:
            return None
        pre, heads, hidden, wide, intermediate, inner = alike.pop()
        attends_in = self._attends_in(dtype)
        if (wide // heads) % native.GROUPS[attends_in]:
            return None
        return native.Layers(calls, pre, heads, hidden, wide, intermediate, attends_in, inner, held)

    def _inner(self, module: nn.Module, dtype: torch.dtype) -> tuple[torch.dtype, tuple[float, int] | None]:
        """What stands between the products of a feed-forward block."""
        return dtype, None

    def _attends_in(self, dtype: torch.dtype) -> torch.dtype:
        """What queries, keys and values are where states are ``dtype``."""
        return dtype


def _read(packed: native.Packed, x: Tensor) -> Tensor:
    """Rows in a type that a product reads: its own, or any where it makes bytes of them."""
    return x if packed.dtype == torch.int8 else x.to(packed.dtype)


def _watch(layers: Any) -> Watch:
    """What :meth:`_Rows._stack` reads of layers."""
    modules, settings = [layers], []
    for layer in layers:
        attention, up, down = layer.attention, layer.intermediate, layer.output
        core, out = attention.core, attention.output
        modules += [layer, attention, core, core.query, core.key, core.value]
        modules += [out, out.dense, out.LayerNorm, up, up.dense, down, down.dense, down.LayerNorm]
        settings += [(out.LayerNorm, "eps"), (down.LayerNorm, "eps"), (layer, "act"), (layer, "pre"), (core, "heads")]
    return Watch(modules, settings)


class CompiledFloats(_Rows, Packed):
    """Linear layers in float32 or bfloat16."""

    def __init__(self) -> None:
        Packed.__init__(self)
        _Rows.__init__(self)
        self._products: dict[nn.Module, native.Packed] = {}
        self._wide: dict[nn.Module, tuple[Any, Tensor]] = {}

    def pack(self, modules: Sequence[nn.Linear], rows: int = 512) -> None:
        weight = torch.cat([m.weight.detach() for m in modules]) if len(modules) > 1 else modules[0].weight.detach()
        if weight.shape[1] % native.GROUPS[weight.dtype]:
            super().pack(modules, rows)
            return
        self._products[modules[0]] = native.Packed(weight)
        for module in modules:
            module.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=False)

    def _bias(self, *modules: Any) -> Tensor | None:
        """The biases of layers that are one matrix, float32."""
        if modules[0].bias is None:
            return None
        now = stamp(*(m.bias for m in modules))
        known, found = self._wide.get(modules[0], (None, None))
        if found is None or known != now:
            found = torch.cat([m.bias.detach().float() for m in modules])
            self._wide[modules[0]] = now, found
        return found

    def _opened(self, product: native.Packed, modules: Sequence[Any]) -> tuple[native.Packed, Tensor | None]:
        return product, self._bias(*modules)

    def _multiply(self, module: nn.Module, product: native.Packed, x: Tensor, **rest: Any) -> Tensor:
        return product(_read(product, x), product.dtype, self._bias(module), **rest)

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        product = self._products.get(module)
        return super().linear(module, x) if product is None else self._multiply(module, product, x)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        product = self._products.get(module)
        if product is None or act not in _FUSED:
            return super().linear_act(module, x, act)
        return self._multiply(module, product, x, activation=_FUSED[act])

    def linear_add(self, module: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        product = self._products.get(module)
        if product is None:
            return super().linear_add(module, x, residual, dropout)
        return self._multiply(module, product, x, residual=residual)


class Bytes:
    """A product of int8 weights, see ``int8_products.Product``; rows become bytes inside it."""

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor, reads: Activations | None, gives: Activations | None
    ) -> None:
        zero, factor = (_MIDDLE, None) if reads is None else (reads.zero, reads.scale.reciprocal())
        self.bias, self.packed = bias, native.Packed(weight, scale, zero, factor)
        self.gives: tuple[float, int] | None = None
        if reads is not None and gives is not None and gives.uniform is not None:
            self.gives = (gives.uniform, gives.zero)

    def linear(self, x: Tensor) -> Tensor:
        return self.packed(x, torch.float32, self.bias)

    def linear_act(self, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        if act not in _FUSED:
            return act(self.linear(x))
        dtype = torch.float32 if self.gives is None else torch.uint8
        return self.packed(x, dtype, self.bias, activation=_FUSED[act], as_bytes=self.gives)

    def linear_add(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.packed(x, torch.float32, self.bias, residual=residual)


def _make(
    weight: Tensor, scale: Tensor, bias: Tensor, reads: Activations | None, gives: Activations | None
) -> int8_products.Product:
    own = weight.shape[1] % native.GROUPS[torch.int8] == 0
    return (Bytes if own else int8_products.OneDnn)(weight, scale, bias, reads, gives)


class CompiledBytes(_Rows, Int8):
    """Linear layers on 8-bit integers; where the processor multiplies bfloat16, attention is in it."""

    def __init__(self, bf16_attention: bool) -> None:
        Int8.__init__(self, bf16_attention, _make)
        _Rows.__init__(self)

    def _opened(self, product: Any, modules: Sequence[Any]) -> tuple[native.Packed, Tensor | None] | None:
        return (product.packed, product.bias) if isinstance(product, Bytes) else None

    def _inner(self, module: nn.Module, dtype: torch.dtype) -> tuple[torch.dtype, tuple[float, int] | None]:
        product = self._products[module]
        gives = product.gives if isinstance(product, Bytes) else None
        return (dtype, None) if gives is None else (torch.uint8, gives)

    def _attends_in(self, dtype: torch.dtype) -> torch.dtype:
        return torch.bfloat16 if self._bf16_attention else torch.float32
