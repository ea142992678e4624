"""The Keras example learns six tasks, and what it saves opens in PyTorch and in TensorFlow alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import frameworks

pytest.importorskip("tensorflow")
import tensorflow as tf

from examples_of_frameworks import CASES, learnt

assert frameworks.FRAMEWORKS


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES)
def test_the_example(
    task: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch, want = learnt("finetune_keras", task, root, tmp_path, monkeypatch, capsys)
    served = tf.saved_model.load(str(tmp_path / "saved_model" / "1")).signatures["serving_default"]
    inputs = {name: tf.constant(batch[name].numpy(), tf.int32) for name in ("input_ids", "attention_mask")}
    name = "start_logits" if task == "answer" else "logits"
    np.testing.assert_allclose(served(**inputs)[name], want[name].numpy(), atol=2e-4, rtol=1e-3)
