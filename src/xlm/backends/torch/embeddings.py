"""Ids -> first states: words, positions, languages and token types, summed, normalised, dropped out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xlm.backends.torch.ops import Operations
from xlm.backends.torch.tracing import in_graph
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec


class Embeddings(nn.Module):
    """The tables of a spec. All inputs are flat rows: one id a token."""

    def __init__(self, spec: EncoderSpec, ops: Operations) -> None:
        super().__init__()
        self.spec, self.ops = spec, ops
        hidden = spec.hidden_size
        # XLM's word table has no vector for padding's gradient; zeroed rows in the others: the same padding_idx.
        self.word_embeddings = nn.Embedding(spec.vocab_size, hidden, padding_idx=spec.pad_id)
        offset = spec.positions_skip_padding
        self.position_embeddings = nn.Embedding(spec.max_positions, hidden, padding_idx=spec.pad_id if offset else None)
        if spec.num_token_types:
            self.token_type_embeddings = nn.Embedding(spec.num_token_types, hidden)
        if spec.num_languages:
            self.language_embeddings = nn.Embedding(spec.num_languages, hidden)
        if spec.embedding_norm:
            self.LayerNorm = nn.LayerNorm(hidden, eps=spec.norm_eps)
        self.dropout = nn.Dropout(spec.embedding_dropout)

    def forward(
        self,
        words_TH: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor | None,
        languages: Tensor | None,
        row_mask: Tensor | None,
    ) -> Tensor:
        """Add to word vectors (T, hidden) what the ids of shape (T,) name; padding is zeroed where the spec says so."""
        spec, x = self.spec, words_TH
        if spec.num_token_types:
            types = torch.zeros_like(position_ids) if token_type_ids is None else token_type_ids
            x = x + self.token_type_embeddings(types)
        if spec.position_kind == "absolute":
            x = x + self.position_embeddings(position_ids)
        if languages is not None and spec.num_languages:
            x = x + self.language_embeddings(languages)
        if spec.token_types_from_words and token_type_ids is not None:
            x = x + self.word_embeddings(token_type_ids)
        x = self.ops.enter(x)
        if spec.embedding_norm:
            x = self.ops.norm(self.LayerNorm, x)
        x = self.dropout(x)
        return x if row_mask is None else x * row_mask.to(x.dtype)


def sinusoids(positions: int, hidden: int) -> Tensor:
    """The fixed table (positions, hidden) of Vaswani et al. 2017: sine in even, cosine in odd columns."""
    column = torch.arange(hidden, dtype=torch.float64)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (2 * (column // 2) / hidden)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def check_ids(name: str, ids: Tensor, limit: int, owner: str) -> None:
    """Refuse ids outside a table before a kernel reads past its end; never inside a compiled graph.

    Raises:
        InputError: names the argument, the place, the value and the limit.
    """
    if in_graph() or type(ids) is not Tensor or ids.is_meta:
        return
    if ids.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise InputError(f"{name} of dtype {ids.dtype}: must be integers")
    if ids.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(ids)).tolist()  # as one: the host waits for a GPU at every reading
    if low < 0 or high >= limit:
        place = torch.nonzero((ids < 0) | (ids >= limit))[0]
        where = tuple(place.tolist())
        raise InputError(f"{name}{list(where)}={int(ids[where])}: must be from 0 to {limit - 1} ({owner})")
