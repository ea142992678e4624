"""What is given counts: options are honoured or refused, files are read the same by every command, a cut is told."""

from __future__ import annotations

import io
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
import toytasks
import xlm
from xlm.cli import main

LONG = "good film " * 100


class Result:
    """What one command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str | Path, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        return Result(main([str(argument) for argument in arguments]), *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model for every task, with random weights."""
    place = tmp_path_factory.mktemp("models")
    base = toytasks.checkpoint(place / "base")
    tokenizer = xlm.AutoTokenizer.from_pretrained(base)
    found = {"fill": base, "translate": toytasks.translator(place / "translator")}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "classify": (xlm.XLMRobertaForSequenceClassification, {"num_labels": 4}),
        "rerank": (xlm.XLMRobertaForSequenceClassification, {"num_labels": 1}),
        "answer": (xlm.XLMRobertaForQuestionAnswering, {}),
        "choose": (xlm.XLMRobertaForMultipleChoice, {}),
        "generate": (xlm.XLMRobertaForCausalLM, {"is_decoder": True}),
    }
    for name, (cls, options) in kinds.items():
        cls.from_pretrained(base, **options).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
        found[name] = place / name
    return found


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["embed", "fill-mask", "rerank", "classify"])
def test_jsonl_is_read_by_every_command(task: str, folders: dict[str, Path], run: Run, tmp_path: Path) -> None:
    name = {"embed": "fill", "fill-mask": "fill"}.get(task, task)
    before = ["query"] if task == "rerank" else []
    texts = ["the film was <mask>", "Ana was in <mask>"]
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n\n" for text in texts), "utf-8")
    plain = tmp_path / "lines.txt"
    plain.write_text("\n".join(texts), "utf-8")
    wanted = run(task, *before, "-m", folders[name], "-f", plain, "--json")
    assert wanted.code == 0 and len(wanted.records) == 2, wanted.err
    for found in (
        run(task, *before, "-m", folders[name], "-f", lines, "--json"),
        run(task, *before, "-m", folders[name], "--jsonl", "--json", stdin=lines.read_bytes()),
    ):
        assert found.code == 0, found.err
        for one, other in zip(found.records, wanted.records, strict=True):
            assert one.keys() == other.keys() and one.get("text") == other.get("text")
    lines.write_text('{"text": "good"}\n{"title": "none"}\n', "utf-8")
    failed = run(task, *before, "-m", folders[name], "-f", lines)
    assert failed.code == 1 and "lines.jsonl:2: " in failed.err and "text" in failed.err
    assert "give one or the other" in run(task, *before, "a text", "-m", folders[name], "--jsonl").err


def test_jsonl_that_is_not_utf8_is_replaced_where_that_is_asked_for(
    folders: dict[str, Path], run: Run, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b'{"question": "Where is \xff ?", "context": "Ana was in Rome ."}\n')
    assert "lines.jsonl:1: invalid UTF-8: byte 0xff" in run("answer", "-m", folders["answer"], "-f", lines).err
    found = run("answer", "-m", folders["answer"], "-f", lines, "--json", "--errors", "replace")
    assert found.records[0]["question"] == "Where is \ufffd ?" and found.err.startswith("1 lines with U+FFFD")
    lines.write_bytes(b'{"prompt": "Ana \xff", "choices": ["Rome", "Oslo"]}\n')
    found = run("choose", "-m", folders["choose"], "-f", lines, "--json", "--errors", "replace")
    assert found.records[0]["prompt"] == "Ana \ufffd" and "U+FFFD" in found.err
    (tmp_path / "context.txt").write_bytes(b"Ana was \xff in Rome .")
    asked = ("answer", "Where ?", "-m", folders["answer"], "--context-file", tmp_path / "context.txt", "--json")
    assert "context.txt:1: invalid UTF-8" in run(*asked).err
    assert run(*asked, "--errors", "replace").code == 0


