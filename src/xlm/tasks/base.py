"""What every task is: examples -> items of rows for the encoder, and the head's scores for them -> answers.

No framework here. Training and the engine run the same two conversions, so what was scored on the development set is what
a user gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xlm.errors import CheckpointError
from xlm.tokenizers.options import TruncationStrategy
from xlm.tokenizers.truncate import fast_plan

Ids = NDArray[np.int64]
Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Item:
    """What is scored as a whole: the ``rows`` of ids of one example, or of one window of it, and what is right there."""

    example: int
    rows: tuple[Ids, ...]
    target: Any = None
    start: int = 0
    """Where a window begins in its text, in tokens."""

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row) for row in self.rows)


@dataclass
class Features:
    """The items of a list of examples, in their order, and what the conversion noticed."""

    items: list[Item] = field(default_factory=list)
    cut: set[int] = field(default_factory=set)
    """Numbers of the examples of which a part was cut off."""
    lengths: list[int] = field(default_factory=list)
    """Tokens of every example before anything was cut, special ones included."""
    details: list[Any] = field(default_factory=list)
    """What a task needs to turn scores back into places of the text, one an example."""


class Task:
    """Abstract: one kind of question about texts.

    ``head`` is how the documented class ends that answers it; ``scores`` are the names that ``evaluate`` gives,
    ``metric`` is the one of them that chooses among checkpoints.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    metric: ClassVar[str]
    scores: ClassVar[tuple[str, ...]]
    labels: tuple[str, ...] = ()

    def features(self, examples: Sequence[Any], tokenizer: Any, max_tokens: int, training: bool = False) -> Features:
        """Items of at most ``max_tokens`` tokens a row; while ``training`` with their targets."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def answers(self, examples: Sequence[Any], features: Features, scores: Sequence[Scores]) -> list[Any]:
        """One answer an example, from the head's scores of every item: what each task says."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def evaluate(self, examples: Sequence[Any], answers: Sequence[Any]) -> dict[str, float]:
        """How good the answers are: ``scores`` with their values."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def counts(self, examples: Sequence[Any]) -> Mapping[str, int]:
        """How often each label occurs, for the report and for class weights; empty where there are no classes."""
        return {}


def bare(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of every text without special tokens."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def joined(
    tokenizer: Any, first: Sequence[int], second: Sequence[int] | None, max_tokens: int
) -> tuple[Ids, int, bool]:
    """A row of one or two texts with special tokens, its length before it was cut to ``max_tokens``, and whether it was.

    The longer text of a pair is cut first, from its end.
    """
    added = tokenizer.num_special_tokens_to_add(second is not None)
    size = None if second is None else len(second)
    plan = fast_plan(len(first), size, max_tokens - added, TruncationStrategy.LONGEST_FIRST, 0, "right")
    kept = list(first[slice(*plan.first)])
    other = None if second is None or plan.second is None else list(second[slice(*plan.second)])
    row = np.asarray(tokenizer.build_inputs_with_special_tokens(kept, other), np.int64)
    whole = len(first) + (size or 0) + added
    return row, whole, whole > len(row)


def before_second(tokenizer: Any, first: int) -> int:
    """Where the second text's tokens begin in a row whose first text has ``first`` tokens."""
    return tokenizer.TEMPLATE.spread([0] * first, [1], True, None).index(1)


def before_first(tokenizer: Any) -> int:
    """Where a single text's tokens begin in its row."""
    return tokenizer.TEMPLATE.spread([0], None, True, None).index(0)


def softmax(scores: Scores) -> NDArray[np.float64]:
    """Over the last axis, in float64."""
    wide = np.asarray(scores, np.float64)
    wide = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return wide / wide.sum(axis=-1, keepdims=True)


def sigmoid(scores: Scores) -> NDArray[np.float64]:
    """Without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(scores, np.float64)))


def need_finite(scores: Sequence[Scores]) -> None:
    """Raise CheckpointError when a model's scores are not numbers: its weights are damaged."""
    if any(not np.isfinite(score).all() for score in scores):
        raise CheckpointError("the model's scores are not finite: its weights are damaged")
