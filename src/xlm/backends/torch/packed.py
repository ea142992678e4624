"""Heads over packed batches: states (tokens, hidden) of sequences that lie end to end -> what each head scores.

    classify, choose    (sequences, labels) and (sequences, 1)
    tag, answer         (tokens, labels) and (tokens, 2)
    no head             the states themselves

The heads are those of the documented classes; only the way to the states that they read is another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xlm.backends.torch.heads import SequenceSummary
from xlm.backends.torch.transfer import host_tensor, upload
from xlm.errors import InputError


def head_scores(model: Any, states_TH: Tensor, lengths: Sequence[int]) -> Tensor:
    """The scores of a model's head.

    Raises:
        InputError: the model has a head that no task reads from packed batches.
    """
    for attribute, score in _HEADS.items():
        if hasattr(model, attribute):
            # Where the encoder computes in less, heads keep float32.
            kind = next(getattr(model, attribute).parameters(), states_TH).dtype
            cast = states_TH if torch.is_autocast_enabled(states_TH.device.type) else states_TH.to(kind)
            return score(model, cast, lengths)
    raise InputError(f"{type(model).__name__}: its head does not score packed batches")


def rows_read(model: Any, lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """The tokens that a model's head reads, one a sequence: indices (sequences,); None where it reads every token.

    States of these alone are scored as sequences of one token each.
    """
    starts = _starts(lengths, device)
    summary = getattr(model, "sequence_summary", None)
    if summary is not None:
        if summary.kind == "mean":
            return None
        return starts if summary.kind == "first" else starts + upload(host_tensor(lengths), device) - 1
    if not hasattr(model, "classifier") or (
        hasattr(model, "dropout") and getattr(model.roberta, "pooler", None) is None
    ):
        return None
    return starts


def first_tokens(states_TH: Tensor, lengths: Sequence[int]) -> Tensor:
    """The state of every sequence's first token: (sequences, hidden)."""
    return states_TH.index_select(0, _starts(lengths, states_TH.device))


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    sizes = host_tensor(lengths)
    return upload(sizes.cumsum(0) - sizes, device)


def _summarised(summary: SequenceSummary, states_TH: Tensor, lengths: Sequence[int]) -> Tensor:
    """One vector a sequence, (sequences, hidden or labels), by the summary's kind."""
    starts = _starts(lengths, states_TH.device)
    sizes = upload(host_tensor(lengths), states_TH.device)
    if summary.kind == "first":
        rows = states_TH.index_select(0, starts)
    elif summary.kind == "mean":
        order = torch.arange(len(lengths), device=states_TH.device)
        of = torch.repeat_interleave(order, sizes, output_size=states_TH.shape[0])
        total = states_TH.new_zeros(len(lengths), states_TH.shape[1]).index_add(0, of, states_TH)
        rows = total / sizes[:, None].to(total.dtype)
    else:
        rows = states_TH.index_select(0, starts + sizes - 1)
    return summary(rows[:, None])


def _qa(model: Any, states_TH: Tensor, lengths: Sequence[int]) -> Tensor:
    if not isinstance(model.qa_outputs, torch.nn.Module) or hasattr(model.qa_outputs, "search"):
        raise InputError(f"{type(model).__name__} searches with a beam: use the class with simple start and end scores")
    return model.qa_outputs(states_TH)


def _choices(model: Any, states_TH: Tensor, lengths: Sequence[int]) -> Tensor:
    return model.logits_proj(_summarised(model.sequence_summary, states_TH, lengths))


def _classifier(model: Any, states_TH: Tensor, lengths: Sequence[int]) -> Tensor:
    """A classifier reads pooled states, the first token, or every token: as its class was built."""
    pooler = getattr(model.roberta, "pooler", None)
    if pooler is not None:
        return model.classifier(model.dropout(pooler(first_tokens(states_TH, lengths)[:, None])))
    if hasattr(model, "dropout"):
        return model.classifier(model.dropout(states_TH))
    return model.classifier(first_tokens(states_TH, lengths)[:, None])


# The attribute that a head stands under -> how it is read; the first that a model has counts.
_HEADS: dict[str, Callable[[Any, Tensor, Sequence[int]], Tensor]] = {
    "qa_outputs": _qa,
    "logits_proj": _choices,
    "sequence_summary": lambda model, states, lengths: _summarised(model.sequence_summary, states, lengths),
    "classifier": _classifier,
}
