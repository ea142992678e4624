"""The table of primitive operations an encoder is built on.

Layers never compute directly; they ask their table. ``PLAIN`` is PyTorch as it is: trainable, exportable,
on any device. Faster tables for inference override single operations and leave the model alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlm.errors import ConfigError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": F.mish,
    "linear": lambda x: x,
    "identity": lambda x: x,
}


def in_graph() -> bool:
    """Whether a compiler or tracer is looking: then no check may read a tensor's values."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def activation(act: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function of an activation's name; a callable is its own function.

    Raises:
        ConfigError: an unknown name.
    """
    if not isinstance(act, str):
        return act
    if act not in ACTIVATIONS:
        raise ConfigError(f"activation {act!r}: must be one of {', '.join(sorted(ACTIVATIONS))} or a callable")
    return ACTIVATIONS[act]


class Operations:
    """PyTorch's own operations. Shapes: rows ``x`` are (tokens, features); attention takes (b, heads, tokens, d)."""

    def enter(self, x: Tensor) -> Tensor:
        """Embedded states as the layers want them."""
        return x

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        """``module(x)``; the module may be a wrapper that an adapter library put in its place."""
        return module(x)

    def linear_act(self, module: nn.Module, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """A linear layer and its activation."""
        return act(module(x))

    def norm(self, module: nn.Module, x: Tensor) -> Tensor:
        """Layer normalisation."""
        return module(x)

    def add_norm(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        """Layer normalisation of a sum."""
        return module(x + residual)

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, causal: bool = False
    ) -> Tensor:
        """Softmax attention; ``bias`` is added to the scaled scores."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=causal)


PLAIN = Operations()
