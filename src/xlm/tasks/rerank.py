"""How well documents fit a query: a cross-encoder reads both at once and gives one score, a logit of relevance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from xlm.tasks.base import Features, Item, Scores, Task, bare, joined, need_finite, sigmoid
from xlm.tasks.examples import PairExample, RankedExample


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
        """The mean reciprocal rank of the right documents, and how often one comes first; queries with right documents
        alone, or with no right one, are not counted. Ties count against the right document."""
        from xlm.tasks.metrics.ranking import judged, ranked_lists

        given = {
            (example.text, text): score
            for example, scores in zip(examples, answers, strict=True)
            for text, score in zip((example.other, *example.negatives), scores, strict=True)
        }
        lists = [one for one in lists_of(examples) if judged(one.gains)]
        scores = [[given[one.query, text] for text in one.documents] for one in lists]
        found = ranked_lists([one.gains for one in lists], scores).scores
        return {name: found[name] / 100 for name in self.scores}


def lists_of(examples: Sequence[PairExample]) -> list[RankedExample]:
    """Every query once, in the order of the examples, with all its documents; one that is given twice has its better gain."""
    gains: dict[str, dict[str, float]] = {}
    first: dict[str, PairExample] = {}
    for example in examples:
        of = gains.setdefault(first.setdefault(example.text, example).text, {})
        own = 1.0 if example.score is None else example.score
        for text, gain in ((example.other, own), *((text, 0.0) for text in example.negatives)):
            of[text] = max(gain, of.get(text, 0.0))
    return [
        RankedExample(query, tuple(of), tuple(of.values()), first[query].language, first[query].id)
        for query, of in gains.items()
    ]


def relevance(score: Scores) -> Any:
    """A score from 0 to 1: of one logit its sigmoid, of two the probability of the second class."""
    return sigmoid(logit(score))


def logit(score: Scores) -> Any:
    """The relevance before it is squashed: one logit itself, of two the second's lead."""
    return score[0] if len(score) == 1 else score[-1] - score[0]
