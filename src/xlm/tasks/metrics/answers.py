"""Exact match and F1 of answers: SQuAD 1.1, SQuAD 2.0 with its no-answer threshold, and MLQA's by language.

Sources: evaluate-v1.1.py and evaluate-v2.0.py of SQuAD, mlqa_evaluation_v1.py of MLQA. XQuAD and TyDiQA-GoldP are scored
by SQuAD 1.1's rules in every language, as their papers do.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from xlm.errors import InputError
from xlm.tasks.metrics.measured import Floats, Measured, aligned, means

_ASCII_PUNCTUATION = frozenset(string.punctuation)
_ENGLISH_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# What MLQA takes out after lower case and punctuation. Arabic: the article wherever its two letters stand together, also
# inside a word; that is what the official script's pattern does, and scores compare only if ours does too.
_ARTICLES: dict[str, re.Pattern[str] | None] = {
    "en": _ENGLISH_ARTICLES,
    "es": re.compile(r"\b(?:un|una|unos|unas|el|la|los|las)\b"),
    "hi": None,
    "vi": re.compile(r"\b(?:của|là|cái|chiếc|những)\b"),
    "de": re.compile(r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "ar": re.compile("ال"),
    "zh": None,
}
MLQA_LANGUAGES = tuple(_ARTICLES)
_HAN = re.compile("[\u4e00-\u9fa5]")

Normalize = Callable[[str], str]


def normalize_squad(answer: str) -> str:
    """Lower case, without ASCII punctuation and English articles, words joined by single spaces."""
    kept = "".join(char for char in answer.lower() if char not in _ASCII_PUNCTUATION)
    return " ".join(_ENGLISH_ARTICLES.sub(" ", kept).split())


def normalize_mlqa(answer: str, language: str) -> str:
    """Lower case, without Unicode's punctuation and the language's articles; Chinese characters stand apart.

    Raises:
        InputError: a language that MLQA does not define.
    """
    if language not in _ARTICLES:
        raise InputError(f"language is {language!r}: MLQA's metric defines {', '.join(MLQA_LANGUAGES)}")
    punctuation = _punctuation()
    kept = "".join(char for char in answer.lower() if char not in punctuation)
    articles = _ARTICLES[language]
    if articles is not None:
        kept = articles.sub(" ", kept)
    if language == "zh":
        kept = _HAN.sub(lambda found: f" {found[0]} ", kept)
    return " ".join(kept.split())


@cache
def _punctuation() -> frozenset[str]:
    every = (chr(code) for code in range(sys.maxunicode))
    return frozenset(char for char in every if unicodedata.category(char)[0] == "P") | _ASCII_PUNCTUATION


def squad(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> Measured:
    """SQuAD 1.1: F1 of words and exact match, each the best over a question's right answers.

    Raises:
        InputError: nothing to score, answers without a question, or a question without a right answer.
    """
    return _scored(gold, predicted, normalize_squad)


def mlqa(gold: Sequence[Sequence[str]], predicted: Sequence[str], language: str) -> Measured:
    """The same with MLQA's rules; ``language`` is the one of the answers, which is the context's."""
    normalize_mlqa("", language)
    return _scored(gold, predicted, lambda answer: normalize_mlqa(answer, language))


def _scored(gold: Sequence[Sequence[str]], predicted: Sequence[str], normalize: Normalize) -> Measured:
    aligned(gold, predicted, "answers")
    for index, answers in enumerate(gold):
        if not answers:
            raise InputError(f"gold[{index}]: no right answer: SQuAD 1.1 and MLQA have none without; use squad_v2")
    pairs = [_best(answers, guess, normalize, strict=True) for answers, guess in zip(gold, predicted, strict=True)]
    return means({"f1": _column(pairs, 0), "exact_match": _column(pairs, 1)})


def squad_v2(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[str],
    no_answer: Sequence[float] | None = None,
    threshold: float = 1.0,
) -> Measured:
    """SQuAD 2.0: questions may have no answer, which the empty text says.

    Args:
        gold: the right answers of each question; none, or only empty ones: unanswerable.
        predicted: one answer a question.
        no_answer: how sure the model is that there is none; an answer above ``threshold`` counts as empty.
        threshold: as ``--na-prob-thresh``.

    Returns:
        ``f1`` and ``exact``; ``details``: both for answerable (``HasAns_``) and other (``NoAns_``) questions, and with
        ``no_answer`` the thresholds that would have been best, with their scores.
    """
    aligned(gold, predicted, "answers")
    wanted = [[answer for answer in answers if normalize_squad(answer)] for answers in gold]
    answerable = np.array([any(answers) for answers in gold])
    pairs = [
        _best(answers or [""], guess, normalize_squad, strict=False)
        for answers, guess in zip(wanted, predicted, strict=True)
    ]
    raw = {"f1": _column(pairs, 0), "exact": _column(pairs, 1)}
    scores = raw
    details: dict[str, Any] = {}
    if no_answer is not None:
        aligned(gold, no_answer, "no-answer probabilities")
        doubt = np.asarray(no_answer, np.float64)
        scores = {name: np.where(doubt > threshold, ~answerable, values) for name, values in raw.items()}
        said = np.array([bool(guess) for guess in predicted])
        for name, values in raw.items():
            details[f"best_{name}"], details[f"best_{name}_thresh"] = _best_threshold(values, doubt, answerable, said)
    for prefix, chosen in (("HasAns", answerable), ("NoAns", ~answerable)):
        if chosen.any():
            details |= {f"{prefix}_{name}": float(100 * values[chosen].mean()) for name, values in scores.items()}
            details[f"{prefix}_total"] = int(chosen.sum())
    return means({name: values.astype(np.float64) for name, values in scores.items()}, details)


def _best_threshold(values: Floats, doubt: Floats, answerable: Any, said: Any) -> tuple[float, float]:
    """The best score over thresholds, in percent, and the first threshold that reaches it, as the official script finds it."""
    order = np.argsort(doubt, kind="stable")
    gains = np.where(answerable, values, np.where(said, -1.0, 0.0))[order]
    total, best, threshold = float((~answerable).sum()), float((~answerable).sum()), 0.0
    for gain, level in zip(gains.tolist(), doubt[order].tolist(), strict=True):
        total += gain
        if total > best:
            best, threshold = total, level
    return 100 * best / len(values), threshold


def _best(answers: Sequence[str], guess: str, normalize: Normalize, *, strict: bool) -> tuple[float, float]:
    """The best F1 and exact match of a guess. ``strict``: two empty answers have an F1 of 0 (1.1), otherwise of 1 (2.0)."""
    said = normalize(guess)
    right = [normalize(answer) for answer in answers]
    return max(_f1(said.split(), answer.split(), strict) for answer in right), float(said in right)


def _f1(said: list[str], answer: list[str], strict: bool) -> float:
    if not strict and not (said and answer):
        return float(said == answer)
    common = sum((Counter(said) & Counter(answer)).values())
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(answer)
    return 2 * precision * recall / (precision + recall)


def _column(pairs: Sequence[tuple[float, float]], at: int) -> Floats:
    return np.array([pair[at] for pair in pairs], np.float64)
