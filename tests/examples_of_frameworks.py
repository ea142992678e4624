"""What the tests of the Flax and Keras examples share."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from xlm.assets import bundled_folder
from xlm.errors import CheckpointError

MODULES = ("common", "answer", "choose", "language_model", "tag", "six_tasks", "finetune_flax", "finetune_keras")


@dataclass(frozen=True)
class Case:
    """How long to train, and how good the model is then at least (``least``) or at most (``most``)."""

    head: str
    rows: int
    epochs: int
    score: str
    least: float = 0.0
    most: float = float("inf")

    def check(self, scores: dict[str, float]) -> None:
        assert self.least <= scores[self.score] <= self.most, scores


CASES = {
    "classify": Case("ForSequenceClassification", 24, 10, "accuracy", 0.5),  # chance is 0.12
    "tag": Case("ForTokenClassification", 15, 5, "f1", 0.5),
    "answer": Case("ForQuestionAnswering", 6, 5, "f1", 0.0),
    "choose": Case("ForMultipleChoice", 12, 5, "accuracy", 0.3),
    "fill": Case("ForMaskedLM", 2, 5, "loss", most=7.0),
    "generate": Case("ForCausalLM", 2, 5, "loss", most=9.0),
}


def load_example(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of an example; a skip without the bundled model."""
    try:
        bundled_folder()
    except CheckpointError as error:
        pytest.skip(str(error))
    monkeypatch.syspath_prepend(str(root / "examples"))
    for module in MODULES:
        monkeypatch.delitem(sys.modules, module, raising=False)
    return importlib.import_module(name)
