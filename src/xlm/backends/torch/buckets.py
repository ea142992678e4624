"""Packs in a few sizes, so that one compiled graph serves many: what `xlm.load(..., compile=True)` runs on a GPU.

A graph is made of one layer, whose weights are inputs, for a number of tokens and a bound of the longest sequence: all layers
run it, so that compiling takes as long as one does; the number of sequences may be any.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit

from xlm.backends.torch.encoder import Layer
from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.transfer import upload
from xlm.batches.batch import Batch

_SMALLEST = 256
_SHORTEST = 512
_GRAPHS = 256
"""Graphs that may be made in a process, of all engines together: PyTorch's own limit on a function's recompilations is 8, but
a pack of 65,536 tokens comes in 17 sizes. Above 256 PyTorch makes none whatever is said here: what has no graph by then runs
uncompiled."""


def bucket(count: int) -> int:
    """The size that ``count`` tokens are filled up to: powers of two and their halves in between, from 256."""
    size = _SMALLEST
    while size < count:
        size *= 2
    middle = size * 3 // 4
    return middle if count <= middle and size > _SMALLEST else size


def bound(length: int) -> int:
    """The power of two, from 512, that bounds the longest sequence: one for all packs of most models."""
    return max(_SHORTEST, 1 << (length - 1).bit_length())


def filled(lengths: Sequence[int], total: int) -> list[int]:
    """The lengths with further sequences, none longer than the longest, that fill them up to ``total`` tokens."""
    longest, rest = max(lengths), total - sum(lengths)
    return [*lengths, *[longest] * (rest // longest), *[rest % longest] * (rest % longest > 0)]


@cache
def _warn_of_limit() -> None:
    logging.getLogger("xlm").warning(
        "this process has compiled as many sizes of packs as PyTorch allows: packs of other sizes run uncompiled"
    )


class Bucketed:
    """A model's encoder, compiled, over packed rows of any sizes.

    Args:
        model: a documented model.
        backend: of ``torch.compile``.
    """

    def __init__(self, model: Any, backend: Any = "inductor") -> None:
        host = model.encoder_host
        self.model, self.host, self.spec = model, host, host.spec
        self._causal = self.spec.is_decoder or self.spec.causal_only
        self._layer = torch.compile(self._run, dynamic=False, fullgraph=True, backend=backend)

    def _run(self, layer: Layer, x_TH: Tensor, offsets: Tensor, longest: int) -> Tensor:
        return layer(x_TH, Ragged.at(offsets, longest, self._causal), None, None, None, False, False)[0]

    def __call__(self, batch: Batch) -> Tensor:
        """Last hidden states (tokens, hidden) of a packed batch; one on the host is filled up there."""
        assert batch.lengths is not None
        tokens = batch.tokens
        lengths = filled(batch.lengths, bucket(tokens))
        ids = torch.nn.functional.pad(batch.ids, (0, sum(lengths) - tokens), value=self.spec.pad_id)
        languages = batch.languages
        if languages is not None:
            languages = torch.nn.functional.pad(languages, (0, sum(lengths) - tokens))
        x_TH = self.host.embed(Batch.packed(ids, lengths, languages=languages))
        offsets = upload(torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), x_TH.device)
        torch._dynamo.mark_dynamic(offsets, 0)
        encoder, longest = self.host.encoder, bound(max(lengths))
        with torch._dynamo.config.patch(recompile_limit=_GRAPHS):
            try:
                for layer in encoder.layer:
                    x_TH = self._layer(layer, x_TH, offsets, longest)
            except FailOnRecompileLimitHit:
                _warn_of_limit()
                return self.model.states(batch)
        x_TH = x_TH[:tokens]
        return x_TH if encoder.LayerNorm is None else encoder.ops.norm(encoder.LayerNorm, x_TH)
