"""Vectors of texts, trained so that texts that belong together lie together: a bi-encoder with negatives in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from xlm.errors import InputError
from xlm.tasks.base import Features, Item, Scores, Task, bare, joined, need_finite
from xlm.tasks.examples import PairExample
from xlm.tasks.retrieve import normalized


@dataclass(frozen=True)
class Embed(Task):
    """How vectors are made of states, and how sharply candidates compete."""

    pooling: Literal["mean", "cls", "max"] = "mean"
    temperature: float = 0.05

    name: ClassVar[str] = "embed"
    head: ClassVar[str] = "Model"
    metric: ClassVar[str] = "accuracy"
    scores: ClassVar[tuple[str, ...]] = ("accuracy", "mrr")

    def features(
        self, examples: Sequence[PairExample], tokenizer: Any, max_tokens: int, training: bool = False
    ) -> Features:
        """An item of the text's row, its partner's, and those of the negatives.

        Raises:
            InputError: while training, a pair with a score below 0.5: it is no partner.
        """
        found = Features()
        columns = [[e.text, e.other, *e.negatives] for e in examples]
        rows = iter(bare(tokenizer, [text for column in columns for text in column]))
        for number, (example, column) in enumerate(zip(examples, columns, strict=True)):
            if training and example.score is not None and example.score < 0.5:
                raise InputError(
                    f"example {example.id or number}: score is {example.score}: embeddings are trained on pairs that "
                    "belong together (0.5 and above); give others as negatives"
                )
            made = [joined(tokenizer, next(rows), None, max_tokens) for _ in column]
            found.items.append(Item(number, tuple(row for row, _, _ in made), number))
            found.lengths.append(max(whole for _, whole, _ in made))
            found.cut |= {number} if any(cut for _, _, cut in made) else set()
        return found

    def answers(self, examples: Sequence[PairExample], features: Features, scores: Sequence[Scores]) -> list[Any]:
        """For every example the rank (from 1) of its partner among the partners of all examples, by cosine; a text that
        is the partner's twin does not count."""
        from xlm.tasks.metrics.ranking import partner_ranks

        need_finite(scores)
        texts = normalized(np.stack([score[0] for score in scores]))
        others = normalized(np.stack([score[1] for score in scores]))
        ranks, _ = partner_ranks(lambda start, end: texts[start:end] @ others.T, [e.other for e in examples])
        return ranks.tolist()

    def evaluate(self, examples: Sequence[PairExample], answers: Sequence[Any]) -> dict[str, float]:
        """How often the partner is the nearest, and the mean reciprocal rank."""
        from xlm.tasks import metrics

        return metrics.ranking_scores(answers)
