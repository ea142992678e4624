"""Which device a process takes, and in what it multiplies there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from xlm.errors import ConfigError
from xlm.training.runtime import choose_device, use_bf16


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """So many GPUs that are not there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.fixture(autouse=True)
def attention() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def test_a_process_takes_its_own_gpu_however_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 4)
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


@pytest.mark.parametrize(
    ("name", "rank", "processes", "count", "message"),
    [
        ("cuda", 2, 3, 2, r"device = 'cuda': LOCAL_RANK = 2, but this process sees 2 GPUs: .*one process a GPU"),
        ("auto", 1, 2, 1, r"device = 'auto': LOCAL_RANK = 1, but this process sees 1 GPU: .*'cuda:0'"),
        ("cuda:4", 0, 1, 4, r"device = 'cuda:4': this process sees 4 GPUs: .* below 4"),
        ("cuda:0", 1, 2, 2, r"device = 'cuda:0': all 2 processes of this machine would take that one GPU of 2"),
    ],
)
def test_gpus_that_do_not_suffice_are_said(
    name: str, rank: int, processes: int, count: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with pytest.raises(ConfigError, match=message):
        choose_device(name)


def test_every_process_may_see_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert str(choose_device("cuda:0")) == "cuda:0"


def test_attention_of_a_gpu_does_without_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    choose_device("cpu")
    assert torch.backends.cuda.cudnn_sdp_enabled()
    gpus(monkeypatch, 1)
    choose_device("cuda")
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_that_only_emulates_bf16_does_not_get_it_by_itself(
    there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return there or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert use_bf16("auto", torch.device("cuda")) is there
    assert not caplog.messages
    assert use_bf16("bf16", torch.device("cuda"))
    assert ["only emulates" in message for message in caplog.messages] == [True] * (not there)
