"""What goes wrong in a long run: memory, disks, loaders, sinks, standing still, other data; and what the run says."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import xlm
from xlm import atomic
from xlm.errors import ConfigError, DataError
from xlm.training.pretrain import pretrain
from xlm.training.recipe import load_recipe
from xlm.training.report import Reporter
from xlm.training.runtime import Signals
from xlm.training.steps import MicroBatch, StepBuilder, split
from xlm.training.trainer import OutOfMemory, Trainer
from xlm.training.watchdog import Watchdog

Toy = Callable[..., Path]
MLM = {"objectives": {"mlm": {}}, "model__config__hidden_dropout_prob": 0.0}
MLM |= {"model__config__attention_probs_dropout_prob": 0.0}


def run(path: Path, *changes: str, output: Path | None = None) -> Any:
    return pretrain(load_recipe(path, changes, str(output) if output else None), quiet=True)


CPU_SHORT = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def short_of_memory(monkeypatch: pytest.MonkeyPatch, tokens: int, said: str = CPU_SHORT) -> list[int]:
    """Let forward passes of more than ``tokens`` tokens fail as PyTorch's allocator does; the sizes that were tried."""
    tried: list[int] = []
    forward = xlm.XLMRobertaForMaskedLM.states

    def states(self: Any, batch: Any, *more: Any) -> torch.Tensor:
        tried.append(len(batch.ids))
        if self.training and len(batch.ids) > tokens:
            raise RuntimeError(said)
        return forward(self, batch, *more)

    monkeypatch.setattr(xlm.XLMRobertaForMaskedLM, "states", states)
    return tried


