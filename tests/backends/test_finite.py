"""Weights that are not numbers are loaded with a warning that names them, or refused where asked."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import xlm


def test_nan_weights_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = xlm.XLMRobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = xlm.XLMRobertaModel(config)
    with torch.no_grad():
        model.encoder.layer[0].intermediate.dense.bias[3] = torch.nan
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="xlm"):
        xlm.XLMRobertaModel.from_pretrained(tmp_path)
    assert "encoder.layer.0.intermediate.dense.bias" in caplog.text
    with pytest.raises(xlm.CheckpointError, match=r"encoder\.layer\.0\.intermediate\.dense\.bias"):
        xlm.XLMRobertaModel.from_pretrained(tmp_path, strict_finite=True)
