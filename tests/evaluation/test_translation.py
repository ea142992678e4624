"""Translations of held-out pairs are scored by direction, beside copying, and bad pairs are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xlm.errors import ConfigError, DataError, InputError
from xlm.evaluation.translation import evaluate_translation

PAIRS = [("der kleine hund schläft heute im haus", "the small dog sleeps in the house today"),
         ("die katze läuft schnell über die straße", "the cat runs across the street quickly")] * 10  # fmt: skip


class Oracle:
    """An engine that knows the pairs, one direction at a time."""

    def __init__(self, *directions: tuple[str, str]) -> None:
        self.directions, self.asked = list(directions), []

    def translate(self, texts: list[str], target: str, source: str, *, num_beams: int) -> list[dict[str, Any]]:
        self.asked.append((source, target, num_beams, len(texts)))
        known = dict(PAIRS) | {b: a for a, b in PAIRS}
        for number, text in enumerate(texts):
            if len(text.split()) > 20:
                raise InputError(f"texts[{number}]: 40 tokens, the model's limit is 20")
        return [{"translation": known[text]} for text in texts]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "de-en.test.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS), "utf-8")
    return str(path)


def test_both_directions_with_intervals_and_signatures(file: str) -> None:
    found = evaluate_translation(Oracle(), [file], beams=3, draws=50)
    assert [(one.source, one.target, one.pairs) for one in found] == [("de", "en", 20), ("en", "de", 20)]
    for one in found:
        assert one.scores["bleu"].score == pytest.approx(100) and one.scores["chrf"].score == pytest.approx(100)
        assert one.copying["bleu"].score < 5 < one.copying["chrf"].score
        low, high = one.copying["chrf"].interval
        assert low <= one.copying["chrf"].score <= high and low < high
        assert one.scores["bleu"].signature.startswith("nrefs:1|bs:50|seed:12345|case:mixed")
        assert "translations" not in one.record()


def test_only_directions_that_the_model_knows(file: str) -> None:
    oracle = Oracle(("en", "de"))
    assert [one.source for one in evaluate_translation(oracle, [file], draws=2)] == ["en"]
    assert oracle.asked == [("en", "de", 1, 20)]
    with pytest.raises(InputError, match="de-en is no direction of en-ro"):
        evaluate_translation(Oracle(("en", "ro")), [file])


class Copy(Oracle):
    """An engine that says what it is asked."""

    def translate(self, texts, target, source, *, num_beams):
        return [{"translation": text} for text in texts]


@pytest.mark.parametrize(
    ("languages", "absent", "tokenizers"),
    [
        ("en-zho_Hans", (), ["zh", "13a"]),
        ("ja-zh", ("MeCab",), ["zh", "char"]),
        ("ko-de", ("mecab_ko",), ["13a", "char"]),
        ("th-my", (), ["char", "char"]),
    ],
)
def test_the_usual_tokenizer_of_each_target(tmp_path: Path, monkeypatch, languages, absent, tokenizers) -> None:
    monkeypatch.setattr("xlm.evaluation.bleu.find_spec", lambda name: None if name in absent else name)
    monkeypatch.setattr("xlm.evaluation.bleu._pieces", lambda name: tmp_path / "nowhere")
    path = tmp_path / "pairs.tsv"
    path.write_text("ein Satz 句子 一二\tone sentence 文 三四\n" * 5, "utf-8")
    found = evaluate_translation(Copy(), [f"{languages}={path}"], draws=1)
    for one, tokenizer in zip(found, tokenizers, strict=True):
        for rated in (one.scores["bleu"], one.copying["bleu"]):
            assert f"tok:{tokenizer}|" in rated.signature
        assert (one.note is not None) == (tokenizer == "char")
    said = evaluate_translation(Copy(), [f"{languages}={path}"], draws=1, tokenize="intl")
    assert all("tok:intl|" in one.scores["bleu"].signature and one.note is None for one in said)


def test_pieces_that_are_here_are_used(tmp_path: Path, monkeypatch) -> None:
    from xlm.evaluation.bleu import usual

    monkeypatch.setattr("xlm.evaluation.bleu._pieces", lambda name: Path(__file__))
    assert usual("tha_Thai") == ("flores200", None) and usual("de") == ("13a", None)


def test_a_tokenizer_is_refused_before_anything_is_translated(file: str, monkeypatch) -> None:
    oracle = Oracle()
    with pytest.raises(InputError, match="tokenize is 'words': sacrebleu has 13a, char"):
        evaluate_translation(oracle, [file], tokenize="words")
    monkeypatch.setattr("xlm.evaluation.bleu.find_spec", lambda name: None)
    with pytest.raises(InputError, match="tokenize is 'ja-mecab': it needs MeCab, ipadic: pip install 'sacrebleu"):
        evaluate_translation(oracle, [file], tokenize="ja-mecab")
    assert not oracle.asked


def test_bad_pairs_are_named(tmp_path: Path, file: str) -> None:
    (tmp_path / "a").write_text("eins\nzwei\n", "utf-8")
    (tmp_path / "b").write_text("one\n", "utf-8")
    with pytest.raises(DataError, match=r"a has 2 lines, .*b has 1"):
        evaluate_translation(Oracle(), [f"de-en={tmp_path / 'a'} ||| {tmp_path / 'b'}"])
    long = tmp_path / "de-en.long.tsv"
    long.write_text(f"{PAIRS[0][0]}\t{PAIRS[0][1]}\n{'wort ' * 30}\tword\n", "utf-8")
    with pytest.raises(DataError, match=r"de-en.long.tsv: pair 2, de: 40 tokens, the model's limit is 20"):
        evaluate_translation(Oracle(), [str(long)])
    with pytest.raises(ConfigError, match="does not say its two languages"):
        evaluate_translation(Oracle(), [str(tmp_path / "a")])
    with pytest.raises(InputError, match="none given"):
        evaluate_translation(Oracle(), [])