def test_files_of_texts_are_answered_in_batches(
    folders: dict[str, Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    fill_mask = xlm.Engine.fill_mask

    def counted(self: Any, texts: list[str], *more: Any, **options: Any) -> Any:
        calls.append(len(texts))
        return fill_mask(self, texts, *more, **options)

    monkeypatch.setattr(xlm.Engine, "fill_mask", counted)
    file = tmp_path / "lines.txt"
    file.write_text("a <mask>\n" * 40, "utf-8")
    assert len(run("fill-mask", "-m", folders["fill"], "-f", file, "--json").records) == 40
    assert calls == [32, 8]


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "a", "--column", "text"), "--column goes with --input alone"),
        (("embed", "a", "--rows", "5"), "--rows goes with --input alone"),
        (("embed", "a", "--half"), "--half goes with --input alone"),
        (("embed", "a", "--shard", "0/2"), "--shard goes with --input alone"),
        (("embed", "--input", ".", "-o", "out", "--errors", "replace"), "--errors does not go with --input"),
        (("embed", "--input", ".", "-o", "out", "--chunks", "3"), "--chunks does not go with --input"),
        (("embed", "--input", "nosuch", "-o", "out"), "nosuch: no such file or folder"),
        (("embed", "a", "--chunks", "3", "--json", "--truncate"), "--truncate does not go with --chunks"),
        (("embed", "a", "--chunks", "3", "--json", "--pooling", "cls"), "--pooling does not go with --chunks"),
        (("embed", "a", "--chunks", "3", "--json", "--long", "windows"), "--long does not go with --chunks"),
        (("embed", "a", "--chunks", "3", "--json", "-o", "x.npy"), "--output does not go with --chunks"),
        (("embed", *"abcdefghijklm"), "13 texts: at most 12 fit on the screen"),
        (("embed", "a", "-o", "nodir/x.npy"), "--output is 'nodir/x.npy': it cannot be written, there is no folder"),
        (("embed", "a", "-o", "."), "--output is '.', a folder: a file is needed"),
        (("generate", "a", "--temperature", "0.5"), "--temperature goes with --sample alone"),
        (("generate", "a", "--top-p", "0.5"), "--top-p goes with --sample alone"),
        (("generate", "a", "--top-k", "5"), "--top-k goes with --sample alone"),
        (("generate", "a", "--seed", "5"), "--seed goes with --sample alone"),
        (("translate", "a", "-m", "x", "--seed", "5"), "--seed goes with --sample alone"),
        (("translate", "a", "-m", "x", "--top-p", "0.5"), "--top-p goes with --sample alone"),
        (("translate", "a", "-m", "x", "--sample", "--length-penalty", "2"), "--length-penalty is of beams"),
        (("translate", "a", "-m", "x", "--beams", "1", "--length-penalty", "2"), "--length-penalty is of beams"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_refused_before_a_model_is_loaded(
    arguments: tuple[str, ...], message: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("xlm.inference.engine.load", loaded)
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.code == 1 and result.out == "" and message in result.err and result.err.count("\n") == 1, result.err


def test_as_many_labels_as_asked_for(folders: dict[str, Path], run: Run) -> None:
    given = ("classify", "good", "-m", folders["classify"])
    assert len(run(*given, "--json").records[0]["labels"]) == 4
    assert len(run(*given, "--json", "-k", "2").records[0]["labels"]) == 2
    assert run(*given).out.count("%") == 3 and run(*given, "-k", "1").out.count("%") == 1


def test_what_is_drawn_is_shaped(folders: dict[str, Path], run: Run) -> None:
    engine = xlm.load(folders["generate"])
    given = ("generate", "Ana was", "-m", folders["generate"], "--json", "-n", "8", "--sample")
    found = run(*given, "--seed", "7", "--top-k", "3", "--temperature", "2", "--top-p", "0.9").records
    shaped: dict[str, Any] = {"do_sample": True, "seed": 7, "top_k": 3, "temperature": 2.0, "top_p": 0.9}
    assert found == engine.generate(["Ana was"], max_new_tokens=8, **shaped)
    translator = xlm.load(folders["translate"])
    given = ("translate", "Ana was", "-m", folders["translate"], "-s", "de", "-t", "en", "--json", "--sample")
    shaped = {"do_sample": True, "seed": 7, "top_k": 3, "top_p": 0.9}
    for beams, more in ((1, ()), (3, ("--beams", "3"))):
        found = run(*given, "--seed", "7", "--top-k", "3", "--top-p", "0.9", *more).records
        assert found == translator.translate(["Ana was"], "en", "de", num_beams=beams, **shaped)


def test_how_a_model_runs_is_an_option_of_every_command(folders: dict[str, Path], run: Run, tmp_path: Path) -> None:
    plain = xlm.load(folders["fill"], batch_invariant=True).embed(["the film", "Ana was in Rome with Ben"])
    for more in (
        ("--batch-invariant",),
        ("--batch-invariant", "--offload", "disk"),
        ("--batch-invariant", "--no-pickle"),
    ):
        out = tmp_path / "x.npy"
        result = run("embed", "the film", "Ana was in Rome with Ben", "-m", folders["fill"], "-o", out, *more)
        assert result.code == 0, result.err
        np.testing.assert_allclose(np.load(out), plain, atol=1e-6)
    assert (
        "compile=True with device 'cpu'"
        in run("classify", "a", "-m", folders["classify"], "--compile", "--device", "cpu").err
    )
    assert "offload='x'" in run("generate", "a", "-m", folders["generate"], "--offload", "x").err


# -- cuts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["embed", "classify", "rerank", "fill-mask", "choose", "translate"])
def test_a_cut_is_told(task: str, folders: dict[str, Path], run: Run, tmp_path: Path) -> None:
    name = {"embed": "fill", "fill-mask": "fill"}.get(task, task)
    more: list[str] = {"rerank": ["query"], "translate": ["-s", "de", "-t", "en"]}.get(task, [])
    texts = ["<mask> good", f"<mask> {LONG}", "<mask> bad", f"<mask> fine {LONG}"]
    file = tmp_path / "texts.jsonl"
    field = "prompt" if task == "choose" else "text"
    rows = [{field: text} | ({"choices": ["a", "b"]} if task == "choose" else {}) for text in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    given = (task, *more, "-m", folders[name], "-f", file, "--truncate")
    result = run(*given, "--json")
    assert result.code == 0, result.err
    records = sorted(result.records, key=lambda record: record.get("index", 0))
    assert [record["truncated"] for record in records] == [False, True, False, True]
    notes = [
        line for line in result.err.splitlines() if line.startswith("2 inputs were longer than the model and cut: ")
    ]
    assert notes == [f"2 inputs were longer than the model and cut: {file}:2, {file}:4"]
    assert "longer than the model and cut" in run(*given).err
    refused = run(*given[:-1], "--json")
    assert refused.code == 1 and f"{file}:2" in refused.err


def test_nothing_is_told_where_nothing_is_cut(folders: dict[str, Path], run: Run) -> None:
    result = run("classify", "good", "-m", folders["classify"], "--truncate", "--json")
    assert result.err == "" and result.records[0]["truncated"] is False
    assert "truncated" not in run("classify", "good", "-m", folders["classify"], "--json").records[0]


# -- empty lines, vectors of other models -----------------------------------------------------------------------------


def test_empty_lines_stay_where_they_are_in_a_translation(folders: dict[str, Path], run: Run, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("Ana was\n\n  \nin Rome\n", "utf-8")
    given = ("translate", "-m", folders["translate"], "-s", "de", "-t", "en")
    for result in (run(*given, "-f", file, "--json"), run(*given, "--json", stdin=file.read_bytes())):
        assert result.code == 0, result.err
        assert [record["text"] for record in result.records] == ["Ana was", "", "  ", "in Rome"]
        assert [bool(record["translation"]) for record in result.records] == [True, False, False, True]
        assert {record["target"] for record in result.records} == {"en"}
    lines = run(*given, "-f", file).out.split("\n")
    assert len(lines) == 5 and lines[1:3] == ["", ""] and lines[0] and lines[3]
    assert "argument 1: the text is empty" in run(*given, " ").err


def test_an_empty_line_is_named_before_anything_is_embedded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlm.inference.engine.load", None)
    (tmp_path / "lines.txt").write_text("one\n\n", "utf-8")
    result = run("embed", "-f", tmp_path / "lines.txt", "--json")
    assert result.code == 1 and result.out == "" and "lines.txt:2: the text is empty" in result.err


def test_vectors_of_a_model_of_something_else_are_warned_of_once(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for name, told in (("rerank", True), ("fill", False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "xlm"):
            engine = xlm.load(folders[name])
            engine.embed(["good"])
            engine.embed(["bad"])
        found = [record.getMessage() for record in caplog.records if "settings of vectors" in record.getMessage()]
        assert len(found) == told and all(str(folders[name]) in message for message in found)


# -- one name, one way ------------------------------------------------------------------------------------------------


def test_the_bundled_model_has_its_names_everywhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xlm.assets import BUNDLED, bundled_folder
    from xlm.hub import resolve
    from xlm.serving.loading import name_of

    for name in ("bundled", BUNDLED):
        assert resolve(name) == bundled_folder() and name_of(name) == BUNDLED
        assert run("inspect", name, "--json").records[0]["path"] == str(bundled_folder())
    assert xlm.load("bundled").name == xlm.load().name == BUNDLED
    (tmp_path / "en.txt").write_text("hello world\n", "utf-8")
    counted = [run("tokenizer", "stats", tmp_path / "en.txt", "--json", *more) for more in ((), ("-m", "bundled"))]
    assert counted[0].records == counted[1].records and counted[0].records[0]["language"] == "en"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()
    assert resolve("bundled") == Path("bundled"), "a folder beats every name"


def test_options_of_another_format_are_refused(run: Run, tmp_path: Path) -> None:
    result = run("export", "bundled", tmp_path / "out", "--torch-export", "--opset", "19")
    assert result.code == 1 and "--opset is of ONNX, and the format is --torch-export" in result.err
    result = run("quantize", "bundled", tmp_path / "out", "--limit", "3")
    assert result.code == 1 and "--limit goes with --texts alone" in result.err
    assert not (tmp_path / "out").exists()


def test_texts_to_measure_with_are_one_file_a_language(tmp_path: Path) -> None:
    from xlm.inference.quantize import read_texts

    for folder, count in (("a", 5), ("b", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "en.txt").write_text("".join(f"line {n}\n\n" for n in range(count)), "utf-8")
    one, two = tmp_path / "a" / "en.txt", tmp_path / "b" / "en.txt"
    with pytest.raises(xlm.InputError, match=r"a.en\.txt and .*b.en\.txt are both of 'en'.*NAME="):
        read_texts([one, two])
    found = read_texts([str(one), f"en-news={two}"], limit=4)
    assert {name: len(lines) for name, lines in found.items()} == {"en": 4, "en-news": 3}


@pytest.mark.parametrize("family", ["xlm-roberta", "xlm"])
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_continued_together_as_alone(
    family: str, beams: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of other lengths are padded, or, where a model would look at padding, those of one length go together."""
    base = toytasks.checkpoint(tmp_path / "model", family)
    options: dict[str, Any] = {"causal": True} if family == "xlm" else {"is_decoder": True}
    cls = xlm.XLMWithLMHeadModel if family == "xlm" else xlm.XLMRobertaForCausalLM
    torch.manual_seed(0)
    model = tiny.stir(cls.from_pretrained(base, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(base)
    engine = xlm.load(base)
    texts = ["Ana was", "the film was good and fine one day", "Ben saw Rome", "in", "Where is Oslo ?", "Chi was"]
    alone = [engine.generate([text], max_new_tokens=6, num_beams=beams)[0] for text in texts]
    rows: list[int] = []
    generate = cls.generate

    def counted(self: Any, ids: Any, **more: Any) -> Any:
        rows.append(len(ids))
        return generate(self, ids, **more)

    monkeypatch.setattr(cls, "generate", counted)
    assert engine.generate(texts, max_new_tokens=6, num_beams=beams) == alone
    assert sum(rows) == len(texts) and len(rows) < len(texts)
    assert len({answer["generated"] for answer in alone}) > 1, "the model says something"
    long = "good " * (engine.max_tokens - 4)  # with room for two tokens or three
    assert engine.generate([*texts, long], max_new_tokens=6, num_beams=beams)[:-1] == alone


def test_a_server_takes_them_too(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    engines: dict[str, Any] = {}

    def served(loaders: dict[str, Any], *_: Any, **__: Any) -> None:
        engines.update({name: load() for name, load in loaders.items()})

    monkeypatch.setattr("xlm.serving.run.run", served)
    assert (
        main(["serve", f"one={folders['fill']}", "bundled", "--batch-invariant", "--no-pickle", "--dtype", "bfloat16"])
        == 0
    )
    assert list(engines) == ["one", "xlmr-mini"]
    assert all(engine.batch_invariant and engine.dtype == "bfloat16" for engine in engines.values())


def test_pickles_are_refused_where_that_is_asked_for(folders: dict[str, Path], run: Run, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(folders["fill"], pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(xlm.XLMRobertaForMaskedLM.from_pretrained(folders["fill"]).state_dict(), pickled / "pytorch_model.bin")
    assert xlm.load(pickled).embed(["good"]).shape[0] == 1
    with pytest.raises(xlm.CheckpointError, match="allow_pickle=False"):
        xlm.load(pickled, allow_pickle=False)
    assert "allow_pickle=False" in run("embed", "good", "-m", pickled, "--no-pickle").err
    heads = tmp_path / "heads"
    shutil.copytree(folders["fill"], heads)
    torch.save({"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, heads / "sparse_linear.pt")
    with pytest.raises(xlm.CheckpointError, match=r"sparse_linear\.pt: a pickle, and allow_pickle=False"):
        xlm.load(heads, allow_pickle=False)


def test_a_vocabulary_is_written_where_o_says(run: Run, tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("the film was good and fine one day in Rome\n" * 50, "utf-8")
    made = run("tokenizer", "train", tmp_path / "en.txt", "-o", tmp_path / "out", "--vocab-size", "22", "--json")
    assert made.code == 0, made.err
    assert Path(made.records[0]["model"]).parent == tmp_path / "out" and made.records[0]["read"].keys() == {"en"}
