"""XLM's vocabularies trained here open in XLM's tokenizer, ours and the reference's, and cut text as fastBPE does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

import xlm
from xlm.errors import ConfigError, DataError
from xlm.tokenizers.bpe import END
from xlm.tokenizers.train_bpe import SPECIAL, train_bpe

TEXTS = {
    "en": "The lower the newer, the wider the lowest: lower, newest and widest! Low, new, wide.\n" * 20,
    "sw": "Mji mkuu wa Ufaransa ni Paris; watu wa mji huo wanaishi kwa mto mkuu.\n" * 20,
    "fr": "L'été à la forêt, où l'élève préfère être à l'école.\n" * 20,
    "hi": "फ्रांस की राजधानी पेरिस है और यह एक पुराना शहर है।\n" * 20,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    for language, text in TEXTS.items():
        (folder / f"{language}.txt").write_text(text, "utf-8")
    return {language: folder / f"{language}.txt" for language in TEXTS}


@pytest.fixture(scope="module")
def trained(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    train_bpe(files, 150, folder)
    return folder


def test_files_are_those_of_xlm(trained: Path) -> None:
    vocabulary = json.loads((trained / "vocab.json").read_text("utf-8"))
    assert len(vocabulary) == 150 and list(vocabulary)[:14] == SPECIAL
    assert sorted(vocabulary.values()) == list(range(150))
    lines = [line.split(" ") for line in (trained / "merges.txt").read_text("utf-8").splitlines()]
    assert all(len(line) == 3 and int(line[2]) > 0 for line in lines)
    assert all(first + second in vocabulary for first, second, _ in lines)
    tokenizer = xlm.AutoTokenizer.from_pretrained(trained)
    assert type(tokenizer) is xlm.XLMTokenizer and tokenizer.mask_token_id == 5 and tokenizer.pad_token_id == 2
    assert tokenizer.lang2id == {"en": 0, "fr": 1, "hi": 2, "sw": 3}


def test_no_word_of_the_text_is_unknown_and_frequent_ones_are_whole(trained: Path) -> None:
    tokenizer = xlm.XLMTokenizer.from_pretrained(trained)
    for language, text in TEXTS.items():
        line = text.splitlines()[0]
        assert tokenizer.unk_token_id not in tokenizer(line, lang=language)["input_ids"]
    assert "the</w>" in tokenizer.tokenize("the", lang="en")
    assert tokenizer.tokenize("L'ÉTÉ", lang="fr") == tokenizer.tokenize("l'ete", lang="fr")


def test_the_reference_reads_the_same(trained: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.XLMTokenizer.from_pretrained(trained)
    ours = xlm.XLMTokenizer.from_pretrained(trained)
    for text in ("The lowest new forest, widely!", "mji mkuu", "l'école où"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def test_merges_are_learned_by_frequency(files: dict[str, Path], tmp_path: Path) -> None:
    """Held against the textbook algorithm: merge the commonest pair of the words, again and again."""
    path = tmp_path / "x.txt"
    path.write_text("aab aab aab aac aac bd\n", "utf-8")
    train_bpe({"en": path}, 14 + 5 + 3, tmp_path / "out", min_frequency=1, alpha=1.0)
    merges = (tmp_path / "out" / "merges.txt").read_text("utf-8").splitlines()
    # aa occurs 5 times; then aa b</w> 3 times; then aa c</w> twice.
    assert merges == ["a a 5", "aa b</w> 3", "aa c</w> 2"]


def test_case_and_accents_can_be_kept(files: dict[str, Path], tmp_path: Path) -> None:
    train_bpe(files, 260, tmp_path, lowercase=False)
    tokenizer = xlm.XLMTokenizer.from_pretrained(tmp_path)
    assert tokenizer.do_lowercase_and_remove_accent is False
    assert tokenizer.unk_token_id not in tokenizer("L'été à Paris", lang="fr")["input_ids"]


def test_the_same_seed_gives_the_same_files(files: dict[str, Path], tmp_path: Path, trained: Path) -> None:
    train_bpe(files, 150, tmp_path)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


@given(st.text("abdehilnorstwé ,.", max_size=40))
def test_pieces_put_together_are_the_words(text: str) -> None:
    from xlm.tokenizers.bpe import BPE
    from xlm.tokenizers.train_bpe import _counts, _made_by

    merges = [("t", "h"), ("th", "e" + END), ("l", "o"), ("lo", "w"), ("e", "r" + END), ("w", "i")]
    words = dict.fromkeys(text.split(), 1)
    pieces, merged = _counts(words, merges)
    bpe = BPE(merges)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for word in words:
        assert "".join(bpe(word)) == word + END
        # Every merge makes two symbols one.
        assert sum(len(_made_by(piece, ranks)) for piece in bpe(word)) == len(word) - len(bpe(word))
    assert sum(pieces.values()) + sum(merged.values()) == sum(map(len, words))


def test_impossible_wishes_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vocab_size is 40: the text has \d+ characters .* need \d+"):
        train_bpe(files, 40, tmp_path)
    with pytest.raises(ConfigError, match="vocab_size is 14"):
        train_bpe(files, 14, tmp_path)
    with pytest.raises(ConfigError, match=r"alpha is 2"):
        train_bpe(files, 100, tmp_path, alpha=2.0)
    with pytest.raises(ConfigError, match="min_frequency is 0"):
        train_bpe(files, 100, tmp_path, min_frequency=0)
    with pytest.raises(ConfigError, match="at least one language"):
        train_bpe({}, 100, tmp_path)
    with pytest.raises(DataError, match="no such file"):
        train_bpe({"en": "none.txt"}, 100, tmp_path)
    assert not list(tmp_path.iterdir())
