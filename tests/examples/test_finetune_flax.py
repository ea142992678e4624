"""The Flax example learns six tasks, and what it saves opens in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import frameworks

pytest.importorskip("jax")
pytest.importorskip("optax")

import xlm
from examples_of_frameworks import CASES, learnt

assert frameworks.FRAMEWORKS


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES)
def test_the_example(
    task: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch, want = learnt("finetune_flax", task, root, tmp_path, monkeypatch, capsys)
    flax = getattr(xlm, f"FlaxAutoModel{CASES[task].head}").from_pretrained(tmp_path)
    have = flax(batch["input_ids"].numpy(), batch["attention_mask"].numpy())[0]
    np.testing.assert_allclose(have, want[0].numpy(), atol=2e-4, rtol=1e-3)
