"""What a server chooses by the device that its model is on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import xlm
from xlm.batches.batch import Batch
from xlm.serving.served import Served
from xlm.serving.settings import Settings


def test_what_was_compiled_is_what_serves() -> None:
    engine, packs = xlm.load(), []
    states = engine.states

    def compiled(batch: Batch) -> torch.Tensor:
        packs.append(batch.lengths)
        return states(batch)

    wanted = engine.embed(["one text"])
    engine.states = compiled
    served = Served("mini", engine, Settings())
    try:
        np.testing.assert_allclose(engine.embed(["one text"]), wanted, atol=2e-5)
        assert len(packs) == 1
    finally:
        served.scheduler.close()
        served.writing.shutdown()


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
