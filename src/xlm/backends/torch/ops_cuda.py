"""The table of operations for GPUs: attention over packed sequences by PyTorch's own variable-length kernel.

float16, bfloat16    flash attention over all sequences at once; softmax in float32 inside the kernel, norms in float32
float32              one dense call a run of equal lengths
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from xlm.backends.torch.attention import SelfAttention
from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.ops import Operations


class Cuda(Operations):
    """Packed attention in one kernel; queries, keys and values in one product."""

    def __init__(self) -> None:
        self._joined: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def join(self, model: nn.Module) -> None:
        """Lay the weights of queries, keys and values behind each other; the parameters become views of them."""
        for name, module in model.named_modules():
            if not isinstance(module, SelfAttention) or "crossattention" in name:
                continue
            three = (module.query, module.key, module.value)
            weight = torch.cat([m.weight.detach() for m in three])
            bias = torch.cat([m.bias.detach() for m in three])
            for layer, w, b in zip(three, weight.chunk(3), bias.chunk(3), strict=True):
                layer.weight, layer.bias = nn.Parameter(w, requires_grad=False), nn.Parameter(b, requires_grad=False)
            self._joined[module.query] = weight, bias

    def qkv(self, query: nn.Module, key: nn.Module, value: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if query not in self._joined:
            return super().qkv(query, key, value, x)
        q, k, v = F.linear(x, *self._joined[query]).chunk(3, dim=1)
        return q, k, v

    def ragged_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged, dropout: float) -> Tensor:
        if dropout or q.dtype not in (torch.float16, torch.bfloat16):
            return super().ragged_attention(q, k, v, heads, layout, dropout)
        offsets = layout.offsets_on(q.device)
        q, k, v = (t.unflatten(1, (heads, -1)) for t in (q, k, v))
        window = (-1, 0) if layout.causal else (-1, -1)
        out = varlen_attn(q, k, v, offsets, offsets, layout.longest, layout.longest, window_size=window)
        assert isinstance(out, Tensor)
        return out.flatten(1)
