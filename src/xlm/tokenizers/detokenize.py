"""Moses' words back to running text: which neighbours stand together, by the rules of its detokenizer.

XLM writes words as Moses separates them (``Hello , world !``); readers, and BLEU as it is reported, want running text. Word
forms that Moses itself never separates, such as Finnish endings behind a colon, have no rule here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

_CLOSING = re.compile(r"[,.?!:;\\%}\])]+")
_QUOTES = re.compile(r"['\"„“`]+")
_OPENING = frozenset("([{¿¡")
_FRENCH = frozenset("?!:;\\%")
"""Before these French has a space."""
_ELISIONS = ("fr", "it", "ga")
# First and last code points of writing without spaces between words, Hangul among them as Moses counts it.
_CJK = (
    *((0x1100, 0x11FF), (0x2E80, 0xA4CF), (0xA840, 0xA87F), (0xAC00, 0xD7AF), (0xF900, 0xFAFF)),
    *((0xFE30, 0xFE4F), (0xFF65, 0xFFDC), (0x20000, 0x2FFFF)),
)


def detokenize(words: Sequence[str], lang: str | None = "en") -> str:
    """The running text of Moses' words in a language; without one by the rules that all have."""
    words = [word for word in words if word]
    parts: list[str] = []
    quotes: Counter[str] = Counter()
    joined = True  # to what is before: nothing, at first
    for place, (word, following) in enumerate(pairwise([*words, ""])):
        before = words[place - 1] if place else ""
        space, joined = not joined, False
        if _cjk(word[0]) and lang != "ko":
            space = space and not (before and _cjk(before[-1]))
        elif all(char in _OPENING or unicodedata.category(char) == "Sc" for char in word):
            joined = True
        elif _CLOSING.fullmatch(word):
            space = lang == "fr" and word in _FRENCH
        elif lang == "en" and before and word[0] == "'" and word[1:2].isalpha():
            space = False
        elif lang in _ELISIONS and word[-1] == "'" and word[-2:-1].isalpha() and following[:1].isalpha():
            joined = True
        elif _QUOTES.fullmatch(word):
            kind = '"' if word in ("„", "“", "”") else word
            if quotes[kind] % 2:
                space = False
            elif lang == "en" and word == "'" and before.endswith("s"):  # of owners: the boys' books
                space, kind = False, ""
            else:
                joined = True
            quotes[kind] += 1
        parts.append(" " * space + word)
    return "".join(parts)


def _cjk(char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in _CJK)
