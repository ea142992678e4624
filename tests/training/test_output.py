"""What a run may write into and remove: its own folders alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import toytasks
from xlm.errors import ConfigError, OutputError
from xlm.folders import atomic_folder
from xlm.training.finetune import finetune
from xlm.training.output import check_output, remove_state, run_lock

FAST: dict[str, Any] = {
    "learning_rate": 5e-3,
    "batch": 16,
    "precision": "fp32",
    "quiet": True,
    "epochs": 1,
    "threads": 1,
}


def made(folder: Path, content: str = "ours") -> Path:
    with atomic_folder(folder) as temporary:
        (temporary / "weights").write_text(content, "utf-8")
    return folder


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    base = toytasks.checkpoint(tmp_path / "base")
    train = toytasks.write(tmp_path / "train.jsonl", toytasks.rows("classify", 32, 1))
    return {"task": "classify", "model": base, "train": str(train), "output": tmp_path / "run", **FAST}


@pytest.mark.filterwarnings("ignore")
def test_a_finished_run_is_replaced_only_when_that_is_said(given: dict[str, Any], tmp_path: Path) -> None:
    first = finetune(**given)
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    for changed in ({}, {"batch": 8}):
        with pytest.raises(OutputError, match=r"output='.*run' holds the model of a finished run.*--fresh"):
            finetune(**{**given, **changed})
    with pytest.raises(ConfigError, match="no checkpoint to resume from"):
        finetune(**given, resume=True)
    assert first.model is not None and (first.model / "model.safetensors").read_bytes() == before
    finetune(**{**given, "batch": 8}, resume=False)
    run = tmp_path / "run"
    assert (run / "previous-1" / "model" / "model.safetensors").read_bytes() == before
    assert (run / "previous-1" / "data.json").is_file() and (run / "model" / "model.safetensors").read_bytes() != before


@pytest.mark.filterwarnings("ignore")
def test_a_run_does_not_mix_with_other_files(given: dict[str, Any], tmp_path: Path) -> None:
    theirs = tmp_path / "run" / "checkpoints" / "step-7"
    theirs.mkdir(parents=True)
    (theirs / "thesis.txt").write_text("years of work", "utf-8")
    for resume in (None, False):
        with pytest.raises(OutputError, match=r"holds files that are no run's \(checkpoints\)"):
            finetune(**given, resume=resume)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"], "nothing was written there"
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(OutputError, match=r"output='.*file' is a file"):
        finetune(**{**given, "output": tmp_path / "file"})


def test_folders_where_a_run_may_begin(tmp_path: Path) -> None:
    check_output(tmp_path / "new", None)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "train-17.log").write_text("starting", "utf-8")
    check_output(tmp_path, None)
    with run_lock(tmp_path):
        (tmp_path / "recipe.json").write_text("{}", "utf-8")
    check_output(tmp_path, None)


def test_only_folders_of_ours_are_removed(tmp_path: Path) -> None:
    for name in ("checkpoints", "best"):
        made(tmp_path / name / "step-3")
        (tmp_path / name / "step-4").mkdir()
        (tmp_path / name / "step-4" / "thesis.txt").write_text("years of work", "utf-8")
    (tmp_path / "best" / "plan.md").write_text("mine", "utf-8")
    remove_state(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["best/plan.md", "best/step-4/thesis.txt", "checkpoints/step-4/thesis.txt"]
    made(tmp_path / "other" / "checkpoints" / "step-1")
    remove_state(tmp_path / "other")
    assert not (tmp_path / "other" / "checkpoints").exists()


def test_the_lock_is_left_out_where_the_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with run_lock(tmp_path), run_lock(tmp_path):
        assert (tmp_path / "run.lock").is_file()
