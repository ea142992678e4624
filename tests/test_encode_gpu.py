"""The benchmark for GPUs runs from end to end where there is none, with a loop in place of the packed kernel."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import varlen_on_cpu

assert varlen_on_cpu
SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "encode_gpu.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    from xlm.inference import engine

    for name in ("TOKENS_A_PACK", "TOKENS_A_PACK_GPU"):  # the script sets them
        monkeypatch.setattr(engine, name, getattr(engine, name))
    spec = importlib.util.spec_from_file_location("encode_gpu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_all_engines_answer_alike_and_are_counted(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {name: tmp_path / f"gpu.{name}" for name in ("json", "png", "md")}
    where = ["--device", "cpu", "--tiny", "--backend", "aot_eager"]
    out = ["--json", str(kept["json"]), "--plot", str(kept["png"]), "--table", str(kept["md"])]
    assert script.main([*where, *out]) == 0
    rows = [json.loads(line) for line in kept["json"].read_text().splitlines()]
    engines = {row["engine"] for row in rows}
    assert engines >= set(script.OURS) and len(rows) == 2 * 2 * len(engines)
    if importlib.util.find_spec("transformers"):
        assert script.THEIRS in engines
    for row in rows:
        assert row["cosine"] > 0.999 and row["dtype"] == "bfloat16" and 1000 < row["tokens"] < 2000
        assert row["best"] * min(row["times"]) == pytest.approx(row["tokens"])
    assert kept["png"].read_bytes()[:4] == b"\x89PNG"
    lines = kept["md"].read_text().splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == len(rows) + 2
    assert kept["md"].read_text() in capsys.readouterr().out


def test_one_engine_that_fails_is_told_and_the_others_go_on(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("no such class here")

    monkeypatch.setattr(script, "their_model", broken)
    assert script.main(["--device", "cpu", "--tiny", "--eager-alone"]) == 0
    said = capsys.readouterr()
    assert "ValueError: no such class here" in said.err and "| xlm " in said.out and script.THEIRS not in said.out


def test_without_a_gpu_it_says_so_in_a_line(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main([]) == 0
    assert capsys.readouterr().out.startswith("no GPU here: nothing is measured") and script.main([]) == 0


def test_the_work_of_a_token(script: Any) -> None:
    """XLM-R base: 85 million weights in the encoder's matrices, twice each, and attention."""
    one = script.flops("base", [[0] * 100])
    assert one == pytest.approx(100 * 2 * 12 * (4 * 768**2 + 2 * 768 * 3072) + 12 * 4 * 768 * 100**2)
    assert 0.17e9 < script.flops("base", [[0] * 190]) / 190 < 0.19e9
