"""The Keras example learns, and what it saves opens in PyTorch and in TensorFlow alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import tensorflow as tf
import torch

import frameworks
import xlm
from xlm.assets import bundled_folder

assert frameworks.FRAMEWORKS


@pytest.mark.slow
def test_the_example(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        bundled_folder()
    except xlm.CheckpointError as error:
        pytest.skip(str(error))
    spec = importlib.util.spec_from_file_location("finetune_keras", root / "examples" / "finetune_keras.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    accuracy = example.main(["--epochs", "10", "--out", str(tmp_path)])
    assert accuracy >= 0.5  # chance is 0.12
    assert f"accuracy {accuracy:.2f} on 24 texts" in capsys.readouterr().out
    tokenizer = xlm.AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text, _ in example.demo_rows()[1]][:5]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        model = xlm.AutoModelForSequenceClassification.from_pretrained(tmp_path)
        want = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    served = tf.saved_model.load(str(tmp_path / "saved_model" / "1")).signatures["serving_default"]
    inputs = {name: tf.constant(batch[name].numpy(), tf.int32) for name in ("input_ids", "attention_mask")}
    np.testing.assert_allclose(served(**inputs)["logits"], want, atol=1e-4, rtol=1e-4)
