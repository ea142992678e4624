"""Language modelling on one's own text: masked (``fill``) or left to right (``generate``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xlm.batches.packing import complete_blocks
from xlm.tasks.base import Features, Item, Scores, Task, bare, before_first
from xlm.tasks.examples import TextExample


@dataclass(frozen=True)
class LanguageTask(Task):
    """Abstract: lines of text, laid end to end and cut into rows of whole lines."""

    metric: ClassVar[str] = "loss"
    scores: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "top1")

    def features(
        self, examples: Sequence[TextExample], tokenizer: Any, max_tokens: int, training: bool = False
    ) -> Features:
        """Rows of up to ``max_tokens``, each under the number of its first line; the target is where ordinary tokens stand,
        ``[first, last)``."""
        found = Features()
        lines = bare(tokenizer, [example.text for example in examples])
        special = tokenizer.num_special_tokens_to_add()
        ids = [token for line in lines for token in line]
        offsets = np.cumsum([0, *(len(line) for line in lines)])
        at = before_first(tokenizer)
        found.lengths = [len(line) + special for line in lines]
        if ids:
            for start, end in complete_blocks(offsets, max_tokens - special).tolist():
                row = np.asarray(tokenizer.build_inputs_with_special_tokens(ids[start:end]), np.int64)
                first = int(np.searchsorted(offsets, start, side="right")) - 1
                found.items.append(Item(first, (row,), (at, at + end - start)))
        return found

    def answers(self, examples: Sequence[TextExample], features: Features, scores: Sequence[Scores]) -> list[Any]:
        """``(summed loss, right predictions, predictions)`` of every item, as they are."""
        return [tuple(float(value) for value in score) for score in scores]

    def evaluate(self, examples: Sequence[TextExample], answers: Sequence[Any]) -> dict[str, float]:
        """Nats and right predictions a token, and the perplexity."""
        loss, right, count = (sum(column) for column in zip(*answers, strict=True))
        count = max(count, 1)
        return {"loss": loss / count, "perplexity": float(np.exp(min(loss / count, 700.0))), "top1": right / count}


@dataclass(frozen=True)
class Fill(LanguageTask):
    """Masked tokens from both sides."""

    rate: float = 0.15
    """The share of tokens that is masked."""

    name: ClassVar[str] = "fill"
    head: ClassVar[str] = "ForMaskedLM"


@dataclass(frozen=True)
class Generate(LanguageTask):
    """Every token from those before it."""

    name: ClassVar[str] = "generate"
    head: ClassVar[str] = "ForCausalLM"
