"""Offsets point into the user's own text, whatever normalisation does to it."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xlm.tokenizers import XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLMTokenizer

ANY = st.text(st.characters(exclude_categories=()), max_size=40)  # every code point, lone surrogates too
MARKED = st.text(
    st.sampled_from(
        "aeonkΣσ .,'\u0301\u0323\u0308\u200d\u200b\ufeff½ﬁｶﾞ가\u1100\u1161\u11a8न\u093c👩👍🏽\t\r\n\x00\x85▁¨…«"
    ),
    max_size=25,
)


def check(tokenizer: Any, text: str) -> None:
    row = tokenizer(text, return_offsets_mapping=True)
    encoding = row.encodings[0]
    assert encoding.ids == row["input_ids"]
    assert len(encoding.tokens) == len(encoding.ids) == len(row["offset_mapping"])
    last = 0
    for (start, end), sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True):
        if sequence is None:
            continue
        assert 0 <= start <= end <= len(text)
        assert start >= last or start == end or end >= last
        last = max(last, start)


@given(ANY | MARKED)
@example("e\u0301te\u0301 ½́ \u0fb2\u0f81")
@example("a\ud800b\udfff")
def test_slow(slow: XLMRobertaTokenizer, text: str) -> None:
    check(slow, text)


@given(ANY | MARKED)
@example("<mask>\u0301 ＜mask＞ \r\n\x85")
def test_fast(fast: XLMRobertaTokenizerFast, text: str) -> None:
    check(fast, text)


@given(ANY | MARKED)
@example("A\u0345\u0301 İ ΑΣ ... . 1.5% « x » U.S. 'n' DOTMULTI")
def test_xlm(xlm: XLMTokenizer, text: str) -> None:
    check(xlm, text)


@given(ANY | MARKED)
def test_spans_say_what_the_pieces_say(slow: XLMRobertaTokenizer, text: str) -> None:
    """What a span covers normalises to the token, unless something composed across its edge."""
    row = slow(text, return_offsets_mapping=True, add_special_tokens=False)
    for token, (start, end) in zip(row.tokens(), row["offset_mapping"], strict=True):
        plain = token.lstrip("▁")
        if plain and token not in slow.all_special_tokens and plain.isascii() and plain.isalnum():
            assert plain[0] in unicodedata.normalize("NFKC", text[start:end]) or end - start <= 1


@pytest.mark.parametrize(
    ("text", "word", "span"),
    [
        ("Die Größe", "▁Gr", (4, 6)),
        ("of ﬁne art", "▁fi", (3, 4)),
        ("cafe\u0301 noir", "é", (3, 5)),
        ("x \u200b y", "y", (4, 5)),
    ],
)
def test_known_spans(slow: XLMRobertaTokenizer, text: str, word: str, span: tuple[int, int]) -> None:
    row = slow(text, return_offsets_mapping=True)
    covering = [s for s in row["offset_mapping"] if s[0] <= span[0] < s[1]]
    assert covering and covering[0][0] <= span[0] and covering[-1][1] >= span[0] + 1, (
        row.tokens(),
        row["offset_mapping"],
    )


def test_lone_surrogates_keep_the_offsets(slow: XLMRobertaTokenizer) -> None:
    text = "ab\ud800 cd"
    assert slow(text, return_offsets_mapping=True)["offset_mapping"][-2][1] == len(text)


def test_xlm_spans_survive_lowercasing_and_punctuation(xlm: XLMTokenizer) -> None:
    text = "Les élèves — “déjà” – vus…"
    row = xlm(text, return_offsets_mapping=True, lang="fr")
    words: dict[int, list[tuple[int, int]]] = {}
    for word, span in zip(row.word_ids(), row["offset_mapping"], strict=True):
        if word is not None:
            words.setdefault(word, []).append(span)
    covered = [text[min(s for s, _ in of) : max(e for _, e in of)] for of in words.values()]
    assert covered == ["Les", "élèves", "—", "“", "déjà", "”", "–", "vus", "…"]
