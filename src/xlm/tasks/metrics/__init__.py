"""The official metrics, each verified against the official script on the same predictions.

The functions here return plain numbers, for scoring a development set. The modules return :class:`Measured`, which also
knows every item's share and bootstrap intervals; its scores are percentages.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

import numpy as np

from xlm.tasks.metrics import answers, chunks, classes, ranking
from xlm.tasks.metrics.measured import Measured


def classification_scores(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """``accuracy``, ``macro_f1`` over the labels that occur, and ``mcc`` (Matthews), from 0 (-1) to 1."""
    labels = sorted({*gold, *predicted}, key=str)
    found = _fractions(classes.classes(gold, predicted, labels))
    return {"accuracy": found["accuracy"], "macro_f1": found["macro_f1"], "mcc": found["matthews"]}


def multilabel_scores(
    gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]
) -> dict[str, float]:
    """``micro_f1`` and ``macro_f1`` over the labels that occur, and ``exact``: the share of items with the right set."""
    return _fractions(classes.multilabel(gold, predicted))


def regression_scores(gold: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """``pearson`` and ``spearman`` from -1 to 1 (0 where one side is constant), and ``mse`` in the square of the unit."""
    found = _fractions(classes.correlations(gold, predicted))
    error = float(np.mean((np.asarray(gold, np.float64) - np.asarray(predicted, np.float64)) ** 2))
    return {"pearson": found["pearson"], "spearman": found["spearman"], "mse": error}


def tagging_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """conlleval's ``f1``, ``precision``, ``recall`` of chunks and ``accuracy`` of tags, from 0 to 1.

    Tags without prefixes, such as parts of speech, have ``accuracy`` alone.
    """
    if all(tag == "O" or tag[:2] in ("B-", "I-", "E-", "S-") for tags in gold for tag in tags):
        return _fractions(chunks.chunk_f1(gold, predicted))
    return {"accuracy": _fractions(chunks.tag_accuracy(gold, predicted))["accuracy"]}


def answer_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[str], language: str | None = None
) -> dict[str, float]:
    """``exact_match`` and ``f1`` in percent: MLQA's rules where it defines the language, else SQuAD's.

    A question whose gold is empty, or an empty text alone, has no answer and is scored by SQuAD 2.0's rules.
    """
    if not all(any(texts) for texts in gold):
        found = answers.squad_v2(gold, predicted).scores
        return {"exact_match": found["exact"], "f1": found["f1"]}
    if language in answers.MLQA_LANGUAGES:
        found = answers.mlqa(gold, predicted, language).scores
    else:
        found = answers.squad(gold, predicted).scores
    return {"exact_match": found["exact_match"], "f1": found["f1"]}


def ranking_scores(ranks: Sequence[int]) -> dict[str, float]:
    """``accuracy`` (rank 1) and ``mrr`` (mean reciprocal rank), from 0 to 1; ranks count from 1."""
    return _fractions(ranking.ranking(ranks))


def _fractions(found: Measured) -> dict[str, float]:
    return {name: value / 100 for name, value in found.scores.items()}
