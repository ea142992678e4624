"""``engine.translate`` and ``xlm translate``: answers in order, independent of neighbours; languages and limits by name."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import toytasks
import xlm
from xlm.backends.torch import seq2seq
from xlm.cli import main
from xlm.tokenizers.detokenize import detokenize

TEXTS = ["the film was good .", "Ana was in Rome", "sad", "Where is Dora ? with one day in Lima and Oslo .", "nice"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toytasks.translator(tmp_path_factory.mktemp("mt"), "xlm", directions=[["de", "en"], ["en", "de"]])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_answers_do_not_depend_on_the_others(folder: Path, dtype: str) -> None:
    engine = xlm.load(folder, dtype=dtype)
    assert engine.tasks == ("translate",) and engine.directions == [("de", "en"), ("en", "de")]
    together = engine.translate(TEXTS, "en", "de", num_beams=2)
    assert [one["text"] for one in together] == TEXTS
    assert {(one["source"], one["target"]) for one in together} == {("de", "en")}
    assert len({one["translation"] for one in together}) > 2
    if dtype == "float32":
        assert [engine.translate([text], "en", num_beams=2)[0] for text in TEXTS] == together
    assert engine.translate([], "en") == []


def test_short_of_memory_it_translates_fewer_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = xlm.load(folder)
    wanted, write, done = engine.translate(TEXTS, "en", "de"), seq2seq.write, []

    def small(model: Any, rows: Any, *arguments: Any, **options: Any) -> Any:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write(model, rows, *arguments, **options)

    monkeypatch.setattr(seq2seq, "write", small)
    assert engine.translate(TEXTS, "en", "de", progress=done.append) == wanted
    assert done == sorted(done) and done[-1] == len(TEXTS)


def test_the_scores_of_a_step_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [3] * 2000
    found = seq2seq.batches(lengths, torch.device("cuda"), 4, 250_002)
    assert sorted(index for group in found for index in group) == list(range(2000))
    assert max(map(len, found)) * 4 * 250_002 <= 2**28 < (max(map(len, found)) + 1) * 4 * 250_002
    assert len(seq2seq.batches(lengths, torch.device("cuda"), 4, 5000)) == 1
    engine, write, sizes = xlm.load(folder), seq2seq.write, []

    def noted(model: Any, rows: Any, *arguments: Any, **options: Any) -> Any:
        sizes.append(len(rows))
        return write(model, rows, *arguments, **options)

    monkeypatch.setattr(seq2seq, "write", noted)
    monkeypatch.setattr(seq2seq, "_SCORES", 4 * engine.model.decoder.spec.vocab_size)
    engine.translate(TEXTS, "en", "de", num_beams=2)
    assert sizes == [2, 2, 1]


def test_the_engine_writes_what_the_model_does(folder: Path) -> None:
    engine, model = xlm.load(folder), xlm.EncoderDecoderModel.from_pretrained(folder)
    tokenizer = xlm.AutoTokenizer.from_pretrained(folder)
    for beams, text in ((1, TEXTS[0]), (3, TEXTS[3])):
        inner = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[model.config.encoder_start_token_id, *inner, model.config.eos_token_id]])
        made = model.generate(
            ids, langs="en", target_lang="de", num_beams=beams, max_new_tokens=int(1.5 * ids.shape[1]) + 10
        )
        want = detokenize(tokenizer.decode(made[0, 1:], skip_special_tokens=True).split(), "de")
        assert engine.translate([text], "de", num_beams=beams)[0]["translation"] == want.strip()


def test_a_start_token_says_the_target(tmp_path: Path) -> None:
    engine = xlm.load(toytasks.translator(tmp_path, "xlm-roberta", decoder_start_token_ids={"de": 5, "en": 6}))
    assert engine.translate(["good film"], "de")[0]["target"] == "de"
    with pytest.raises(xlm.InputError, match="target='fr': must be one of de, en"):
        engine.translate(["good film"], "fr")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ((["good"], "fr"), "target='fr': this model translates de-en, en-de"),
        ((["good"], "de", "de"), "target='de': this model translates de-en, en-de"),
        ((["good"],), "target is missing: this model translates de-en, en-de"),
        ((["good", " "], "en"), r"texts\[1\]: the text is empty"),
        ((["good " * 700], "en"), r"texts\[0\]: 702 tokens with the special ones, the model's limit is"),
        (("good", "en"), "texts is of type str"),
        (([3], "en"), r"texts\[0\] is of type int"),
    ],
)
def test_bad_input_is_named(folder: Path, call: Any, words: str) -> None:
    with pytest.raises(xlm.InputError, match=words):
        xlm.load(folder).translate(*call)


def test_long_texts_are_cut_when_asked(folder: Path) -> None:
    engine = xlm.load(folder)
    assert engine.translate(["good " * 700], "en", truncate=True, num_beams=1, max_new_tokens=3)[0]["translation"]


def test_other_models_do_not_translate(tmp_path: Path, folder: Path) -> None:
    engine = xlm.load(toytasks.checkpoint(tmp_path / "lm"))
    with pytest.raises(xlm.InputError, match="translate needs an encoder-decoder"):
        engine.translate(["good"], "en")
    with pytest.raises(xlm.InputError, match="fill_mask needs"):
        xlm.load(folder).fill_mask(["good <mask>"])


def test_command(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    want = [one["translation"] for one in xlm.load(folder).translate(TEXTS, "en")]
    base = ["translate", "-m", str(folder), "--to", "en"]
    assert main([*base, *TEXTS]) == 0
    assert capfd.readouterr().out.splitlines() == [" ".join(text.split()) for text in want]
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    assert main([*base, "--from", "de", "-f", str(tmp_path / "in.txt"), "--json"]) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [r["translation"] for r in records] == want and {r["source"] for r in records} == {"de"}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    assert main([*base, "-f", str(tmp_path / "in.jsonl"), "--json"]) == 0
    assert [json.loads(line)["translation"] for line in capfd.readouterr().out.splitlines()] == want
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode()), encoding="utf-8"))
    assert main([*base]) == 0
    assert len(capfd.readouterr().out.splitlines()) == len(TEXTS)
    (tmp_path / "in.txt").write_text("good\n" + "good " * 700 + "\n")
    assert main([*base, "-f", str(tmp_path / "in.txt")]) == 1
    assert "in.txt:2: 702 tokens" in capfd.readouterr().err
    assert main(["translate", "good"]) == 1
    assert "--model is missing" in capfd.readouterr().err


def test_what_holds_one_model_refuses_two(folder: Path, tmp_path: Path) -> None:
    from xlm.inference import export, quantize

    with pytest.raises(xlm.InputError, match="is an encoder-decoder: folders in int8 hold one model"):
        quantize.write(folder, tmp_path / "int8")
    with pytest.raises(xlm.InputError, match="export models of one side"):
        export.export(folder, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())
