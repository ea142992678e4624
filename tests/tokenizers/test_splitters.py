"""Chinese and Thai through jieba and PyThaiNLP, where they are installed; Japanese through KyTea where its model is too."""

from __future__ import annotations

import os

import pytest

from xlm.tokenizers import XLMTokenizer, xlm_words

TEXTS = {
    "zh": "我来到北京清华大学。He said: “你好”，世界！",
    "th": "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง 2026 test",
    "ja": "吾輩は猫である。名前はまだ無い。",
}
WORDS = {"zh": ["北京", "清华大学", "世界", "said:"], "th": ["สวัสดี", "ภาษาไทย", "2026"], "ja": ["猫", "名前"]}
PACKAGES = {"zh": "jieba", "th": "pythainlp", "ja": "Mykytea"}


@pytest.mark.parametrize("lang", ["zh", "th", "ja"])
def test_words_and_offsets(lang: str, xlm: XLMTokenizer) -> None:
    pytest.importorskip(PACKAGES[lang])
    if lang == "ja" and not os.path.exists(os.environ.get("KYTEA_MODEL", "")):
        pytest.skip("KYTEA_MODEL does not name a model")
    text = TEXTS[lang]
    words = xlm_words.segmented(text, lang)
    assert set(WORDS[lang]) <= set(words), words
    row = xlm(text, lang=lang, return_offsets_mapping=True)
    assert row["input_ids"] == xlm([text], lang=lang)["input_ids"][0] == row.encodings[0].ids
    assert row["input_ids"] != xlm(text)["input_ids"]
    found: dict[int, list[tuple[int, int]]] = {}
    for word, span in zip(row.word_ids(), row["offset_mapping"], strict=True):
        if word is not None:
            found.setdefault(word, []).append(span)
    spans = {text[min(s for s, _ in of) : max(e for _, e in of)].lower() for of in found.values()}
    assert {word.lower() for word in WORDS[lang] if word != "said:"} <= spans


@pytest.mark.parametrize("lang", ["zh", "th"])
def test_every_text_has_offsets_inside_it(lang: str, xlm: XLMTokenizer) -> None:
    pytest.importorskip(PACKAGES[lang])
    for text in (
        "",
        "   ",
        "a b",
        "。。",
        "ä\u0301 ﬁ　漢字\u200b漢 x",
        "ก็ ำ\u0e33",
        "Mr. Smith, 5.5%",
        "<special1> 你好 </s>",
    ):
        row = xlm(text, lang=lang, return_offsets_mapping=True)
        assert all(0 <= start <= end <= len(text) for start, end in row["offset_mapping"])
        assert xlm([text], lang=lang)["input_ids"] == [row["input_ids"]]
