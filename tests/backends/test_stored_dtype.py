"""The type that a checkpoint's weights are kept in, where none is asked for."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import torch

from xlm.backends.torch.weights import _stored_dtype
from xlm.checkpoints.files import open_checkpoint, save_safetensors


def test_it_is_that_of_most_numbers_not_of_most_names(tmp_path: Path) -> None:
    """Norms and biases in float32 are many and small; the matrices decide."""
    small = {f"norm.{n}": np.zeros(4, np.float32) for n in range(9)}
    save_safetensors(tmp_path, {**small, "matrix": np.zeros((64, 64), ml_dtypes.bfloat16)})
    assert _stored_dtype(open_checkpoint(tmp_path)) is torch.bfloat16
    state = {f"norm.{n}": torch.zeros(4) for n in range(9)} | {"matrix": torch.zeros(64, 64, dtype=torch.float16)}
    assert _stored_dtype(state) is torch.float16
