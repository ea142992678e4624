"""The Keras example learns six tasks, and what it saves opens in PyTorch and in TensorFlow alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import frameworks

pytest.importorskip("tensorflow")
import tensorflow as tf
import torch

import xlm
from examples_of_frameworks import CASES, load_example

assert frameworks.FRAMEWORKS


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES)
def test_the_example(
    task: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[task]
    example = load_example("finetune_keras", root, monkeypatch)
    scores = example.main(["--task", task, "--epochs", str(case.epochs), "--out", str(tmp_path)])
    case.check(scores)
    assert f"{case.rows} rows; saved to {tmp_path}" in capsys.readouterr().out
    tokenizer = xlm.AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer(["Hello world!", "Здравствуй, мир!"], padding=True, return_tensors="pt")
    if task == "choose":
        batch = {name: value[None] for name, value in batch.items()}
    with torch.no_grad():
        model = getattr(xlm, f"AutoModel{case.head}").from_pretrained(tmp_path)
        want = model(batch["input_ids"], attention_mask=batch["attention_mask"])
    served = tf.saved_model.load(str(tmp_path / "saved_model" / "1")).signatures["serving_default"]
    inputs = {name: tf.constant(batch[name].numpy(), tf.int32) for name in ("input_ids", "attention_mask")}
    name = "start_logits" if task == "answer" else "logits"
    np.testing.assert_allclose(served(**inputs)[name], want[name].numpy(), atol=2e-4, rtol=1e-3)
