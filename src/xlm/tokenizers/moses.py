"""Moses' punctuation normaliser and tokenizer, as XLM's models were trained with them.

Written from the rules of ``normalize-punctuation.perl``, ``replace-unicode-punctuation.perl`` and ``tokenizer.perl``
(statmt.org/moses) as sacremoses applies them; sacremoses is the oracle of the tests, quirks included. Every rule is a
``(needed, pattern, replacement)``: text that has none of the needed strings cannot match, and most text has none of them.
Each function takes plain text, or :class:`Aligned` text and then keeps where every character came from.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, TypeVar

from xlm.tokenizers.aligned import Aligned, join

Text = TypeVar("Text", str, Aligned)
Rule = tuple[tuple[str, ...], re.Pattern[str], str]


def plain(text: str | Aligned) -> str:
    """The characters alone."""
    return text if isinstance(text, str) else text.text


def apply(text: Text, rules: Sequence[Rule]) -> Text:
    """Apply the rules in order."""
    string = plain(text)
    for needed, pattern, replacement in rules:
        for part in needed:
            if part in string:
                text = pattern.sub(replacement, text) if isinstance(text, str) else text.sub(pattern, replacement)
                string = plain(text)
                break
    return text


def _rules(*given: tuple[str | tuple[str, ...], str, str]) -> tuple[Rule, ...]:
    """Rules from ``(needed, pattern, replacement)``; a string is needed as a whole, of several one is enough."""
    return tuple(
        ((needed,) if isinstance(needed, str) else needed, re.compile(pattern), replacement)
        for needed, pattern, replacement in given
    )


_NBSP = "\u00a0"

# ---- replace-unicode-punctuation -------------------------------------------------------------------------------------
_STOPS = _rules(("。", r"。\s*", ". "))
_PUNCT = str.maketrans(
    {
        **dict(zip("，、∶：？）！（；～’━〈〉【】％", ",,::?)!(;~'-<>[]%", strict=True)),
        **dict.fromkeys("”“《》」「", '"'),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        "…": "...",
    }
)
_WIDE_STOP = _rules(("．", r"．\s*", ". "))
_ANY_PUNCT = re.compile("[" + "".join(map(re.escape, map(chr, _PUNCT))) + "]")


def replace_unicode_punctuation(text: Text) -> Text:
    """Full-width and typographic punctuation to ASCII."""
    if plain(text).isascii():
        return text
    text = apply(text, _STOPS)
    if isinstance(text, str):
        text = _ANY_PUNCT.sub(lambda match: _PUNCT[ord(match[0])], text)
    else:
        text = text.sub(_ANY_PUNCT, lambda match: _PUNCT[ord(match[0])])
    return apply(text, _WIDE_STOP)


# ---- normalize-punctuation -------------------------------------------------------------------------------------------
_SPACE = ("  ", r"  +", " ")
_NORMALIZE = _rules(
    ("\r", r"\r", ""), ("(", r"\(", " ("), (")", r"\)", ") "), _SPACE, (")", r"\) ([.!:?;,])", r")\1"), ("(", r"\( ", "("),
    (")", r" \)", ")"), ("%", r"(\d) %", r"\1%"), (":", " :", ":"), (";", " ;", ";"), ("`", "`", "'"), ("'", "''", ' " '),
    (tuple("„“”"), "[„“”]", '"'), ("–", "–", "-"), ("—", "—", " - "), _SPACE, ("´", "´", "'"),
    ("‘", "([a-zA-Z])‘([a-zA-Z])", r"\1'\2"), ("’", "([a-zA-Z])’([a-zA-Z])", r"\1'\2"), (tuple("‘‚’"), "[‘‚’]", "'"),
    ("'", "''", '"'), ("…", "…", "..."),
    ("«", f"{_NBSP}«{_NBSP}", '"'), ("«", f"«{_NBSP}", '"'), ("«", "«", '"'),
    ("»", f"{_NBSP}»{_NBSP}", '"'), ("»", f"{_NBSP}»", '"'), ("»", "»", '"'),
    (_NBSP, f"{_NBSP}%", "%"), (_NBSP, f"nº{_NBSP}", "nº "), (_NBSP, f"{_NBSP}:", ":"), (_NBSP, f"{_NBSP}ºC", " ºC"),
    (_NBSP, f"{_NBSP}cm", " cm"), (_NBSP, rf"{_NBSP}\?", "?"), (_NBSP, f"{_NBSP}!", "!"), (_NBSP, f"{_NBSP};", ";"),
    (_NBSP, f",{_NBSP}", ", "), _SPACE,
)  # fmt: skip
_QUOTES = {
    "en": _rules(('"', r'"([,.]+)', r'\1"')),
    **dict.fromkeys(("de", "es", "fr"), _rules(('"', ',"', '",'), ('"', r'(\.+)"(\s*[^<])', r'"\1\2'))),
}
_THOUSANDS = _rules((_NBSP, rf"(\d){_NBSP}(\d)", r"\1,\2")), _rules((_NBSP, rf"(\d){_NBSP}(\d)", r"\1.\2"))


def normalize_punctuation(text: Text, lang: str) -> Text:
    """Spaces, quotes, dashes and number separators as the language has them."""
    text = apply(text, _NORMALIZE)
    text = apply(text, _QUOTES.get(lang, ()))
    return apply(text, _THOUSANDS[lang not in ("de", "es", "cz", "cs", "fr")]).strip()


# ---- the tokenizer ---------------------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def _characters() -> dict[str, list[tuple[int, int]]]:
    """The runs of code points of every class in ``characters.txt``."""
    classes: dict[str, list[tuple[int, int]]] = {}
    for line in resources.files("xlm.assets").joinpath("moses/characters.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, _, runs = line.partition(": ")
        at, found = 0, []
        for run in runs.split():
            gap, _, extra = run.partition(".")
            low = at + int(gap, 36)
            at = low + (int(extra, 36) if extra else 0)
            found.append((low, at))
        classes[name] = found
    return classes


def _class(*names: str) -> str:
    """The classes as the inside of brackets."""
    runs = [run for name in names for run in _characters()[name]]
    return "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in runs if high <= sys.maxunicode)


@lru_cache(maxsize=1)
def _prefixes() -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """``lang -> (abbreviations, those that hold before numbers only)``."""
    found: dict[str, list[str]] = {}
    for line in resources.files("xlm.assets").joinpath("moses/prefixes.txt").read_text("utf-8").splitlines():
        head, _, words = line.partition(": ")
        if not line.startswith("#"):
            found.setdefault(head.split()[0], []).extend(words.split())
    return {
        lang: (
            frozenset(word for word in words if not word.endswith("#")),
            frozenset(word[:-1] for word in words if word.endswith("#")),
        )
        for lang, words in found.items()
    }


_DOTS = re.compile(r"\.{2,}")
_MARKER = re.compile("(?:DOT)+MULTI")
_TO_ONE_SPACE: Rule = (("",), re.compile(r"\s\s+|[^\S ]"), " ")
_JUNK: Rule = (("",), re.compile("[\x00-\x1f]"), "")
_FINAL_QUOTE = _rules(("'", r"\.' ?$", " . ' "))


class Tokenizer:
    """Words of one language; without rules of its own a language has the English abbreviations."""

    def __init__(self, lang: str) -> None:
        extra = ("hangul",) if lang == "ko" else ()
        alpha, number = _class("alpha", *extra), _class("number")
        alnum = _class("alpha", "digit", *extra)
        self._alpha = re.compile(f"[{alpha}]")
        self._lower = re.compile(f"[{_class('lower')}]")
        self._abbreviations, self._before_numbers = _prefixes().get(lang) or _prefixes()["en"]
        # A newline counts as a number in the oracle's class; no newline is left when these rules run.
        self._pad = _rules(("", rf"([^{alnum}\s.'`,\-])", r" \1 "))
        self._chunk = re.compile(rf"[{alnum}.'`,\-]+|\S")
        self._commas = _rules(
            (",", f"([^{number}\n])[,]", r"\1 , "),
            (",", f"[,]([^{number}\n])", r" , \1"),
            (",", f"([{number}\n])[,]$", r"\1 , "),
        )
        if lang == "en":
            given = (
                (f"([^{alpha}])[']([^{alpha}])", r"\1 ' \2"), (f"([^{alpha}{number}\n])[']([{alpha}])", r"\1 ' \2"),
                (f"([{alpha}])[']([^{alpha}])", r"\1 ' \2"), (f"([{alpha}])[']([{alpha}])", r"\1 '\2"),
                (f"([{number}\n])['](s)", r"\1 '\2"),
            )  # fmt: skip
        elif lang in ("fr", "it"):
            given = (
                (f"([^{alpha}])[']([^{alpha}])", r"\1 ' \2"), (f"([^{alpha}])[']([{alpha}])", r"\1 ' \2"),
                (f"([{alpha}])[']([^{alpha}])", r"\1 ' \2"), (f"([{alpha}])[']([{alpha}])", r"\1' \2"),
            )  # fmt: skip
        else:
            given = (("'", " ' "),)
        self._apostrophes = _rules(*(("'", pattern, replacement) for pattern, replacement in given))

    def words(self, text: Any) -> list[Any]:
        """The words and punctuation marks of ``text``, nothing escaped."""
        text = apply(text, (_TO_ONE_SPACE, _JUNK)).strip()
        text = apply(text, self._pad)
        dots = ".." in plain(text)
        if dots:
            size = len(plain(text))

            def mark(match: re.Match[str]) -> str:
                return f" {'DOT' * len(match.group())}MULTI{' ' if match.end() < size else ''}"

            text = _DOTS.sub(mark, text) if isinstance(text, str) else text.sub(_DOTS, mark)
        text = apply(apply(text, self._commas), self._apostrophes)
        text = apply(self._full_stops(text), (_TO_ONE_SPACE,)).strip()
        text = apply(text, _FINAL_QUOTE)
        if "MULTI" in plain(text):

            def restore(match: re.Match[str]) -> str:
                return "." * ((len(match.group()) - 5) // 3)

            text = _MARKER.sub(restore, text) if isinstance(text, str) else text.sub(_MARKER, restore)
        return text.split() if isinstance(text, str) else text.words()

    def chunks(self, text: str) -> list[str] | None:
        """``text`` cut at white space and around the marks that stand alone, or None where it must be seen as a whole.

        The words of a text are those of its chunks, which come again and again and can be remembered. What a chunk's words
        depend on outside of it is the first character after its last full stop; it is put behind the chunk as `` a``
        (a lower-case letter follows) or `` 1`` (a digit follows).
        """
        if "'" in text or "MULTI" in text or text.lstrip()[:1] == ",":
            if _NOT_IN_CHUNKS.search(text):
                return None
        found = self._chunk.findall(text)
        if "." in text:
            last = len(found) - 1
            for index in [i for i, chunk in enumerate(found) if chunk[-1] == "." and i < last]:
                following = found[index + 1]
                if self._lower.match(following):
                    found[index] += " a"
                elif following[0] in _DIGITS:
                    found[index] += " 1"
        return found

    def chunk_words(self, chunk: str) -> list[str]:
        """The words of one of :meth:`chunks`."""
        chunk, _, following = chunk.partition(" ")
        return self._simple(chunk, following) or self.words(_bracketed(chunk, following))[1:-1]

    def words_of_chunks(self, chunks: list[str]) -> tuple[str, dict[int, int]]:
        """The words of many chunks, a newline between every two, and how many words those chunks have that have not one."""
        found, counts = list(chunks), dict[int, int]()
        hard: list[tuple[int, str]] = []
        search = _NOT_A_WORD.search
        for number in [number for number, chunk in enumerate(chunks) if search(chunk)]:
            chunk, _, following = chunks[number].partition(" ")
            words = self._simple(chunk, following)
            if not words:
                hard.append((number, _bracketed(chunk, following)))
            else:
                found[number], counts[number] = "\n".join(words), len(words)
        if hard:
            # All at once: the rules do not reach across brackets.
            words = self.words(" ".join([text for _, text in hard]))
            opening = [at for at, word in enumerate(words) if word == "("]
            for (number, _), low, high in zip(hard, opening, [*opening[1:], len(words)], strict=True):
                found[number], counts[number] = "\n".join(words[low + 1 : high - 1]), high - low - 2
        return "\n".join(found), counts

    def _simple(self, chunk: str, following: str) -> list[str]:
        """The words of most chunks: nothing but letters and digits, or those and one mark at the end. Empty for others."""
        body, last = chunk[:-1], chunk[-1]
        if _INNER.search(body):
            return []
        if last not in ".,'" or (not body and last == "."):
            return [chunk]
        if not body or last == "'":
            return []
        return [chunk] if last == "." and self._keeps_stop(body, following or None) else [body, last]

    def _keeps_stop(self, prefix: str, following: str | None) -> bool:
        """Whether the full stop after ``prefix`` belongs to it; ``following`` is the next word."""
        if "." in prefix and self._alpha.search(prefix):
            return True
        if prefix in self._abbreviations and prefix not in self._before_numbers:
            return True
        if following is not None and self._lower.match(following):
            return True
        return prefix in self._before_numbers and following is not None and following[0] in _DIGITS

    def _full_stops(self, text: Any) -> Any:
        if "." not in plain(text):
            return text
        words: list[Any] = text.split() if isinstance(text, str) else text.words()
        last = len(words) - 1
        for index, word in enumerate(words):
            string = plain(word)
            if len(string) < 2 or not string.endswith("."):
                continue
            if not self._keeps_stop(string[:-1], plain(words[index + 1]) if index < last else None):
                words[index] = f"{string[:-1]} ." if isinstance(word, str) else word.sub(_LAST_STOP, " .")
        return " ".join(words) if isinstance(text, str) else join(words)


_LAST_STOP = re.compile(r"\.$")
_DIGITS = "0123456789"
_INNER = re.compile("[.,']")
_NOT_A_WORD = re.compile("[ .,']")
# Apostrophes and commas at the edges of a text, apostrophes on both sides of a space, and the marker of dots as a word.
_NOT_IN_CHUNKS = re.compile(r"^\s*[',]|'\s+'|'\s*$|MULTI")


def _bracketed(chunk: str, following: str) -> str:
    return f"( {chunk} {following or ')'}"


@lru_cache(maxsize=32)
def tokenizer(lang: str) -> Tokenizer:
    """The tokenizer of a language, made once."""
    return Tokenizer(lang)
