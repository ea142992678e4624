"""The table of operations for int8 weights on CPUs with integer products (VNNI): 8-bit activations, 32-bit sums.

How activations become bytes is said in ``int8_products.py``. States between the products, the
softmax, norms and residuals are float32. Where the processor multiplies bfloat16, queries, keys and values are rounded to it
for attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from xlm.backends.torch.calibration import Activations
from xlm.backends.torch.int8_products import Maker, OneDnn, Product
from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.ops import Operations
from xlm.backends.torch.ops_packed import attention_by_products, direct_norm
from xlm.backends.torch.ops_widening import Widening


class Int8(Operations):
    """Linear layers on 8-bit integers; what stands between them is float32.

    Args:
        bf16_attention: the processor multiplies bfloat16.
        make: how a product is made.
    """

    def __init__(self, bf16_attention: bool, make: Maker = OneDnn) -> None:
        self._products: dict[nn.Module, Product] = {}
        self._bf16_attention = bf16_attention
        self._make = make
        self._others = Widening()

    def pack(
        self, modules: Sequence[nn.Linear], reads: Activations | None = None, gives: Activations | None = None
    ) -> None:
        """Take over the int8 weights of layers that read the same rows, as one matrix, and copy their biases.

        Each has a weight (outputs, inputs) of int8 and ``weight_scale`` (outputs,), as ``quantize_linear`` leaves them.

        Args:
            reads: the fixed scales of the rows, which the weights have taken over; ``None``: every row has its own.
            gives: those of the layer that reads what this one's activation function gives.
        """
        weight = torch.cat([m.weight.detach() for m in modules]) if len(modules) > 1 else modules[0].weight.detach()
        scale = torch.cat([m.weight_scale for m in modules])  # type: ignore[arg-type]
        biases = [torch.zeros(m.out_features) if m.bias is None else m.bias.detach().float() for m in modules]
        for module in modules:
            module.weight = nn.Parameter(torch.empty(0, dtype=torch.int8), requires_grad=False)
            del module.weight_scale
        self._products[modules[0]] = self._make(weight, scale, torch.cat(biases), reads, gives)

    def enter(self, x: Tensor) -> Tensor:
        return x.float()

    def norm(self, module: nn.Module, x: Tensor) -> Tensor:
        return direct_norm(module, x)

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        product = self._products.get(module)
        return self._others.linear(module, x) if product is None else product.linear(x)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        product = self._products.get(module)
        return super().linear_act(module, x, act) if product is None else product.linear_act(x, act)

    def linear_add(self, module: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        product = self._products.get(module)
        return super().linear_add(module, x, residual, dropout) if product is None else product.linear_add(x, residual)

    def linear_add_norm(
        self, module: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module
    ) -> Tensor:
        return self.norm(norm, self.linear_add(module, x, residual, dropout))

    def qkv(self, query: nn.Module, key: nn.Module, value: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if query not in self._products or key in self._products:
            return super().qkv(query, key, value, x)
        q, k, v = self.linear(query, x).chunk(3, dim=1)
        return q, k, v

    def ragged_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged, dropout: float) -> Tensor:
        if dropout or not self._bf16_attention:
            return super().ragged_attention(q, k, v, heads, layout, dropout)
        return attention_by_products(q, k, v, heads, layout)
