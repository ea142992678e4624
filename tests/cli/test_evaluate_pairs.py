"""``xlm evaluate --pairs``: its table is whole, its JSON is the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import xlm
from xlm.cli import app
from xlm.tokenizers.train import train_sentencepiece


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An encoder-decoder that has learnt nothing."""
    for language, line in (("de", "der hund schläft im haus"), ("en", "the dog sleeps in the house")):
        (tmp_path / f"{language}.txt").write_text(f"{line}\n" * 50, "utf-8")
    folder = tmp_path / "model"
    train_sentencepiece({"de": tmp_path / "de.txt", "en": tmp_path / "en.txt"}, 30, folder)
    torch.manual_seed(0)
    size = {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "bos_index": 0, "eos_index": 2, "pad_index": 1}
    config = xlm.XLMConfig(vocab_size=30, n_langs=2, lang2id={"de": 0, "en": 1}, **size)
    xlm.XLMWithLMHeadModel(config).save_pretrained(folder)
    pair = xlm.EncoderDecoderModel.from_encoder_decoder_pretrained(folder, directions=[["de", "en"]])
    pair.save_pretrained(folder)
    return folder


def test_pairs_are_scored(model: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "de-en.test.tsv"
    pairs.write_text("der hund schläft\tthe dog sleeps\n" * 4, "utf-8")
    shown = CliRunner().invoke(app, ["evaluate", str(model), "--pairs", str(pairs)])
    assert shown.exit_code == 0, shown.output
    for word in ("direction", "BLEU of copying", "de-en.test.tsv", "tok:13a"):
        assert word in shown.output
    told = CliRunner().invoke(app, ["evaluate", str(model), "--pairs", f"de-en={pairs}", "--json", "--limit", "2"])
    record = json.loads(told.stdout)
    assert (
        record["pairs"] == 2
        and record["source"] == "de"
        and record["scores"]["bleu"]["signature"].startswith("nrefs:1")
    )


def test_one_model_is_needed(model: Path) -> None:
    found = CliRunner().invoke(app, ["evaluate", "--pairs", "de-en=x.tsv"])
    assert found.exit_code != 0 and "0 models given: one is needed" in str(found.exception or found.output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pairs", "de-en=x.tsv", "--benchmark", "xnli"], "--benchmark does not go with --pairs"),
        (["--pairs", "de-en=x.tsv", "--no-baselines"], "--baselines does not go with --pairs"),
        (["--pairs", "de-en=x.tsv", "--split", "test"], "--split does not go with --pairs"),
        (["--pairs", "de-en=x.tsv", "--report", "r"], "--report does not go with --pairs"),
        (["--benchmark", "xnli", "--data", ".", "--beams", "4"], "--beams goes with --pairs alone"),
        (["--benchmark", "xnli", "--data", ".", "--tokenize", "zh"], "--tokenize goes with --pairs alone"),
    ],
)
def test_options_of_the_other_kind_are_refused(options: list[str], message: str) -> None:
    found = CliRunner().invoke(app, ["evaluate", "m", *options])
    assert found.exit_code != 0 and message in str(found.exception or found.output)


def test_the_signatures_of_both_directions_are_told(model: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app, ["evaluate", str(model), "--pairs", f"de-en={_pairs(tmp_path)}", "--tokenize", "char"]
    )
    assert told.exit_code == 0 and "tok:char" in told.output and "tok:13a" not in told.output


def _pairs(folder: Path) -> Path:
    path = folder / "pairs.tsv"
    path.write_text("der hund schläft\tthe dog sleeps\n" * 2, "utf-8")
    return path