def test_too_little_memory_halves_the_micro_batches_and_says_so(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = toy(**MLM)
    changes = ("schedule.steps=3", "batch.micro_tokens=512", "batch.phases=[{length: 32}]", "precision=fp32")
    changes += ("data.valid=null", "data.held_out=0")
    run(path, *changes, output=tmp_path / "whole")
    tried = short_of_memory(monkeypatch, 128)
    pretrain(load_recipe(path, changes, str(tmp_path / "halved")))
    assert tried == [512, 256, *[128] * 4 * 3]  # found once, kept for the rest of the run
    told = " ".join(capsys.readouterr().err.split())
    assert "step 0: a micro-batch of 16 rows of up to 32 tokens, 512 together did not fit into memory" in told
    assert "batch.micro_tokens=128" in told
    a, b = (xlm.XLMRobertaForMaskedLM.from_pretrained(tmp_path / n / "model") for n in ("whole", "halved"))
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(y, x, rtol=0, atol=2e-5)


def test_what_cannot_be_halved_is_an_error_that_says_what_to_change(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 16)
    with pytest.raises(OutOfMemory, match=r"step 0: a micro-batch of 1 rows of up to 32 tokens.*batch\.micro_tokens"):
        run(toy(**MLM), "schedule.steps=2")


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"])
def test_what_cuda_says_of_its_memory_counts(toy: Toy, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    short_of_memory(monkeypatch, 16, said)
    with pytest.raises(OutOfMemory, match="step 0: a micro-batch of 1 rows"):
        run(toy(**MLM), "schedule.steps=2")


def test_other_runtime_errors_are_not_taken_for_it(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(xlm.XLMRobertaForMaskedLM, "states", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(toy(**MLM))


def test_split_keeps_every_row_and_target() -> None:
    lengths, rng = [4, 7, 5, 3, 6], np.random.default_rng(0)
    ids = rng.integers(5, 90, sum(lengths))
    positions = np.flatnonzero(rng.random(len(ids)) < 0.4)
    languages = np.repeat(np.arange(5), lengths)
    whole = MicroBatch("tlm", ids, lengths, list("abcde"), positions, ids[positions], languages, np.arange(len(ids)))
    parts = split(whole, 2)
    assert [len(part.lengths) for part in parts] == [1, 1, 1, 2]
    for name in ("ids", "targets", "languages", "position_ids"):
        assert (np.concatenate([getattr(part, name) for part in parts]) == getattr(whole, name)).all()
    assert [name for part in parts for name in part.row_languages] == list("abcde")
    assert all((part.ids[part.positions] == part.targets).all() for part in parts)
    assert [len(part.ids) for part in split(whole, 9)] == lengths


def test_the_watchdog_says_where_a_run_stands_still(tmp_path: Path) -> None:
    told: list[str] = []
    with Watchdog(0.2, tmp_path, 0, told.append) as dog:
        dog.at("step 3: micro-batch 1 of 2")
        deadline = time.monotonic() + 20
        while not told and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)  # said once, not again and again
        dog.at("step 3: update")
    assert len(told) == 1 and "at step 3: micro-batch 1 of 2" in told[0]
    stacks = (tmp_path / "stalled-rank-0.txt").read_text()
    assert "test_the_watchdog_says_where" in stacks and "step 3: micro-batch 1 of 2" in stacks
    with Watchdog(0.0, tmp_path, 0, told.append):
        assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def test_a_run_that_stands_still_says_so_and_goes_on(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stalled = tmp_path / "run" / "stalled-rank-0.txt"
    build = StepBuilder.build

    def slow(self: Any, cursor: Any, *more: Any) -> Any:
        deadline = time.monotonic() + 60
        while cursor.step == 2 and not stalled.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return build(self, cursor, *more)

    monkeypatch.setattr(StepBuilder, "build", slow)
    assert pretrain(load_recipe(toy(**MLM), ["schedule.steps=4", "every.stall_seconds=0.3"])).finished
    assert "waiting for its data" in capsys.readouterr().err and "pretrain.py" in stalled.read_text()


def test_a_loader_that_fails_ends_the_run_at_once(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    build = StepBuilder.build

    def failing(self: Any, cursor: Any, *more: Any) -> Any:
        if cursor.step == 2:
            raise DataError("tokens/sw-1234/tokens.bin: 10 bytes where 20 are expected")
        return build(self, cursor, *more)

    monkeypatch.setattr(StepBuilder, "build", failing)
    with pytest.raises(DataError, match=r"sw-1234/tokens\.bin"):
        run(toy(**MLM))
    assert [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")] == []


def test_a_sink_that_fails_is_left_out_after_one_warning(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Reporter, "_append", full)
    assert pretrain(load_recipe(toy(**MLM), ["schedule.steps=4", "every.log=1"])).finished
    assert capsys.readouterr().err.count("metrics.jsonl is left out from now on") == 1


def test_other_data_does_not_resume(toy: Toy, tmp_path: Path) -> None:
    path = toy(**MLM)
    assert not run(path, "max_minutes=1e-9").finished
    with (tmp_path / "text" / "sw.txt").open("a") as stream:
        stream.write("\nhabari dunia\n")
    with pytest.raises(ConfigError, match=r"other data: text/sw changed"):
        run(path)


def test_a_second_signal_interrupts_at_once() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.asked == "SIGUSR1"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)


def test_reading_is_tried_again_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.time, "sleep", lambda seconds: None)
    (tmp_path / "a").write_bytes(b"abc")
    calls: list[int] = []

    def hiccup(times: int, number: int) -> bytes:
        calls.append(number)
        if len(calls) <= times:
            raise OSError(number, os.strerror(number))
        return (tmp_path / "a").read_bytes()

    assert atomic.with_retries(lambda: hiccup(2, errno.ESTALE)) == b"abc" and len(calls) == 3
    calls.clear()
    with pytest.raises(OSError, match="Input/output"):
        atomic.with_retries(lambda: hiccup(99, errno.EIO))
    assert len(calls) == atomic._TRIES
    calls.clear()
    with pytest.raises(PermissionError):
        atomic.with_retries(lambda: hiccup(99, errno.EACCES))
    assert len(calls) == 1


def test_the_report_is_one_file_with_every_language(toy: Toy, tmp_path: Path) -> None:
    assert run(toy(), "schedule.steps=4", "every.evaluate=2", "every.log=1").finished
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert page.count("<svg") == 1 and "held-out perplexity" in page and "tokens/s" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    for language, loss in last["loss_by_language"].items():
        assert f"<th>{language}<td>{loss:.3f}<td>{np.exp(loss):,.1f}" in page
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_trainer_says_what_it_is_doing(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[str] = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, n, rate, micros, at: step(self, n, rate, micros, places.append))
    run(toy(**MLM), "schedule.steps=1", "batch.micro_tokens=256")
    assert places == ["step 0: micro-batch 1 of 2", "step 0: micro-batch 2 of 2", "step 0: update"]
