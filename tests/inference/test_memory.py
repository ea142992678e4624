"""Short of memory in the middle of work: smaller parts, with the same answers; the error only where one row is too much."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toytasks
import xlm
from xlm.inference import engine, memory
from xlm.inference.memory import in_halves

TEXTS = ["the film was good .", "Ana was in Rome", "good", "a bad film with one day ."]
FULL = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
PINNED = RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), FULL, PINNED])
def test_halves(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def call(items: list[int]) -> list[int]:
        if len(items) > 3:
            raise error
        return items

    with caplog.at_level(logging.WARNING, "xlm"):
        assert [n for part in in_halves(call, list(range(10))) for n in part] == list(range(10))
    assert "memory is short for 10 rows" in caplog.text

    def never(items: list[int]) -> list[int]:
        raise error

    with pytest.raises(type(error)):
        list(in_halves(never, [1, 2]))


def test_other_errors_are_no_shortage() -> None:
    calls = []

    def call(items: list[int]) -> None:
        calls.append(items)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_halves(call, [1, 2]))
    assert calls == [[1, 2]]


def test_what_allocators_keep_is_given_back_before_halves_run(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append("the GPU's"))
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: given.append("pinned"), raising=False)

    def call(items: list[int]) -> list[int]:
        if len(items) > 1:
            raise FULL
        assert given == ["the GPU's", "pinned"]
        return items

    assert list(in_halves(call, [1, 2])) == [[1], [2]]
    monkeypatch.delattr(torch._C, "_host_emptyCache")  # an older release
    given[:] = ["the GPU's"]
    memory.empty_caches()
    assert given == ["the GPU's"] * 2


def test_a_pack_has_no_more_rows_than_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = xlm.load(toytasks.checkpoint(tmp_path / "model"))
    want, states, packs = loaded.embed(TEXTS), loaded.states, []
    monkeypatch.setattr(engine, "ROWS_A_PACK", 3)
    monkeypatch.setattr(loaded, "states", lambda batch: packs.append(len(batch.lengths)) or states(batch))
    np.testing.assert_allclose(loaded.embed(TEXTS), want, atol=1e-5)
    assert packs == [3, 1]


def test_an_engine_goes_on_with_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = xlm.load(toytasks.checkpoint(tmp_path / "model"))
    want, states = engine.embed(TEXTS), engine.states

    def small(batch: Any) -> Any:
        if len(batch.lengths) > 2:
            raise MemoryError
        return states(batch)

    monkeypatch.setattr(engine, "states", small)
    np.testing.assert_allclose(engine.embed(TEXTS), want, atol=1e-5)


def test_a_head_goes_on_with_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toytasks.checkpoint(tmp_path / "model")
    config = xlm.AutoConfig.from_pretrained(folder, id2label={0: "no", 1: "maybe", 2: "yes"})
    torch.manual_seed(0)
    xlm.XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    engine = xlm.load(folder)
    want, head = engine.classify(TEXTS), engine._head

    def small(states: Any, lengths: Any) -> Any:
        if len(lengths) > 1:
            raise MemoryError
        return head(states, lengths)

    monkeypatch.setattr(engine, "_head", small)
    for one, two in zip(engine.classify(TEXTS), want, strict=True):
        assert [label["label"] for label in one["labels"]] == [label["label"] for label in two["labels"]]
        for a, b in zip(one["labels"], two["labels"], strict=True):
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)
