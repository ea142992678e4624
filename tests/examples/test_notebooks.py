"""The notebooks say what the examples say, and run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

NAMES = [
    "sequence_classification",
    "token_classification",
    "question_answering",
    "multiple_choice",
    "retrieval",
    "masked_language_modeling",
    "causal_language_modeling",
]


@pytest.fixture
def make(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("make_notebooks", root / "examples" / "notebooks" / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_what_the_examples_give(make: Any, root: Path) -> None:
    assert list(make.NOTEBOOKS) == NAMES
    assert make.main(["--check"]) == 0
    for name in NAMES:
        path = root / "examples" / "notebooks" / f"{name}.ipynb"
        assert path.stat().st_size < 20_000
        cells = json.loads(path.read_text("utf-8"))["cells"]
        assert all(cell["outputs"] for cell in cells[-1:]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(make: Any, name: str) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    made = make.executed(make.notebook(name))
    printed = ["".join(output.get("text", "")) for cell in made["cells"] for output in cell.get("outputs", ())]
    assert printed[-1].strip()
