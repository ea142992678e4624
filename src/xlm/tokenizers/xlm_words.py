"""XLM's words, language by language: Moses for most, another segmenter for Chinese, Japanese and Thai."""

from __future__ import annotations

import importlib
import os
import re
import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np

from xlm.errors import CheckpointError, MissingExtraError
from xlm.tokenizers import moses
from xlm.tokenizers.aligned import Aligned, join

# Comma and cedilla below, breve, circumflex: Romanian as the models saw it.
_ROMANIAN = str.maketrans("ŞşŢţȘșȚțĂăÂâÎî", "SsTtSsTtAaAaIi")
# The marks that Latin letters are written with.
_MARKS = re.compile("[\u0300-\u036f\u0483-\u0487]")
_MANY = 2_000


def _package(name: str, lang: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"lang={lang!r}", name, lang) from error


def printable(text: Any) -> Any:
    """Without control, format, private, surrogate and unassigned characters; newlines and tabs are such."""
    string = moses.plain(text)
    if string.isprintable():
        return text
    if isinstance(text, str):
        for char in {char for char in set(text) if unicodedata.category(char)[0] == "C"}:
            text = text.replace(char, "")
        return text
    return text.keep(lambda char: unicodedata.category(char)[0] != "C")


def pipeline(text: Any, lang: str) -> Any:
    """Punctuation normalised, unprintable characters gone."""
    return printable(moses.normalize_punctuation(moses.replace_unicode_punctuation(text), lang))


@lru_cache(maxsize=2)
def _kytea(model: str) -> Any:
    package = _package("Mykytea", "ja")
    try:
        return package.Mykytea(f"-model {model}")
    except RuntimeError as error:
        raise CheckpointError(
            f"lang='ja' needs a model of KyTea: {error}; KYTEA_MODEL names its file (phontron.com/kytea has some)"
        ) from error


def _locate(text: Any, words: list[str]) -> list[Any]:
    """Words that another package found, as stretches of ``text``; they come in order, white space between them may be lost."""
    if isinstance(text, str):
        return words
    found: list[Any] = []
    at = 0
    for word in words:
        begin = text.text.find(word, at)
        begin = at if begin < 0 else begin
        found.append(Aligned(word, text.spans[begin : begin + len(word)]))
        at = begin + len(word)
    return found


_OWN_SPLITTERS = ("zh", "ja", "th")


def _romanian(text: Any, lang: str) -> Any:
    if lang != "ro":
        return text
    return text.translate(_ROMANIAN) if isinstance(text, str) else text.each(lambda char: char.translate(_ROMANIAN))


def chunks(text: str, lang: str) -> list[str] | None:
    """:meth:`xlm.tokenizers.moses.Tokenizer.chunks` of the text, None where it has to be :func:`segmented` as a whole."""
    if lang in _OWN_SPLITTERS:
        return None
    return moses.tokenizer(lang).chunks(_romanian(pipeline(text, lang), lang))


def segmented(text: Any, lang: str) -> list[Any]:
    """The words of ``text``; ``MissingExtraError`` names the extra that a language needs."""
    if lang == "zh":
        words = _locate(text, list(_package("jieba", "zh").cut(moses.plain(text))))
        joined = pipeline(" ".join(words) if isinstance(text, str) else join(words), lang)
        return joined.split() if isinstance(joined, str) else joined.words()
    text = pipeline(text, lang)
    if lang == "th":
        return _locate(text, list(_package("pythainlp.tokenize", "th").word_tokenize(moses.plain(text))))
    if lang == "ja":
        model = os.environ.get("KYTEA_MODEL", os.path.expanduser("~/local/share/kytea/model.bin"))
        return _locate(text, list(_kytea(model).getWS(moses.plain(text))))
    return moses.tokenizer(lang).words(_romanian(text, lang))


def lower(text: str) -> str:
    """Character by character: a sigma is never taken for a final one."""
    return (text.replace("Σ", "σ") if "Σ" in text else text).lower()


def strip_accents(words: list[Any]) -> list[Any]:
    """Words joined, lowercased, decomposed, without nonspacing marks, and taken apart at spaces again."""
    if not words or isinstance(words[0], str):
        return without_accents(" ".join(words)).split(" ")
    # A letter stands for the marks that it loses, too.
    text = join(words).lower().decompose().keep(lambda char: unicodedata.category(char) != "Mn", joined=True).lower()
    return text.words(" ")


def without_accents(text: str) -> str:
    """Lower case, decomposed, without nonspacing marks."""
    text = text.lower()
    if text.isascii():
        return text
    text = unicodedata.normalize("NFD", text)
    if (latin := _MARKS.sub("", text)).isascii():
        return latin.lower()
    if len(text) < _MANY:
        return "".join([c for c in text if c < "\u0300" or unicodedata.category(c) != "Mn"]).lower()
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    there = np.flatnonzero(np.bincount(codes))
    gone = np.zeros(int(there[-1]) + 1, bool)
    gone[[code for code in there.tolist() if unicodedata.category(chr(code)) == "Mn"]] = True
    return codes[~gone[codes]].tobytes().decode("utf-32-le").lower()
