"""The Flax example learns, and what it saves opens in PyTorch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
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
    spec = importlib.util.spec_from_file_location("finetune_flax", root / "examples" / "finetune_flax.py")
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
        want = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    flax = xlm.FlaxAutoModelForSequenceClassification.from_pretrained(tmp_path)
    have = flax(batch["input_ids"].numpy(), batch["attention_mask"].numpy()).logits
    np.testing.assert_allclose(have, want.numpy(), atol=1e-4, rtol=1e-4)
