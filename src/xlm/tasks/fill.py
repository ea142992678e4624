"""Fill-in-the-blank: where a text's masks are, and what a language model's logits say belongs there. No framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xlm.errors import CheckpointError, InputError
from xlm.tasks.base import need_finite

WORD_START = "▁"
"""What SentencePiece writes for the space before a word."""
WORD_END = "</w>"
"""What XLM's byte-pair encoding writes at the end of a word."""


@dataclass(frozen=True)
class Masked:
    """A tokenized text with masks: ``ids`` (tokens,), the masks' ``positions`` in it and their ``spans`` in the text."""

    text: str
    ids: list[int]
    positions: list[int]
    spans: list[tuple[int, int]]


def find_masks(
    text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], mask_id: int, mask_token: str, where: str
) -> Masked:
    """The masks of a tokenized text; ``offsets`` are the tokens' places in ``text``, ``where`` names it in the error.

    Raises:
        InputError: there is no mask among the ids.
    """
    positions = [position for position, token_id in enumerate(ids) if token_id == mask_id]
    if not positions:
        raise InputError(f"{where}: no {mask_token} in {shorten(text)!r}: at least one {mask_token} is needed")
    return Masked(text, list(ids), positions, [_trim(text, *offsets[position]) for position in positions])


def answers(masked: Masked, logits: NDArray[np.floating], tokens: list[str], top_k: int) -> list[list[dict[str, Any]]]:
    """The ``top_k`` most probable tokens of every mask, best first.

    Args:
        masked: the text.
        logits: (masks, vocabulary), one row a mask.
        tokens: the token of every id; ids beyond it (rows that only pad the table) are never an answer.
        top_k: how many; more than there are tokens means all.

    Returns:
        For every mask a list of ``{"token", "id", "probability", "text"}``: the token as the vocabulary writes it, and the
        text with this mask filled. Probabilities are over the whole vocabulary, so they need not add up to one.
    """
    return described(masked, *top(np.asarray(logits), min(top_k, len(tokens)), len(tokens)), tokens)


def described(
    masked: Masked, ids: NDArray[np.integer], probabilities: NDArray[np.floating], tokens: list[str]
) -> list[list[dict[str, Any]]]:
    """:func:`answers` of the ids and probabilities (masks, top_k) that :func:`top` finds.

    Raises:
        CheckpointError: probabilities that are not numbers.
    """
    need_finite([probabilities])
    return [
        [
            {
                "token": tokens[token_id],
                "id": token_id,
                "probability": probability,
                "text": fill(masked.text, span, tokens[token_id]),
            }
            for token_id, probability in zip(row_ids.tolist(), row_probabilities.tolist(), strict=True)
        ]
        for span, row_ids, row_probabilities in zip(masked.spans, ids, probabilities, strict=True)
    ]


def top(
    logits: NDArray[np.floating], count: int, limit: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and probabilities (rows, count) of the largest logits, largest first, the lower id first among equals.

    The softmax runs over all columns in float64; only ids below ``limit`` are chosen.

    Raises:
        CheckpointError: a logit is not a number.
    """
    if np.isnan(logits).any():
        raise CheckpointError(
            f"logits: {int(np.isnan(logits).sum())} of {logits.size} are NaN: the model's weights are damaged"
        )
    wide = logits.astype(np.float64)
    weights = np.exp(wide - wide.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    wide = wide[:, :limit]
    count = min(count, wide.shape[1])
    ids = np.empty((len(wide), count), np.int64)
    for row, values in enumerate(wide):
        # Everything from the count-th largest value up, so that equals are there in full before the sort breaks the tie.
        candidates = np.flatnonzero(values >= np.partition(values, -count)[-count])
        ids[row] = candidates[np.argsort(-values[candidates], kind="stable")[:count]]
    return ids, np.take_along_axis(weights, ids, axis=-1)


def fill(text: str, span: tuple[int, int], token: str) -> str:
    """The text with ``span`` replaced by a token's surface: its own space before it, or joined to what stands there.

    >>> fill("Paris is the <mask> of France.", (13, 19), "▁capital")
    'Paris is the capital of France.'
    >>> fill("Paris is the <mask> of France.", (13, 19), "s")
    'Paris is thes of France.'
    """
    before, after = text[: span[0]], text[span[1] :]
    if token.startswith(WORD_START):
        gap = "" if not before or before[-1].isspace() else " "
        return before + gap + token.replace(WORD_START, " ").strip() + after
    if token.endswith(WORD_END):
        return before + token.removesuffix(WORD_END) + after
    return before.rstrip() + token + after


def surface(token: str) -> str:
    """What a reader sees of a token: without the marks of word start and end; the bare mark stays visible."""
    return token.replace(WORD_START, " ").removesuffix(WORD_END).strip() or token


def shorten(text: str, limit: int = 80) -> str:
    """The text, or its beginning when it is longer than ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space that the mask swallowed on its left."""
    while start < end and text[start].isspace():
        start += 1
    return start, end
