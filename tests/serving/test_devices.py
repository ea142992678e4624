"""What a server chooses by the device that its model is on."""

from __future__ import annotations

import pytest
import torch

import xlm
from xlm.serving.served import Served
from xlm.serving.settings import Settings


@pytest.mark.parametrize(("device", "asked", "wanted"), [("cpu", None, 1024), ("cuda", None, 16_384), ("cuda", 64, 64)])
def test_packs_are_as_large_as_the_device_wants(device: str, asked: int | None, wanted: int) -> None:
    engine = xlm.load()
    engine.device = torch.device(device)
    served = Served("mini", engine, Settings(tokens_a_pack=asked))
    try:
        assert served.tokens_a_pack == wanted
    finally:
        served.scheduler.close()
        served.writing.shutdown()
