"""BLEU and chrF of translations, by sacrebleu, with the signature that makes a score comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xlm.errors import InputError, MissingExtraError
from xlm.tasks.metrics.measured import aligned


@dataclass(frozen=True)
class Rated:
    """A corpus' score from 0 to 100, its bootstrap interval (95 %), and sacrebleu's signature of how it was computed."""

    score: float
    interval: tuple[float, float]
    signature: str


def rate_translations(
    references: Sequence[str], translations: Sequence[str], tokenize: str | None = None, draws: int = 1000
) -> dict[str, Rated]:
    """``bleu`` and ``chrf`` of a corpus with one reference a line.

    Args:
        references: the right translations.
        translations: as many guesses, in order, detokenized.
        tokenize: sacrebleu's tokenizer (``13a`` by default; ``zh``, ``ja-mecab``, ``flores200``, ...).
        draws: resamples of the corpus that the interval is of; 1: none, the interval is the score.

    Raises:
        InputError: an empty corpus, other lengths, or an unknown tokenizer.
        MissingExtraError: sacrebleu is not installed.
    """
    aligned(references, translations, "translations")
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingExtraError("scoring translations", "sacrebleu", "eval") from error
    if tokenize is not None and tokenize not in BLEU.TOKENIZERS:
        raise InputError(f"tokenize is {tokenize!r}: sacrebleu has {', '.join(sorted(BLEU.TOKENIZERS))}")
    found: dict[str, Rated] = {}
    for name, metric in (("bleu", BLEU(tokenize=tokenize)), ("chrf", CHRF())):
        made = metric.corpus_score(list(translations), [list(references)], n_bootstrap=draws)
        middle, half = (made._mean, made._ci) if draws > 1 else (made.score, 0.0)
        signature = str(metric.get_signature())
        found[name] = Rated(float(made.score), (float(middle - half), float(middle + half)), signature)
    return found


def translation_scores(
    references: Sequence[str], translations: Sequence[str], tokenize: str | None = None
) -> dict[str, float | str]:
    """:func:`rate_translations` without intervals: ``bleu`` and ``chrf``, and ``bleu_signature`` and ``chrf_signature``."""
    scores: dict[str, float | str] = {}
    for name, rated in rate_translations(references, translations, tokenize, draws=1).items():
        scores |= {name: rated.score, f"{name}_signature": rated.signature}
    return scores
