"""Which device a process takes, and in what it multiplies there."""

from __future__ import annotations

import pytest
import torch

from xlm.errors import ConfigError
from xlm.training.runtime import choose_device, use_bf16


def test_a_process_takes_its_own_gpu_however_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:3",
        "cuda:3",
        "cuda:1",
        "cpu",
    ]
    monkeypatch.delenv("LOCAL_RANK")
    assert str(choose_device("cuda")) == "cuda:0"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(choose_device("auto")) == "cpu"
    for name in ("cuda", "cuda:1", "tpu"):
        with pytest.raises(ConfigError, match="device = "):
            choose_device(name)


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_that_only_emulates_bf16_does_not_get_it_by_itself(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return there or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert use_bf16("auto", torch.device("cuda")) is there
    assert use_bf16("bf16", torch.device("cuda"))
