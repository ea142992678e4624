"""Packs in a few sizes, so that one compiled graph serves many: what `xlm.load(..., compile=True)` runs on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlm.backends.torch.layout import Ragged
from xlm.batches.batch import Batch

_SMALLEST = 256
_LENGTHS = 128


def bucket(count: int) -> int:
    """The size that ``count`` tokens are filled up to: powers of two and their halves in between, from 256."""
    size = _SMALLEST
    while size < count:
        size *= 2
    middle = size * 3 // 4
    return middle if count <= middle and size > _SMALLEST else size


def filled(lengths: Sequence[int], total: int) -> tuple[list[int], int]:
    """The lengths with further sequences that fill them up to ``total`` tokens and a power of two of sequences (some of
    them empty), and a bound of the longest: a multiple of 128."""
    longest = -(-max(lengths) // _LENGTHS) * _LENGTHS
    rest = total - sum(lengths)
    more = [longest] * (rest // longest) + [rest % longest] * (rest % longest > 0)
    count = 1 << (len(lengths) + len(more) - 1).bit_length()
    return [*lengths, *more, *[0] * (count - len(lengths) - len(more))], longest


class Bucketed:
    """A model's encoder, compiled, over packed rows of any sizes.

    Args:
        model: a documented model.
        backend: of ``torch.compile``.
    """

    def __init__(self, model: Any, backend: str = "inductor") -> None:
        host = model.encoder_host
        self.host, self.spec = host, host.spec
        self._causal = self.spec.is_decoder or self.spec.causal_only
        self._encode = torch.compile(self._run, dynamic=False, backend=backend)

    def _run(self, x_TH: Tensor, offsets: Tensor, longest: int) -> Tensor:
        return self.host.encoder(x_TH, Ragged.at(offsets, longest, self._causal))[0]

    def __call__(self, batch: Batch) -> Tensor:
        """Last hidden states (tokens, hidden) of a packed batch."""
        assert batch.lengths is not None
        tokens = batch.tokens
        lengths, longest = filled(batch.lengths, bucket(tokens))
        ids = torch.nn.functional.pad(batch.ids, (0, sum(lengths) - tokens), value=self.spec.pad_id)
        languages = batch.languages
        if languages is not None:
            languages = torch.nn.functional.pad(languages, (0, sum(lengths) - tokens))
        embedded = self.host.embed(Batch.packed(ids, lengths, languages=languages))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return self._encode(embedded, torch.from_numpy(offsets).to(ids.device), longest)[:tokens]
