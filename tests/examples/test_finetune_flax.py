"""The Flax example learns six tasks, and what it saves opens in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import frameworks

pytest.importorskip("jax")
pytest.importorskip("optax")
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
    example = load_example("finetune_flax", root, monkeypatch)
    scores = example.main(["--task", task, "--epochs", str(case.epochs), "--out", str(tmp_path)])
    case.check(scores)
    assert f"{case.rows} rows; saved to {tmp_path}" in capsys.readouterr().out
    tokenizer = xlm.AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer(["Hello world!", "Здравствуй, мир!"], padding=True, return_tensors="pt")
    if task == "choose":
        batch = {name: value[None] for name, value in batch.items()}
    with torch.no_grad():
        model = getattr(xlm, f"AutoModel{case.head}").from_pretrained(tmp_path)
        want = model(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    flax = getattr(xlm, f"FlaxAutoModel{case.head}").from_pretrained(tmp_path)
    have = flax(batch["input_ids"].numpy(), batch["attention_mask"].numpy())[0]
    np.testing.assert_allclose(have, want.numpy(), atol=2e-4, rtol=1e-3)
