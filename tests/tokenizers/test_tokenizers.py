"""Files both ways, hostile files, long words, languages, alignment, training and the fairness report."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tokenizers.cases import LONG, TEXTS
from typer.testing import CliRunner

from xlm.cli.tokenizer import app
from xlm.errors import CheckpointError, ConfigError, DataError, InputError, MissingExtraError, OutputError
from xlm.tokenizers import (
    AutoTokenizer,
    XLMRobertaTokenizer,
    XLMRobertaTokenizerFast,
    XLMTokenizer,
    align_labels,
    train_sentencepiece,
    word_predictions,
)
from xlm.tokenizers.bpe import BPE


def ids(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("name", ["slow", "fast", "xlm"])
def test_saved_and_loaded_again(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(request.getfixturevalue(name))
    tokenizer.add_tokens(["newtok"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<x>"]})
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert ids(again) == ids(tokenizer)
    assert again("a newtok <x>")["input_ids"] == tokenizer("a newtok <x>")["input_ids"]
    assert len(again) == len(tokenizer) and again.special_tokens_map == tokenizer.special_tokens_map
    automatic = AutoTokenizer.from_pretrained(tmp_path, use_fast=name == "fast")
    assert type(automatic) is type(tokenizer)
    assert ids(pickle.loads(pickle.dumps(tokenizer))) == ids(tokenizer)


def test_tokenizer_json_alone_is_enough(fast: XLMRobertaTokenizerFast, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").unlink()
    again = XLMRobertaTokenizerFast.from_pretrained(tmp_path)
    assert ids(again) == ids(fast)
    with pytest.raises(InputError):
        again.save_vocabulary(tmp_path)


# Where transformers 5 answers otherwise than its own 4.37.2: the full-width mask, and names of special tokens in a text.
FIVE = [text for text in TEXTS if "＜" not in text and "<" not in text]


@pytest.mark.parametrize("normalized", [True, False])
def test_the_mask_in_other_letters(
    normalized: bool, fast: XLMRobertaTokenizerFast, slow: XLMRobertaTokenizer, tmp_path: Path
) -> None:
    """As transformers 4.37.2 reads it: the mask, in the fast class alone."""
    fast.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["added_tokens"][-1]["normalized"] = normalized
    path.write_text(json.dumps(content), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": "<mask>"}', "utf-8")
    tokenizer = XLMRobertaTokenizerFast.from_pretrained(tmp_path)
    space, begin = ([], "▁") if normalized else (["▁"], "")
    for mask in ("＜mask＞", "<mask＞", "<ｍask>", "﹤maſk>"):
        end = 2 + len(mask)
        for text, tokens, spans in (
            (f"a {mask} b", ["▁a", *space, "<mask>", "▁b"], [*([] if normalized else [(1, 2)]), (2 - normalized, end)]),
            (f"aa{mask}b", [*tokenizer.tokenize("aa"), "<mask>", f"{begin}b"], [(2, end)]),
        ):
            row = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == tokens
            assert row["input_ids"] == tokenizer([text], add_special_tokens=False)["input_ids"][0]
            assert row["offset_mapping"][-1 - len(spans) : -1] == spans
        assert tokenizer.mask_token_id not in tokenizer(f"a {mask} b", split_special_tokens=True)["input_ids"]
        assert slow.mask_token_id not in slow(f"a {mask} b")["input_ids"]


@pytest.mark.parametrize("added", [False, True])
def test_transformers_opens_what_is_saved(added: bool, fast: XLMRobertaTokenizerFast, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = copy.deepcopy(fast)
    if added:
        ours.add_tokens(["newtok"])
        ours.add_special_tokens({"additional_special_tokens": ["<x>"]})
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = [ours(text)["input_ids"] for text in FIVE]
    assert len(theirs) == len(ours)
    assert theirs.convert_tokens_to_ids(["newtok", "<x>"]) == ours.convert_tokens_to_ids(["newtok", "<x>"])
    assert [theirs(text)["input_ids"] for text in FIVE] == expected
    theirs.save_pretrained(tmp_path / "theirs")
    back = XLMRobertaTokenizerFast.from_pretrained(tmp_path / "theirs")
    assert [back(text)["input_ids"] for text in FIVE] == expected and len(back) == len(ours)


def test_the_bundled_folder_opens_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    folder = Path(str(resources.files("xlm.assets").joinpath("xlmr-mini")))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == len(ours)
    assert [theirs(text)["input_ids"] for text in FIVE] == [ours(text)["input_ids"] for text in FIVE]
    # Both files of the vocabulary say the same.
    alone = XLMRobertaTokenizerFast(tokenizer_file=folder / "tokenizer.json")
    assert alone.get_vocab() == XLMRobertaTokenizer(folder / "sentencepiece.bpe.model").get_vocab()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6


@pytest.mark.parametrize("kind", ["truncated", "text", "length", "score", "empty", "charsmap"])
def test_hostile_models(kind: str, files: dict[str, str], tmp_path: Path) -> None:
    data = Path(files["model"]).read_bytes()
    path = tmp_path / "sentencepiece.bpe.model"
    at = data.index(b"\x15", 40)
    path.write_bytes(
        {
            "truncated": data[: len(data) // 2 + 3],
            "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "length": b"\x0a\xff\xff\xff\xff\x0f" + data,
            "score": data[: at + 1] + b"\x00\x00\xc0\x7f" + data[at + 5 :],
            "empty": b"",
            "charsmap": data + b"\x1a\x06\x12\x04\xff\xff\xff\x7f",
        }[kind]
    )
    with pytest.raises(CheckpointError, match=r"sentencepiece\.bpe\.model"):
        XLMRobertaTokenizer(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sentencepiece\.bpe\.model"):
        XLMRobertaTokenizer.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        XLMTokenizer.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        AutoTokenizer.from_pretrained(tmp_path)


def test_unwritable_folder(slow: XLMRobertaTokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        slow.save_pretrained(tmp_path / "file")


def test_ids_do_not_depend_on_the_batch(slow: XLMRobertaTokenizer, fast: XLMRobertaTokenizerFast) -> None:
    for tokenizer in (slow, fast):
        assert tokenizer(TEXTS)["input_ids"] == ids(tokenizer)
    for (row, offsets), text in zip(slow.encode_arrays(TEXTS[:8]), TEXTS[:8], strict=True):
        one = slow(text, return_offsets_mapping=True)
        assert row.tolist() == one["input_ids"] and [tuple(o) for o in offsets.tolist()] == one["offset_mapping"]


@pytest.mark.parametrize("kind", ["slow", "fast", "xlm"])
def test_one_long_word(kind: str, request: pytest.FixtureRequest) -> None:
    """Its ids are those of its parts, over and over: nothing is cut off, and it ends (in quadratic time it would not)."""
    tokenizer = request.getfixturevalue(kind)
    short, long = (tokenizer("abcde" * size, add_special_tokens=False)["input_ids"] for size in (100, 400_000))
    middle = short[5:-5]
    period = next(size for size in range(1, 20) if middle[:-size] == middle[size:])
    assert long[5 : 5 + period] == middle[:period] and long[5:-5][:-period] == long[5:-5][period:]
    assert "".join(tokenizer.convert_ids_to_tokens(long)).strip("▁").removesuffix("</w>") == "abcde" * 400_000


def test_long_words_merge_like_short_ones(xlm: XLMTokenizer) -> None:
    bpe = BPE(list(xlm.bpe_ranks))
    for word in ("thethethe" * 9, "in" * 50, LONG.replace(" ", "")):
        symbols = [*word[:-1], word[-1] + "</w>"]
        assert bpe._long(list(symbols)) == bpe._short(list(symbols))


def test_lang_is_honoured_everywhere(xlm: XLMTokenizer) -> None:
    text = "L'été d'ici"
    french = xlm.convert_tokens_to_ids(xlm._tokenize(text.lower(), lang="fr"))
    assert xlm(text, lang="fr", add_special_tokens=False)["input_ids"] == french
    assert xlm.encode(text, lang="fr", add_special_tokens=False) == french
    assert xlm.tokenize(text, lang="fr") == xlm._tokenize(text.lower(), lang="fr") != xlm.tokenize(text)
    assert xlm([text], lang="fr", add_special_tokens=False)["input_ids"] == [french]


def test_unknown_language(files: dict[str, str]) -> None:
    tokenizer = XLMTokenizer(files["vocab"], files["merges"], lang2id={"en": 0, "fr": 1}, id2lang={0: "en", 1: "fr"})
    with pytest.raises(InputError, match="en, fr"):
        tokenizer("x", lang="de")


def test_absent_segmenters_name_their_extra(xlm: XLMTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import sys

    for name in ("jieba", "pythainlp", "pythainlp.tokenize", "Mykytea"):
        monkeypatch.setitem(sys.modules, name, None)
    assert builtins is not None
    for lang in ("zh", "th", "ja"):
        with pytest.raises(MissingExtraError, match=rf"xlm\[{lang}\]"):
            xlm("文字", lang=lang)


def test_labels_of_words(slow: XLMRobertaTokenizer) -> None:
    words = ["Hello", "", "世界", "x"]
    row = slow(words, is_split_into_words=True)
    labels = align_labels(row.word_ids(), [1, 2, 3, 4], tokens=row.tokens())
    assert labels.count(1) == labels.count(4) == 1 and 2 not in labels
    place = labels.index(3)
    assert row.tokens()[place] != "▁"
    every = align_labels(row.word_ids(), [1, 2, 3, 4], "all")
    assert every.count(1) == row.word_ids().count(0)
    found = word_predictions(row.word_ids(), every, 4, missing=0, tokens=row.tokens())
    assert found == [1, 0, 3, 4]
    with pytest.raises(InputError):
        align_labels(row.word_ids(), [1])


def test_tensors(slow: XLMRobertaTokenizer) -> None:
    torch = pytest.importorskip("torch")
    row = slow(["a b c", "d"], padding=True, return_tensors="pt")
    assert row["input_ids"].dtype == torch.int64 and row.to("cpu")["attention_mask"].sum() > 0
    with pytest.raises(InputError, match="input_ids"):
        slow(["a b c", "d"], return_tensors="pt")
    assert slow(["a"], return_tensors="np")["input_ids"].dtype == np.int64
    with pytest.raises(InputError, match="return_tensors"):
        slow("a", return_tensors="xx")


def test_train_and_report(tmp_path: Path, files: dict[str, str]) -> None:
    text = "".join(f"{LONG} {number} {word}\n" for number, word in enumerate(LONG.split() * 4))
    (tmp_path / "en.txt").write_text(text, "utf-8")
    (tmp_path / "ru.txt").write_text("Привет мир, как дела у тебя сегодня?\n" * 60, "utf-8")
    runner = CliRunner()
    sources = [str(tmp_path / "en.txt"), f"ru={tmp_path / 'ru.txt'}"]
    done = runner.invoke(app, ["train", *sources, "--out", str(tmp_path / "out"), "--vocab-size", "90", "--json"])
    assert done.exit_code == 0, done.output
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == 90 and tokenizer.mask_token_id == 89
    told = runner.invoke(app, ["stats", *sources, "--model", str(tmp_path / "out"), "--json"])
    assert told.exit_code == 0, told.output
    first = json.loads(told.output.splitlines()[0])
    assert first["language"] == "en" and 0 < first["tokens_per_character"] < 1
    with pytest.raises(DataError):
        train_sentencepiece({"xx": tmp_path / "absent.txt"}, 100, tmp_path / "out")
    with pytest.raises(ConfigError):
        train_sentencepiece({"en": tmp_path / "en.txt"}, 3, tmp_path / "out")
    (tmp_path / "bad.txt").write_bytes(b"fine\nbad \xff\n")
    with pytest.raises(DataError, match=r"bad\.txt:2"):
        train_sentencepiece({"en": tmp_path / "bad.txt"}, 100, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
