"""How the rows of states (tokens, hidden) belong to sequences: a rectangle with padding, or ragged without.

Only embeddings and attention look at the layout; everything between works on rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from xlm.backends.torch.tracing import in_graph
from xlm.backends.torch.transfer import host_tensor, upload
from xlm.batches.batch import causal_mask, equal_runs
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec


@dataclass(frozen=True)
class Padded:
    """Rows are (batch * length); attention adds ``bias`` (broadcastable to (b, heads, q, k)) to its scores."""

    batch: int
    length: int
    bias: Tensor | None = None
    row_mask: Tensor | None = None
    """(batch * length, 1) floats that keep padding at zero, or ``None``."""
    past: int = 0


@dataclass(frozen=True)
class Ragged:
    """Rows are the tokens of all sequences, one after the other; ``causal`` hides what comes later."""

    lengths: tuple[int, ...]
    causal: bool = False
    row_mask: None = None
    runs: tuple[tuple[int, int, int], ...] = field(default=())
    longest: int = 0
    """Tokens of the longest sequence, or any larger number."""
    offsets: Tensor | None = None
    """(sequences + 1,) int32: where each sequence begins, and the end; made from the lengths where it is not given."""
    _placed: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, lengths: tuple[int, ...], causal: bool) -> Ragged:
        return cls(lengths, causal, None, tuple(equal_runs(lengths)), max(lengths, default=0))

    @classmethod
    def at(cls, offsets: Tensor, longest: int, causal: bool) -> Ragged:
        """A layout known by tensors alone, so that a compiled graph serves every batch of the same sizes."""
        return cls((), causal, None, (), longest, offsets)

    @cached_property
    def starts(self) -> Tensor:
        """(sequences + 1,) int64 on the CPU: where each sequence begins, and the end."""
        return host_tensor((0, *accumulate(self.lengths)))

    def offsets_on(self, device: torch.device) -> Tensor:
        """:attr:`offsets` as a tensor on a device, copied there once for all layers."""
        if self.offsets is not None:
            return self.offsets
        if device not in self._placed:
            self._placed[device] = upload(self.starts.int(), device)
        return self._placed[device]


Layout = Padded | Ragged


def need_padded(layout: Layout, what: str) -> Padded:
    """The layout, if it is a rectangle.

    Raises:
        InputError: ``what`` has no meaning on packed sequences.
    """
    if isinstance(layout, Ragged):
        raise InputError(f"{what} needs a padded batch: packed sequences have no (b, q, k) rectangle")
    return layout


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Scores' bias of a mask: 0 where it is 1, where it is 0 the lowest finite value of ``dtype``, under autocast of its own.

    Values between 0 and 1 weigh in between, as in the reference of XLM-R, which in effect hides such a token.
    """
    return (1.0 - visible.to(dtype)) * _lowest(dtype, visible.device.type)


def _lowest(dtype: torch.dtype, device: str) -> float:
    """The lowest finite value of ``dtype`` that autocast, which makes scores and bias smaller, leaves finite.

    Of infinities a row that sees nothing has no softmax.
    """
    lowest = torch.finfo(dtype).min
    return (
        max(lowest, torch.finfo(torch.get_autocast_dtype(device)).min) if torch.is_autocast_enabled(device) else lowest
    )


def check_mask(name: str, mask: Tensor | None) -> None:
    """Refuse mask values that are neither hidden (0), visible (1) nor between; never inside a compiled graph.

    Raises:
        InputError: names the argument, the place, the value and the limits.
    """
    if mask is None or mask.dtype == torch.bool or in_graph() or type(mask) is not Tensor or mask.is_meta:
        return
    good = (mask >= 0) & (mask <= 1)
    if not bool(good.all()):
        place = torch.nonzero(~good)[0].tolist()
        raise InputError(f"{name}{place}={mask[tuple(place)].item()}: must be from 0 to 1, 1 = visible")


def self_attention_bias(
    spec: EncoderSpec, mask: Tensor | None, batch: int, queries: int, past: int, dtype: torch.dtype, device: Any
) -> Tensor | None:
    """Bias of self-attention from a mask (b, k) or (b, q, k); ``None`` where every token sees every token.

    A decoder joins a 2-D mask with the triangle and takes a 3-D mask as it is. ``causal_only`` encoders (XLM) use the
    triangle alone.

    Raises:
        InputError: the mask has another rank or does not cover the keys.
    """
    keys = past + queries
    if mask is not None:
        if mask.ndim not in (2, 3):
            raise InputError(
                f"attention_mask of shape {tuple(mask.shape)}: must be (batch, keys) or (batch, queries, keys)"
            )
        if mask.shape[0] != batch or (mask.ndim == 3 and mask.shape[1] != queries):
            raise InputError(f"attention_mask of shape {tuple(mask.shape)}: the ids are ({batch}, {queries})")
    if spec.causal_only:
        return additive(causal_mask(_on(device), queries, keys, past), dtype)[None, None]
    if mask is not None and mask.ndim == 3:
        _check_keys(mask, keys)
        return additive(mask[:, None], dtype)
    triangle = causal_mask(_on(device), queries, keys, past)[None, None] if spec.is_decoder else None
    if mask is None:
        # A single new token sees its whole past.
        return None if triangle is None or queries == 1 else additive(triangle, dtype)
    if triangle is not None and mask.shape[1] < keys:  # the mask names the new tokens only: the past is visible
        if mask.shape[1] != queries:
            _check_keys(mask, keys)
        mask = torch.cat([mask.new_ones(batch, past), mask], dim=1)
    _check_keys(mask, keys)
    visible = mask[:, None, None, :].to(dtype)
    if spec.lengths_make_mask:  # XLM hides zeros only
        visible = (visible != 0).to(dtype)
    return additive(visible if triangle is None else visible * triangle.to(dtype), dtype)


def cross_attention_bias(mask: Tensor | None, batch: int, queries: int, keys: int, dtype: torch.dtype) -> Tensor | None:
    """Bias of cross-attention from the encoder's mask (b, k) or (b, q, k)."""
    if mask is None:
        return None
    if mask.ndim not in (2, 3) or mask.shape[0] != batch or mask.shape[-1] != keys:
        raise InputError(
            f"encoder_attention_mask of shape {tuple(mask.shape)}: "
            f"must be ({batch}, {keys}) or ({batch}, {queries}, {keys})"
        )
    return additive(mask[:, None, None, :] if mask.ndim == 2 else mask[:, None], dtype)


def _check_keys(mask: Tensor, keys: int) -> None:
    if mask.shape[-1] != keys:
        raise InputError(f"attention_mask of shape {tuple(mask.shape)}: must cover the {keys} tokens of past and input")


class _on:
    """The namespace of :func:`causal_mask` for one device."""

    def __init__(self, device: Any) -> None:
        self.device = device

    def arange(self, *bounds: int) -> Tensor:
        return torch.arange(*bounds, device=self.device)
