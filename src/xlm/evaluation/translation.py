"""Score translations of held-out pairs by direction: BLEU and chrF with intervals, the signatures, and what copying gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xlm.data.parallel import named, read_pairs
from xlm.errors import DataError, InputError
from xlm.evaluation import bleu
from xlm.tasks.metrics.translation import Rated, rate_translations

Progress = Callable[[str, int, int], None]
_AT_ONCE = 256


@dataclass(frozen=True)
class Direction:
    """What was measured in one direction of one file.

    Attributes:
        scores: ``bleu`` and ``chrf`` of the model.
        copying: of the sources taken as their own translations, which is what no model should be below.
        translations: as the model wrote them, in the order of the file.
        note: where BLEU's tokenizer is not the usual one of the target's language, why.
    """

    file: str
    source: str
    target: str
    pairs: int
    scores: dict[str, Rated]
    copying: dict[str, Rated]
    translations: tuple[str, ...]
    note: str | None = None

    def record(self) -> dict[str, Any]:
        """Plain values for JSON, without the translations."""
        values = asdict(self)
        del values["translations"]
        return values


def evaluate_translation(
    engine: Any,
    files: Sequence[str],
    *,
    directions: Sequence[tuple[str, str]] | None = None,
    beams: int = 1,
    tokenize: str | None = None,
    draws: int = 1000,
    limit: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> list[Direction]:
    """Translate pairs and score the translations.

    Args:
        engine: of an encoder-decoder, as ``xlm.load`` gives it.
        files: pairs, ``de-en=test.tsv`` or files whose name begins with the languages.
        directions: to translate in; None: those of the model, or else both.
        beams: 1 is greedy.
        tokenize: sacrebleu's tokenizer; None: the usual one of each target language (:func:`xlm.evaluation.bleu.usual`).
        draws: bootstrap resamples behind the intervals.
        limit: first pairs of every file.

    Raises:
        ConfigError: a file that does not say its languages.
        DataError: it cannot be read, holds a bad row, or its sides have other numbers of lines.
        InputError: a language or direction that the model does not know, a text that is empty or too long, or a tokenizer
            that there is not.
        MissingExtraError: sacrebleu is not installed.
    """
    if not files:
        raise InputError("files: none given: at least one with pairs is needed")
    if tokenize is not None:
        bleu.check(tokenize)
    known = list(directions) if directions is not None else list(engine.directions)
    found: list[Direction] = []
    for given in files:
        languages, path = named(given, 2)
        a, b = languages
        rows, _ = read_pairs(path, languages, limit=limit)
        asked = [way for way in ((a, b), (b, a)) if not known or way in known]
        if not asked:
            ways = ", ".join("-".join(way) for way in known)
            raise InputError(f"{given}: {a}-{b} is no direction of {ways}")
        for source, target in asked:
            words, note = (tokenize, None) if tokenize is not None else bleu.usual(target)
            side = 0 if (source, target) == (a, b) else 1
            texts, references = [row[side] for row in rows], [row[1 - side] for row in rows]
            made: list[str] = []
            for start in range(0, len(texts), _AT_ONCE):
                progress(f"{source}-{target}", start, len(texts))
                made += _translated(engine, texts[start : start + _AT_ONCE], source, target, beams, path, start)
            found.append(
                Direction(
                    Path(path).name,
                    source,
                    target,
                    len(rows),
                    rate_translations(references, made, words, draws),
                    rate_translations(references, texts, words, draws),
                    tuple(made),
                    note,
                )
            )
    return found


def _translated(
    engine: Any, texts: list[str], source: str, target: str, beams: int, path: str, start: int
) -> list[str]:
    try:
        answers = engine.translate(texts, target, source, num_beams=beams)
    except InputError as error:
        message = str(error)
        for index in range(len(texts)):
            message = message.replace(f"texts[{index}]", f"{path}: pair {start + index + 1}, {source}")
        raise (DataError if message != str(error) else InputError)(message) from error
    return [answer["translation"] for answer in answers]
