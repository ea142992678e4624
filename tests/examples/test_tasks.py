"""Every example of a task runs as it is, and learns its own rows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from xlm.assets import bundled_folder
from xlm.errors import CheckpointError

# example -> the score to look at, and what it must reach within these epochs
CASES = {
    "classify": ("accuracy", 0.9, 12),
    "tag": ("f1", 0.9, 4),
    "answer": ("f1", 60.0, 20),
    "choose": ("accuracy", 0.6, 6),
    "retrieve": ("mrr", 0.6, 8),
    "language_model": ("top1", 0.2, 10),
    "generate": ("top1", 0.3, 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_example_runs(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        bundled_folder()
    except CheckpointError as error:
        pytest.skip(str(error))
    monkeypatch.syspath_prepend(str(root / "examples"))
    monkeypatch.delitem(sys.modules, "common", raising=False)
    spec = importlib.util.spec_from_file_location(f"example_{name}", root / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    score, least, epochs = CASES[name]
    scores = example.main(["--output", str(tmp_path), "--epochs", str(epochs)])
    assert scores[score] >= least, scores
    assert capsys.readouterr().out
