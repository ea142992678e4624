"""Chinese and Thai through jieba and PyThaiNLP, where they are installed; Japanese through KyTea where its model is too."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from xlm.errors import CheckpointError
from xlm.tokenizers import XLMTokenizer, moses, xlm_words

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


def test_english_abbreviations_keep_their_stop_where_the_oracle_keeps_it() -> None:
    oracle = pytest.importorskip("sacremoses").MosesTokenizer(lang="en")
    ours = moses.tokenizer("en")
    others = """Ave Blvd Co Dept Ed Est Esq Fig Inc Jr Ltd Mt Oz Univ Vol Assn Assoc Govt Lieut Natl Pres Sec Treas am pm
        cf ca etc eg ed fig vol no art mr dr st jan may May Sept Thur Tues Wed Sun cm kg ft lb hr min the end Word""".split()
    single = [chr(code) for code in (*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1))]
    pairs = [f"{first}{second}" for first in "ADEHJMNOPRSTV" for second in "abcdehikmnoprstv"]
    for after in ("Zqx", "5", "word", "("):
        words = [
            *ours._abbreviations,
            *ours._before_numbers,
            *others,
            *single,
            *pairs,
            "a.m",
            "U.S",
            "St-Lo",
            "É",
            "Жи",
        ]
        text = " ".join(f"{word}. {after}" for word in words)
        assert ours.words(text) == oracle.tokenize(text, escape=False), after


class FakeKytea:
    """The interface of ``Mykytea.Mykytea`` (0.1.11), with runs of one script for words."""

    def __init__(self, options: str) -> None:
        name = options.removeprefix("-model ")
        if options == name or not Path(name).is_file():
            raise RuntimeError(f"Could not open model file {name}")

    def getWS(self, text: str) -> tuple[str, ...]:
        assert isinstance(text, str) and text.isprintable()
        return tuple(re.findall(r"[\u4e00-\u9fff々]+|[\u3041-\u309f]+|[\u30a1-\u30ffー]+|\w+|[^\w\s]", text))


def test_japanese_goes_through_kytea(xlm: XLMTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"a model")
    monkeypatch.setitem(sys.modules, "Mykytea", SimpleNamespace(Mykytea=FakeKytea))
    monkeypatch.setenv("KYTEA_MODEL", str(model))
    xlm_words._kytea.cache_clear()
    try:
        text = "吾輩は ＡＢＣ猫である。\n名前“まだ”無い！ <special1>"
        # The marks are made plain and what cannot be printed is gone before KyTea sees the text.
        assert xlm_words.segmented("吾輩は。\n名前“まだ”", "ja") == ["吾輩", "は", ".", "名前", '"', "まだ", '"']
        row = xlm(text, lang="ja", return_offsets_mapping=True, add_special_tokens=False)
        assert row["input_ids"] == xlm([text], lang="ja", add_special_tokens=False)["input_ids"][0]
        assert row["input_ids"][-1] == xlm.mask_token_id and row["offset_mapping"][-1] == (len(text) - 10, len(text))
        spans: dict[int, tuple[int, int]] = {}
        for word, (start, end) in zip(row.word_ids(), row["offset_mapping"], strict=True):
            spans[word] = (min(start, spans.get(word, (start, end))[0]), max(end, spans.get(word, (start, end))[1]))
        found = [text[start:end] for start, end in spans.values()]
        assert found[:2] == ["吾輩", "は"] and {"名前", "“", "まだ", "”", "無", "い", "！"} <= set(found)
        assert row["input_ids"] != xlm(text, add_special_tokens=False)["input_ids"]
    finally:
        xlm_words._kytea.cache_clear()


@pytest.mark.parametrize("real", [True, False])
def test_kytea_without_its_model(
    real: bool, xlm: XLMTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if real:
        pytest.importorskip("Mykytea")
    else:
        monkeypatch.setitem(sys.modules, "Mykytea", SimpleNamespace(Mykytea=FakeKytea))
    monkeypatch.setenv("KYTEA_MODEL", str(tmp_path / "absent.bin"))
    with pytest.raises(CheckpointError, match=r"absent\.bin.*KYTEA_MODEL"):
        xlm("猫", lang="ja")
