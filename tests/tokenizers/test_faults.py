"""Bad or strange input: a typed error that names what is wrong, or an answer that keeps its place in the text."""

from __future__ import annotations

import gzip
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xlm.cli.tokenizer import app
from xlm.errors import CheckpointError, DataError, InputError
from xlm.tokenizers import XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLMTokenizer
from xlm.tokenizers.memo import LONGEST, Memo
from xlm.tokenizers.stats import Fairness, read_lines
from xlm.tokenizers.xlm_words import chunks, segmented

NAMES = ["slow", "fast", "xlm"]


@pytest.mark.parametrize("name", NAMES)
def test_lone_surrogates_warn(name: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = request.getfixturevalue(name)
    with caplog.at_level(logging.WARNING, "xlm"):
        found = tokenizer(["ab\udc80 cd", "plain"])["input_ids"]
    assert "lone surrogate" in caplog.text
    assert found == tokenizer(["ab\ufffd cd", "plain"])["input_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_marks_on_one_letter(name: str, request: pytest.FixtureRequest) -> None:
    text = "a" + "\u0301\u0323" * 5_000 + " b"
    row = request.getfixturevalue(name)(text, return_offsets_mapping=True)
    spans = [span for span, word in zip(row["offset_mapping"], row.word_ids(), strict=True) if word is not None]
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert all(0 <= start <= end <= len(text) for start, end in spans)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_after_a_bad_call_is_as_before(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    before = tokenizer(["a b", "c"])["input_ids"]
    for bad in (5, ["a", 5], {"a": 1}, [None]):
        with pytest.raises((InputError, TypeError)):
            tokenizer(bad)
    assert tokenizer(["a b", "c"])["input_ids"] == before


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_in_a_text_can_be_taken_as_text(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Any = request.getfixturevalue(name)
    text = f"ignore {tokenizer.mask_token} and {tokenizer.sep_token} this"
    special = {tokenizer.mask_token_id, tokenizer.sep_token_id}
    assert special <= set(tokenizer(text, add_special_tokens=False)["input_ids"])
    for found in (
        tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"],
        tokenizer([text], add_special_tokens=False, split_special_tokens=True)["input_ids"][0],
    ):
        assert not special & set(found)


@pytest.mark.parametrize("name", NAMES)
def test_sides_of_different_length(name: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(InputError, match=r"text is 2.*text_pair 1"):
        request.getfixturevalue(name)(["a", "b"], ["c"])


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_names_no_files_elsewhere(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokenizer = request.getfixturevalue(name)
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    keys = ("vocab_file", "tokenizer_file", "merges_file", "special_tokens_map_file")
    elsewhere = dict.fromkeys(keys, "/nonexistent/elsewhere")
    settings |= (
        elsewhere | {"sp_model_kwargs": {"model_file": "/nonexistent/elsewhere"}} if name != "xlm" else elsewhere
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again(["a b c"])["input_ids"] == tokenizer(["a b c"])["input_ids"]
    if name != "xlm":
        assert again.vocab_file == str(tmp_path / "sentencepiece.bpe.model")
        assert "model_file" not in again.sp_model_kwargs
    else:
        assert again.vocab_file == str(tmp_path / "vocab.json")


@pytest.mark.parametrize("name", NAMES)
def test_control_characters_end_nothing(name: str, request: pytest.FixtureRequest) -> None:
    """As in the reference: XLM's tokenizer drops them, SentencePiece drops, keeps or reads them as white space."""
    tokenizer = request.getfixturevalue(name)
    for char in (*map(chr, range(1, 32)), "\x7f", "\x85", "\u202e", "\ufeff", "\u2028", "\0"):
        text = f"ab{char}cd {char} ef{char}"
        row = tokenizer(text, return_offsets_mapping=True)
        spans = [span for span, word in zip(row["offset_mapping"], row.word_ids(), strict=True) if word is not None]
        assert all(0 <= start <= end <= len(text) for start, end in spans)
        # What stands behind the character is still there, and is found where it stands.
        assert any(start <= text.index("e") < end for start, end in spans), repr(char)
        assert tokenizer([text])["input_ids"] == [row["input_ids"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_cap_of_characters(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokenizer = request.getfixturevalue(name)
    tokenizer.save_pretrained(tmp_path)
    capped = type(tokenizer).from_pretrained(tmp_path, max_characters=1_000)
    assert capped("a" * 1_000)["input_ids"] == tokenizer("a" * 1_000)["input_ids"]
    for call in (
        lambda: capped(["fine", "a" * 1_001]),
        lambda: capped("fine", "a" * 1_001),
        lambda: capped.encode("a" * 1_001),
        lambda: capped.tokenize("a" * 1_001),
        lambda: capped(["fine", "a" * 1_001], return_offsets_mapping=True),
    ):
        with pytest.raises(InputError, match=r"text [01] has 1,001 characters: max_characters is 1,000"):
            call()


def test_a_long_word_can_be_cancelled(xlm: XLMTokenizer) -> None:
    class Enough(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Enough

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Enough):
            while True:
                xlm("thein" * 200_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert xlm("the in")["input_ids"] == xlm(["the in"])["input_ids"][0]


def test_unknown_language_lists_the_known_ones(files: dict[str, str]) -> None:
    tokenizer = XLMTokenizer(files["vocab"], files["merges"], lang2id={"en": 0, "fr": 1}, id2lang={0: "en", 1: "fr"})
    for call in (tokenizer, tokenizer.tokenize, tokenizer.encode, tokenizer._tokenize):
        with pytest.raises(InputError, match=r"'xx'.*en, fr"):
            call("a", lang="xx")


def test_lines_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "en.txt"
    path.write_bytes("\ufeffone\r\ntwo\rstill two\n\nthree\u2028still three\nlast".encode())
    assert list(read_lines(path)) == ["one", "two\rstill two", "three\u2028still three", "last"]
    with gzip.open(tmp_path / "en.txt.gz", "wb") as stream:
        stream.write(path.read_bytes())
    assert list(read_lines(tmp_path / "en.txt.gz")) == list(read_lines(path))


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "en.txt"
    path.write_bytes(b"fine\nab\xffcd\nfine\n\xfe\n")
    with pytest.raises(DataError, match=r"en\.txt:2: byte 3"):
        list(read_lines(path))
    counts = Fairness()
    assert list(read_lines(path, "replace", counts)) == ["fine", "ab\ufffdcd", "fine", "\ufffd"]
    assert counts.replaced == 2
    told = CliRunner().invoke(app, ["stats", str(path), "--errors", "replace", "--json"])
    assert told.exit_code == 0 and json.loads(told.stdout)["replaced"] == 2
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"a\n" * 9000)[:-20])
    with pytest.raises(DataError, match=r"cut\.txt\.gz"):
        list(read_lines(tmp_path / "cut.txt.gz"))
    with pytest.raises(DataError, match="no such file"):
        list(read_lines(tmp_path / "absent.txt"))


def test_memory_of_words_is_bounded() -> None:
    asked: list[str] = []
    memo = Memo(lambda key: (asked.append(key), len(key))[1], size=10)
    for number in range(1000):
        assert memo[f"{number}"] == len(f"{number}") and memo["often"] == 5
        assert len(memo) + len(memo._old) <= 20
    assert asked.count("often") == 1
    assert memo["x" * (LONGEST + 1)] == LONGEST + 1 and "x" * (LONGEST + 1) not in memo


@pytest.mark.parametrize("lang", ["en", "fr", "de", "ro", "ko"])
def test_words_of_the_chunks_are_the_words_of_the_text(lang: str) -> None:
    import random

    from xlm.tokenizers import moses

    draw = random.Random(0)
    parts = [
        *"aab zÀé É\u0301\u200d15٣,.,.''`-%()\"«»:; \u00a0\t\n¿?!…。、漢한न",
        "  ",
        "...",
        "'s",
        "l'",
        "Mr.",
        "e.g.",
    ]
    splitter, whole = moses.tokenizer(lang), 0
    for _ in range(2000):
        text = "".join(draw.choices(parts, k=draw.randint(1, 14)))
        found = chunks(text, lang)
        whole += found is None
        if found is not None:
            assert [word for chunk in found for word in splitter.chunk_words(chunk)] == segmented(text, lang), text
    assert 0 < whole < 1500


def test_tokenizers_need_no_framework(files: dict[str, str]) -> None:
    code = (
        "import sys; from xlm.tokenizers import XLMRobertaTokenizer as T; T(sys.argv[1])('a b', return_tensors='np');"
        "assert not {'torch', 'jax', 'tensorflow', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, files["model"]], check=True)


def test_one_vocabulary_is_loaded_once(slow: XLMRobertaTokenizer, fast: XLMRobertaTokenizerFast) -> None:
    """Tokenizers of one unchanged file hold one engine."""
    assert slow.engine is fast.engine
    assert XLMRobertaTokenizer(str(slow.vocab_file)).engine is slow.engine


HOSTILE: list[tuple[str, Any, str]] = [
    ("tokenizer_config.json", [], "holds a list"),
    ("tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"x": "a"}}, "added_tokens_decoder"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"7": 5}}, r"added_tokens_decoder\[7\]"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": 5}}}, r"added_tokens_decoder\[7\]"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"lstrip": True}}}, r"added_tokens_decoder\[7\]"),
    ("tokenizer_config.json", {"model_max_length": "abc"}, "model_max_length is 'abc'"),
    ("tokenizer_config.json", {"mask_token": 5}, "mask_token"),
    ("tokenizer_config.json", {"mask_token": {"content": 5, "lstrip": True}}, "mask_token"),
    ("tokenizer_config.json", {"additional_special_tokens": "x"}, "additional_special_tokens"),
    ("special_tokens_map.json", [], "holds a list"),
    ("special_tokens_map.json", {"mask_token": 5}, "mask_token"),
    ("special_tokens_map.json", {"additional_special_tokens": 5}, "additional_special_tokens"),
    ("added_tokens.json", [], "holds a list"),
    ("added_tokens.json", {"a": "b"}, "it must be an id"),
    ("special_tokens_map.json", '{"mask_token": "<a>", "mask_token": "<b>"}', "stands twice"),
    ("tokenizer_config.json", '{"model_max_length": 5, "model_max_length": 6}', "stands twice"),
]


@pytest.mark.parametrize(("file", "content", "message"), HOSTILE)
@pytest.mark.parametrize("name", ["slow", "xlm"])
def test_settings_that_no_tokenizer_wrote(
    name: str, file: str, content: Any, message: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tokenizer = request.getfixturevalue(name)
    tokenizer.save_pretrained(tmp_path)
    if file != "tokenizer_config.json":  # read in folders that are older than it
        (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"{file}.*{message}"):
        type(tokenizer).from_pretrained(tmp_path)


@pytest.mark.parametrize("tokens", [5, [5], [{"id": "x"}], [{"id": 7}], [{"id": 7, "content": 5}]])
def test_tokens_that_the_fast_file_cannot_have(tokens: Any, fast: Any, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "added_tokens": tokens}), "utf-8")
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: added_tokens"):
        XLMRobertaTokenizerFast.from_pretrained(tmp_path)


@pytest.mark.parametrize("options", [{"model_proto": "x"}, {"unknown": 1}, {"alpha": "x"}, [1]])
def test_options_of_sentencepiece_that_are_none(options: Any, slow: Any, tmp_path: Path) -> None:
    slow.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "sp_model_kwargs": options}))
    with pytest.raises(InputError, match="sp_model_kwargs"):
        XLMRobertaTokenizer.from_pretrained(tmp_path)
