"""Running text -> words with their places, for taggers: what CoNLL files call tokens, without a rule for any language.

A word is a run of letters, marks and digits; any other character that is not white space stands alone, and so does
every character (with its marks) of the scripts that put no spaces between words.
"""

from __future__ import annotations

from collections.abc import Sequence

import regex

Span = tuple[int, int]
_UNSPACED = "".join(
    rf"\p{{Script={name}}}" for name in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
)
_WORD = regex.compile(
    # A number or abbreviation keeps the stops inside it (3.14, 10:30), a word its apostrophes and hyphens (l'eau stays one).
    rf"[{_UNSPACED}]\p{{M}}*|(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}_])+"
    rf"(?:[.,:'’\-‐·](?:(?![{_UNSPACED}])[\p{{L}}\p{{N}}_])(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}_])*)*|\S"
)


def split_words(text: str, borders: Sequence[int] = ()) -> list[Span]:
    """The places ``[start, end)`` of the words of ``text``, in code points; words are cut at ``borders`` too.

    >>> [("Marie Curie, 1903.")[a:b] for a, b in split_words("Marie Curie, 1903.")]
    ['Marie', 'Curie', ',', '1903', '.']
    >>> ["ひらがな 한국어"[a:b] for a, b in split_words("ひらがな 한국어")]
    ['ひ', 'ら', 'が', 'な', '한국어']
    """
    found: list[Span] = []
    cuts = sorted(set(borders))
    for match in _WORD.finditer(text):
        start, end = match.span()
        for cut in cuts:
            if start < cut < end:
                found.append((start, cut))
                start = cut
        found.append((start, end))
    return found
