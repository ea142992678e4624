"""The one encoder: a stack of layers over rows of states, all differences between families read from its spec."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from xlm.backends.torch.attention import Attention, Cache
from xlm.backends.torch.crossing import Source
from xlm.backends.torch.layout import Layout, Padded
from xlm.backends.torch.ops import Operations, activation
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec


class Intermediate(nn.Module):
    """The first half of the feed-forward block."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.dense = nn.Linear(spec.hidden_size, spec.intermediate_size)


class Output(nn.Module):
    """The second half of the feed-forward block and the norm that belongs to it."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.dense = nn.Linear(spec.intermediate_size, spec.hidden_size)
        self.LayerNorm = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps)
        self.dropout = nn.Dropout(spec.ffn_dropout)


class Layer(nn.Module):
    """Attention, optional cross-attention and the feed-forward block, each with its residual (drawn in ``spec.py``)."""

    def __init__(self, spec: EncoderSpec, ops: Operations) -> None:
        super().__init__()
        self.pre = spec.norm_order == "pre"
        self.chunk = spec.feed_forward_chunk
        self.act = activation(spec.activation)
        self.ops = ops
        self.attention = Attention(spec, ops)
        if spec.cross_attention:
            self.crossattention = Attention(spec, ops, cross=True)
        self.intermediate = Intermediate(spec)
        self.output = Output(spec)

    def forward(
        self,
        x_TH: Tensor,
        layout: Layout,
        head_mask: Tensor | None,
        source: Source | None,
        cache: tuple[Tensor, ...] | None,
        keep: bool,
        weights: bool,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, tuple[Tensor, ...] | None]:
        """Rows, self-attention weights, cross-attention weights, cache (2 tensors, 4 with cross-attention).

        ``rows`` (indices, ragged layouts only) are those whose states are wanted: behind attention the others stop.
        """
        own: Cache | None = None if cache is None else cache[:2]  # type: ignore[assignment]
        x_TH, p, kept = self.attention(x_TH, layout, rows, head_mask=head_mask, cache=own, keep=keep, weights=weights)
        cross = None
        out: tuple[Tensor, ...] | None = kept
        if source is not None:
            old: Cache | None = None if cache is None else cache[-2:]  # type: ignore[assignment]
            x_TH, cross, kept_cross = self.crossattention(
                x_TH, layout, head_mask=head_mask, source=source, cache=old, keep=keep, weights=weights
            )
            out = None if kept is None or kept_cross is None else kept + kept_cross
        x_TH = self._feed_forward(x_TH, layout)
        if layout.row_mask is not None:
            x_TH = x_TH * layout.row_mask.to(x_TH.dtype)
        return x_TH, p, cross, out

    def _feed_forward(self, x_TH: Tensor, layout: Layout) -> Tensor:
        if not self.chunk or not isinstance(layout, Padded):
            return self._block(x_TH)
        if layout.length % self.chunk:
            raise InputError(
                f"{layout.length} tokens: must be a multiple of chunk_size_feed_forward={self.chunk}; pad the batch"
            )
        rows = layout.batch * self.chunk
        return torch.cat([self._block(part) for part in x_TH.split(rows)])

    def _block(self, x_TH: Tensor) -> Tensor:
        ops, out = self.ops, self.output
        inner = ops.norm(out.LayerNorm, x_TH) if self.pre else x_TH
        inner = ops.linear_act(self.intermediate.dense, inner, self.act)
        if self.pre:
            return ops.linear_add(out.dense, inner, x_TH, out.dropout)
        return ops.linear_add_norm(out.dense, out.LayerNorm, inner, x_TH, out.dropout)


@dataclass
class Trace:
    """What a pass over the layers leaves behind, beside the states; lists are empty where nothing was asked for."""

    hidden_states: list[Tensor] = field(default_factory=list)
    attentions: list[Tensor] = field(default_factory=list)
    cross_attentions: list[Tensor] = field(default_factory=list)
    caches: list[tuple[Tensor, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Recompute:
    """How layers are recomputed in the backward pass instead of keeping their activations."""

    every: int = 1
    """Recompute every n-th layer; the others keep their activations."""
    offload: bool = False
    """Hold the layers' inputs, which recomputing needs, in the host's memory."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For ``torch.utils.checkpoint.checkpoint``."""

    def run(self, layer: nn.Module, arguments: tuple[Any, ...]) -> Any:
        """Call a layer so that its activations are recomputed."""
        pinned = torch.cuda.is_available()
        with save_on_cpu(pin_memory=pinned) if self.offload else nullcontext():
            return checkpoint(layer, *arguments, **{"use_reentrant": False, **self.options})


class Encoder(nn.Module):
    """The layers, and the final norm where there is one."""

    def __init__(self, spec: EncoderSpec, ops: Operations) -> None:
        super().__init__()
        self.ops = ops
        self.layer = nn.ModuleList(Layer(spec, ops) for _ in range(spec.num_layers))
        self.LayerNorm = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps) if spec.final_norm else None
        self.gradient_checkpointing = False
        self.recompute = Recompute()

    def forward(
        self,
        x_TH: Tensor,
        layout: Layout,
        *,
        head_mask: list[Tensor] | None = None,
        source: Source | None = None,
        caches: Any = None,
        keep: bool = False,
        hidden: bool = False,
        weights: bool = False,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Trace]:
        """Run the layers over rows (tokens, hidden).

        Args:
            layout: which rows belong together.
            head_mask: a factor for each layer.
            source: the states that cross-attention reads.
            caches: for each layer keys and values of earlier tokens.
            keep, hidden, weights: what the trace is to hold: caches, states of every layer, attention weights.
            rows: indices (n,) of the states wanted, of a ragged layout: the last layer computes no others. ``None``: all.
        """
        trace, done = Trace(), 0
        if not (self.training or hidden or weights or keep or head_mask or source or caches):
            x_TH, done = self.ops.layers(self.layer, x_TH, layout, rows is None)
        for i, layer in enumerate(self.layer):
            if i < done:
                continue
            if hidden:
                trace.hidden_states.append(x_TH)
            arguments = (
                x_TH,
                layout,
                None if head_mask is None else head_mask[i],
                source,
                None if caches is None else caches[i],
                keep,
                weights,
                rows if i == len(self.layer) - 1 else None,
            )
            if self.gradient_checkpointing and self.training and i % self.recompute.every == 0:
                x_TH, p, cross, kept = self.recompute.run(layer, arguments)
            else:
                x_TH, p, cross, kept = layer(*arguments)
            if p is not None:
                trace.attentions.append(p)
            if cross is not None:
                trace.cross_attentions.append(cross)
            if kept is not None:
                trace.caches.append(kept)
        if self.LayerNorm is not None:
            x_TH = self.ops.norm(self.LayerNorm, x_TH)
        if hidden:
            trace.hidden_states.append(x_TH)
        return x_TH, trace
