"""Where a model goes, and what is said of places that do not compute."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from xlm.errors import ConfigError
from xlm.inference import loading


def test_a_gpu_must_compute_not_only_hold_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU for which PyTorch has no kernels gives memory all the same."""

    class Silent:
        def __add__(self, other: Any) -> Any:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, device: torch.zeros(0))
    monkeypatch.setattr(torch, "ones", lambda *_, device: Silent())
    with pytest.raises(
        ConfigError, match=r"device is 'cuda:1': not usable here: CUDA error: no kernel image.* device$"
    ):
        loading.find_device("cuda:1")
    with caplog.at_level(logging.WARNING, "xlm"):
        assert loading.find_device(None) == torch.device("cpu")
    assert "does not compute: CUDA error: no kernel image" in caplog.text


def test_devices_that_compute_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading.find_device("cpu") == torch.device("cpu")
    for device in ("meta", "no such", ""):
        with pytest.raises(ConfigError, match=f"device is '{device}'"):
            loading.find_device(device)
    real = torch.ones
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda count, device: real(count))
    assert loading.find_device(None) == torch.device("cuda")


@pytest.mark.parametrize(("capability", "told"), [((7, 5), True), ((8, 0), False)])
def test_bfloat16_on_a_gpu_without_it(
    capability: tuple[int, int], told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(loading, "find_device", lambda device: torch.device("cuda:0"))

    class Enough(Exception):
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise Enough

    monkeypatch.setattr(loading, "documented_model", stop)
    with caplog.at_level(logging.WARNING, "xlm"), pytest.raises(Enough):
        loading.load_parts(None, "bfloat16", None)
    assert ("cuda:0 has compute capability 7.5: bfloat16 needs 8.0; choose float16" in caplog.text) is told
