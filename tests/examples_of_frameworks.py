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


def learnt(
    name: str,
    task: str,
    root: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[dict[str, Any], Any]:
    """Run an example of a task and check its scores: a batch of two texts, and what PyTorch makes of it with the model."""
    import torch

    import xlm

    case = CASES[task]
    example = load_example(name, root, monkeypatch)
    case.check(example.main(["--task", task, "--epochs", str(case.epochs), "--out", str(out)]))
    assert f"{case.rows} rows; saved to {out}" in capsys.readouterr().out
    batch = xlm.AutoTokenizer.from_pretrained(out)(
        ["Hello world!", "Здравствуй, мир!"], padding=True, return_tensors="pt"
    )
    if task == "choose":
        batch = {name: value[None] for name, value in batch.items()}
    model = getattr(xlm, f"AutoModel{case.head}").from_pretrained(out)
    with torch.no_grad():
        return batch, model(batch["input_ids"], attention_mask=batch["attention_mask"])


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
