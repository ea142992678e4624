"""The table of operations for GPUs: attention over packed sequences by PyTorch's own variable-length kernel.

float16, bfloat16    flash attention over all sequences at once; softmax in float32 inside the kernel, norms in float32; in
                     float16 pre-norm layers (XL) add up in float32
float32              one dense call a run of equal lengths; so also where the kernel is not to be had: see `why_not_packed`
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from xlm.backends.torch.attention import SelfAttention
from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.ops import Operations

_CAPABILITY = (8, 0)
_WIDTHS, _WIDEST = 8, 256
_HALVES = (torch.float16, torch.bfloat16)


def why_not_packed(device: torch.device, width: int) -> str | None:
    """Why PyTorch's variable-length kernel does not run with heads of this width on a device; None where it does."""
    if width % _WIDTHS or width > _WIDEST:
        return f"a head's width is {width}, the kernel needs a multiple of {_WIDTHS} up to {_WIDEST}"
    if device.type != "cuda":
        return None
    if (have := torch.cuda.get_device_capability(device)) < _CAPABILITY:
        return f"compute capability {have[0]}.{have[1]}, the kernel needs {_CAPABILITY[0]}.{_CAPABILITY[1]}"
    return None if torch.backends.cuda.is_flash_attention_available() else "this PyTorch was built without the kernel"


def how_to_look(kernel: Callable[..., Any]) -> Callable[[bool], dict[str, Any]]:
    """What a release of PyTorch calls "to the left only", and "to both sides", in its kernel: 2.10 has a flag, later ones
    a window."""
    if "window_size" in signature(kernel).parameters:
        return lambda causal: {"window_size": (-1, 0) if causal else (-1, -1)}
    return lambda causal: {"is_causal": causal}


def how_to_sum(kernel: Callable[..., Any], rocm: bool) -> dict[str, Any]:
    """What keeps a release's kernel from dividing a sequence's keys by what runs beside it, and adding up the parts.

    A release that cannot be told never does so; AMD's kernel does not either, and refuses to be told.
    """
    return {"num_splits": 1} if "num_splits" in signature(kernel).parameters and not rocm else {}


_looking = how_to_look(varlen_attn)
_summing = how_to_sum(varlen_attn, torch.version.hip is not None)


class Cuda(Operations):
    """Packed attention in one kernel; queries, keys and values in one product.

    Args:
        packed: whether the kernel is to be had.
        wide: whether the sum that runs through all layers is float32: for pre-norm layers in float16, where no norm bounds it
            before the last and it may grow past 65,504.
    """

    def __init__(self, packed: bool = True, wide: bool = False) -> None:
        self._packed, self._wide = packed, wide

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
            # With the layer, and no key to look up, so that one compiled graph serves all layers.
            module.query.register_buffer("joined_weight", weight, persistent=False)
            module.query.register_buffer("joined_bias", bias, persistent=False)

    def linear_add(self, module: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module) -> Tensor:
        made = dropout(self.linear(module, x))
        return (made.float() if self._wide else made) + residual

    def norm(self, module: nn.Module, x: Tensor) -> Tensor:
        if not self._wide:
            return super().norm(module, x)
        assert isinstance(module, nn.LayerNorm)
        weight, bias = module.weight.float(), module.bias.float()
        return F.layer_norm(x.float(), module.normalized_shape, weight, bias, module.eps).to(module.weight.dtype)

    def qkv(self, query: nn.Module, key: nn.Module, value: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joined: Any = query
        if not self._still_joined(query, key, value):
            return super().qkv(query, key, value, x)
        q, k, v = F.linear(x, joined.joined_weight, joined.joined_bias).chunk(3, dim=1)
        return q, k, v

    @staticmethod
    def _still_joined(*three: nn.Module) -> bool:
        """Whether the layers compute what `join` laid together: not where one was replaced, got other weights, or learns."""
        weight, bias = (getattr(three[0], name, None) for name in ("joined_weight", "joined_bias"))
        if weight is None or bias is None or any(type(layer) is not nn.Linear for layer in three):
            return False
        if torch.is_grad_enabled() and any(p.requires_grad for layer in three for p in layer.parameters()):
            return False
        if torch.compiler.is_compiling():  # no storages are seen there; an engine compiles, whose weights stay
            return True
        return all(_shares(p, whole) for layer in three for p, whole in ((layer.weight, weight), (layer.bias, bias)))

    def attends_by_row(self, q: Tensor, heads: int) -> bool:
        return self._packed and q.dtype in _HALVES

    def ragged_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: Ragged, dropout: float) -> Tensor:
        if not self._packed or dropout or q.dtype not in _HALVES:
            return super().ragged_attention(q, k, v, heads, layout, dropout)
        offsets = layout.offsets_on(q.device)
        q, k, v = (t.unflatten(1, (heads, -1)) for t in (q, k, v))
        longest, looking = layout.longest, _looking(layout.causal)
        out = varlen_attn(q, k, v, offsets, offsets, longest, longest, **looking, **_summing)
        assert isinstance(out, Tensor)
        return out.flatten(1)


def _shares(one: Any, other: Any) -> bool:
    """Whether two tensors lie in the same memory."""
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata
