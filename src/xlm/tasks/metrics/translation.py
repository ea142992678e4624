"""BLEU and chrF of translations, by sacrebleu, with the signature that makes a score comparable."""

from __future__ import annotations

from collections.abc import Sequence

from xlm.errors import InputError, MissingExtraError
from xlm.tasks.metrics.measured import aligned


def translation_scores(
    references: Sequence[str], translations: Sequence[str], tokenize: str | None = None
) -> dict[str, float | str]:
    """``bleu`` and ``chrf`` (0 to 100) of a corpus with one reference a line, and sacrebleu's ``signature`` of each.

    Args:
        references: the right translations.
        translations: as many guesses, in order, detokenized.
        tokenize: sacrebleu's tokenizer (``13a`` by default; ``zh``, ``ja-mecab``, ``flores200``, ...).

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
    bleu, chrf = BLEU(tokenize=tokenize), CHRF()
    scores: dict[str, float | str] = {}
    for name, metric in (("bleu", bleu), ("chrf", chrf)):
        scores[name] = metric.corpus_score(list(translations), [list(references)]).score
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores
