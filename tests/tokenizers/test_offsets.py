"""Offsets point into the user's own text, whatever normalisation does to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xlm.tokenizers import XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLMTokenizer
from xlm.tokenizers.unigram import clean

ANY = st.text(st.characters(exclude_categories=()), max_size=40)  # every code point, lone surrogates too
MARKED = st.text(
    st.sampled_from(
        "aeonkΣσ .,'\u0301\u0323\u0308\u200d\u200b\ufeff½ﬁｶﾞ가ㄱㅏ\u1100\u1161\u11a8न\u093cดำ👩👍🏽🇩🇪\t\r\n\x00\x85▁¨…«"
    ),
    max_size=25,
)
# Every entry of the character map: single characters by code point, and pairs that become one, by their place in the table.
ENTRIES = st.lists(st.integers(0, 60_000) | st.sampled_from("ab e\u0301\u0e34"), max_size=12)
TEXT = ANY | MARKED | ENTRIES
much = settings(max_examples=80, deadline=None)


def written(drawn: str | list[int | str], tokenizer: XLMRobertaTokenizer) -> str:
    """The text that was drawn; numbers become entries of the character map."""
    if isinstance(drawn, str):
        return drawn
    charsmap = tokenizer.engine.charsmap
    singles, pairs = np.flatnonzero(charsmap.tables[0] != 1), charsmap.pairs
    out = ""
    for part in drawn:
        if isinstance(part, str):
            out += part
        elif part % 3 == 0:
            out += chr(singles[part % len(singles)])
        else:
            pair = int(pairs[part % len(pairs)])
            out += chr(pair >> 21) + chr(pair & 0x1FFFFF)
    return out


def check(tokenizer: Any, text: str) -> list[tuple[str, int, int]]:
    """``(token, start, end)`` of every token of the text, after what holds for every tokenizer was seen to hold."""
    row = tokenizer(text, return_offsets_mapping=True)
    encoding = row.encodings[0]
    assert encoding.ids == row["input_ids"] == tokenizer([text])["input_ids"][0]
    assert len(encoding.tokens) == len(encoding.ids) == len(row["offset_mapping"])
    batch = tokenizer([text], return_offsets_mapping=True)
    assert batch["offset_mapping"][0] == row["offset_mapping"] == encoding.offsets
    found: list[tuple[str, int, int]] = []
    last = 0
    for token, (start, end), sequence in zip(encoding.tokens, encoding.offsets, encoding.sequence_ids, strict=True):
        if sequence is None:
            continue
        assert 0 <= start <= end <= len(text)
        # Starts never go back, but for what stands for one and the same stretch, or for nothing.
        assert start >= last or start == end or end >= last
        last = max(last, start)
        found.append((token, start, end))
    return found


def uncovered(text: str, tokens: list[tuple[str, int, int]]) -> list[int]:
    """Places that no token stands for."""
    covered = np.zeros(len(text), bool)
    for _, start, end in tokens:
        covered[start:end] = True
    return np.flatnonzero(~covered).tolist()


@much
@given(TEXT)
@example("e\u0301te\u0301 ½́ \u0fb2\u0f81")
@example("a\ud800b\udfff")
@example("ㄱㅏ")
def test_slow(slow: XLMRobertaTokenizer, drawn: str | list[int | str]) -> None:
    text = written(drawn, slow)
    normalize = slow.engine.processor.normalize
    tokens = check(slow, text)
    special = set(slow.all_special_tokens)
    for token, start, end in tokens:
        # The span, normalised by itself, holds the token; a ligature may hold several.
        if token not in special:
            assert token.lstrip("▁") in normalize(clean(text[start:end])), (token, text[start:end])
    if not any(token in special for token, _, _ in tokens):
        for place in uncovered(text, tokens):
            alone = normalize(clean(text[place]))
            # Only white space and what normalises to nothing, alone or with its neighbour, has no token.
            assert alone.strip("▁") == "" or normalize(clean(text[: place + 1])) == normalize(clean(text[:place])), (
                place
            )


@much
@given(TEXT)
@example("<mask>\u0301 ＜mask＞ \r\n\x85")
@example("ㄱㅏ की ड़ा")
def test_fast(fast: XLMRobertaTokenizerFast, drawn: str | list[int | str]) -> None:
    text = written(drawn, fast)
    tokens = check(fast, text)
    charsmap, special = fast.engine.charsmap, set(fast.all_special_tokens)
    for token, start, end in tokens:
        if token not in special and "＜" not in text:
            # Looked up by cluster or character by character: every character of the token comes from its span.
            span = clean(text[start:end])
            sources = charsmap.text_by_grapheme(span) + "".join([charsmap.single(char) or char for char in span])
            sources += fast.engine.processor.normalize(span)
            assert all(char in sources for char in token.lstrip("▁")), (token, span)
    if not any(token in special for token, _, _ in tokens) and "＜" not in text and "▁" not in text:
        for place in uncovered(text, tokens):
            alone = charsmap.text_by_grapheme(clean(text[place]))
            assert alone.strip() == "" or charsmap.text_by_grapheme(clean(text[: place + 1])).rstrip() == (
                charsmap.text_by_grapheme(clean(text[:place])).rstrip()
            ), place


@much
@given(TEXT)
def test_fast_agrees_with_the_cluster_path(fast: XLMRobertaTokenizerFast, drawn: str | list[int | str]) -> None:
    """What is not found odd is normalised alike in both ways: no text is overlooked."""
    text = clean(written(drawn, fast))
    if text and not fast._in_clusters([text], text):
        assert fast._cluster_ids(text) == fast.engine.ids([text])[0]


@much
@given(TEXT)
@example("A\u0345\u0301 İ ΑΣ ... . 1.5% « x » U.S. 'n' DOTMULTI")
def test_xlm(xlm: XLMTokenizer, slow: XLMRobertaTokenizer, drawn: str | list[int | str]) -> None:
    text = written(drawn, slow)
    tokens = check(xlm, text)
    if "MULTI" not in text and not any(token in xlm.all_special_tokens[:4] for token, _, _ in tokens):
        assert not [text[place] for place in uncovered(text, tokens) if text[place].isalnum()]


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
