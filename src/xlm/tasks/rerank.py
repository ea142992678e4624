"""How well documents fit a query: a cross-encoder reads both at once and gives one score, a logit of relevance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from xlm.tasks.base import Features, Item, Scores, Task, bare, joined, need_finite, sigmoid
from xlm.tasks.examples import PairExample


@dataclass(frozen=True)
class Rerank(Task):
    """Each pair is one row; an example's ``other`` has its score (1 where it has none), its negatives have 0."""

    name: ClassVar[str] = "rerank"
    head: ClassVar[str] = "ForSequenceClassification"
    metric: ClassVar[str] = "mrr"
    scores: ClassVar[tuple[str, ...]] = ("mrr", "accuracy")

    def features(
        self, examples: Sequence[PairExample], tokenizer: Any, max_tokens: int, training: bool = False
    ) -> Features:
        """An item of one row a document; targets are the relevance from 0 to 1."""
        found = Features()
        unique = list(dict.fromkeys(example.text for example in examples))  # one query often has many documents
        queries = dict(zip(unique, bare(tokenizer, unique), strict=True))
        documents = iter(bare(tokenizer, [text for e in examples for text in (e.other, *e.negatives)]))
        for number, example in enumerate(examples):
            scores = [1.0 if example.score is None else example.score, *(0.0 for _ in example.negatives)]
            wholes = []
            cuts = []
            for score in scores:
                row, whole, cut = joined(tokenizer, queries[example.text], next(documents), max_tokens)
                found.items.append(Item(number, (row,), score if training else None))
                wholes.append(whole)
                cuts.append(cut)
            found.lengths.append(max(wholes))
            found.cut |= {number} if any(cuts) else set()
        return found

    def answers(
        self, examples: Sequence[PairExample], features: Features, scores: Sequence[Scores], raw: bool = False
    ) -> list[Any]:
        """For every example the relevance from 0 to 1 of its document and of its negatives; ``raw``: their logits."""
        need_finite(scores)
        found: list[list[float]] = [[] for _ in examples]
        for item, score in zip(features.items, scores, strict=True):
            found[item.example].append(float(logit(score) if raw else relevance(score)))
        return found

    def evaluate(self, examples: Sequence[PairExample], answers: Sequence[Any]) -> dict[str, float]:
        """The mean reciprocal rank of the right documents, and how often one comes first; queries with one document
        alone, or with no right one, are not counted. Ties count against the right document."""
        from xlm.tasks import metrics

        of_query: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        for example, scores in zip(examples, answers, strict=True):
            right = example.score is None or example.score >= 0.5
            of_query[example.text].append((scores[0], right))
            of_query[example.text] += [(score, False) for score in scores[1:]]
        ranks = []
        for found in of_query.values():
            wrong = [score for score, right in found if not right]
            best = max((score for score, right in found if right), default=None)
            if wrong and best is not None:
                ranks.append(1 + sum(score >= best for score in wrong))
        return metrics.ranking_scores(ranks)


def relevance(score: Scores) -> Any:
    """A score from 0 to 1: of one logit its sigmoid, of two the probability of the second class."""
    return sigmoid(logit(score))


def logit(score: Scores) -> Any:
    """The relevance before it is squashed: one logit itself, of two the second's lead."""
    return score[0] if len(score) == 1 else score[-1] - score[0]
