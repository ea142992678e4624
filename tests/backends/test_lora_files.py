"""Adapters whose settings are no adapter's: named, not failed on raw."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
import xlm
from xlm.backends.torch.lora import load_adapter


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds a list"),
        ("{", "not JSON"),
        ('{"peft_type": "LORA", "peft_type": "LORA"}', "stands twice"),
        ('{"peft_type": "LORA"}', "target_modules is missing"),
        (None, "no such file"),
    ],
)
def test_settings_of_no_adapter(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(xlm.CheckpointError, match=rf"adapter_config\.json.*{message}"):
        load_adapter(tiny.model(tiny.ONE_A_FAMILY[1]), tmp_path)
