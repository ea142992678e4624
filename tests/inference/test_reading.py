"""One pack ahead on a GPU, and how little of it the host reads; a fake one stands in, or the CPU that is told to be one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toytasks
import xlm
from fake_cuda import CUDA, fake_cuda, moved, zeros_instead
from xlm.backends.torch import placement, transfer
from xlm.errors import CheckpointError
from xlm.inference import engine as engine_module
from xlm.inference import reading
from xlm.inference.embedding import Embedding, Linear, after, linear_rows
from xlm.inference.engine import Engine
from xlm.inference.loading import Loaded, load_parts

TEXTS = ["the film was good .", "Ana was in Rome", "good", "a bad film with one day .", "day"]


def test_the_next_is_made_before_one_is_given() -> None:
    told: list[str] = []

    def make() -> Iterator[int]:
        for number in range(3):
            told.append(f"make {number}")
            yield number

    for number in reading.one_ahead(make()):
        told.append(f"give {number}")
    assert told == ["make 0", "make 1", "give 0", "make 2", "give 1", "give 2"]
    assert list(reading.one_ahead([])) == []


def as_on_a_gpu(engine: Engine, patch: pytest.MonkeyPatch, tokens: int = 12) -> list[str]:
    """Let an engine on the CPU proceed as on a GPU, in small packs; what it does, in order."""
    told: list[str] = []
    states, begin = engine.states, transfer.download

    def run(batch: Any) -> Any:
        told.append("run")
        return states(batch)

    def download(tensors: Any) -> Any:
        arrive = begin(tensors)

        def wait() -> Any:
            told.append("read")
            return arrive()

        return wait

    patch.setattr(engine, "device", torch.device("cuda"))
    patch.setattr(engine, "states", run)
    patch.setattr(reading, "download", download)
    patch.setattr(engine_module, "TOKENS_A_PACK_GPU", tokens)
    return told


def test_an_engine_on_a_gpu_runs_a_pack_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = xlm.load(toytasks.checkpoint(tmp_path / "model"))
    states, vectors = engine.encode(TEXTS), engine.embed(TEXTS)
    told = as_on_a_gpu(engine, monkeypatch)
    for one, other in zip(engine.encode(TEXTS), states, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    packs = told.count("run")
    assert packs > 2 and told == ["run", *["run", "read"] * (packs - 1), "read"]
    np.testing.assert_allclose(engine.embed(TEXTS), vectors, atol=1e-5)


def test_on_a_cpu_every_pack_is_read_before_the_next_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = xlm.load(toytasks.checkpoint(tmp_path / "model"))
    told = as_on_a_gpu(engine, monkeypatch)
    monkeypatch.setattr(engine, "device", torch.device("cpu"))
    monkeypatch.setattr(engine_module, "TOKENS_A_PACK", 12)
    engine.encode(TEXTS)
    assert told == ["run", "read"] * (len(told) // 2) and len(told) > 4


def test_short_memory_halves_a_pack_that_runs_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = xlm.load(toytasks.checkpoint(tmp_path / "model"))
    vectors = engine.embed(TEXTS)
    as_on_a_gpu(engine, monkeypatch, tokens=1000)
    states = engine.states

    def small(batch: Any) -> Any:
        if len(batch.lengths) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(batch)

    monkeypatch.setattr(engine, "states", small)
    np.testing.assert_allclose(engine.embed(TEXTS), vectors, atol=1e-5)


def test_damaged_states_are_told_by_their_place_with_a_pack_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = xlm.load(toytasks.checkpoint(tmp_path / "model"))
    as_on_a_gpu(engine, monkeypatch)
    states = engine.states
    monkeypatch.setattr(engine, "states", lambda batch: states(batch) * (torch.nan if len(batch.lengths) > 1 else 1))
    with pytest.raises(CheckpointError, match=r"the states of inputs\[1\] are not finite"):
        engine.encode(TEXTS)


def test_heads_over_tokens_leave_out_the_first_of_every_text() -> None:
    assert after([1, 3, 2], 1).tolist() == [2, 3, 5] and after([2, 1], 0).tolist() == [0, 1, 2]
    head = Linear(np.ones((2, 4), np.float32), np.arange(2, dtype=np.float32))
    states = torch.randn(6, 4)
    found = linear_rows(head, states, [1, 3, 2], first=1)
    torch.testing.assert_close(found, (states @ torch.ones(4, 2) + torch.arange(2.0))[[2, 3, 5]])
    assert head.on(torch.device("cpu"))[0].shape == (2, 4)


def gpu_engine(parts: Loaded) -> Engine:
    """Inside :func:`fake_cuda`: what was loaded outside it, with a model on the fake GPU."""
    kind, bare = type(parts.model), not hasattr(parts.model, parts.model.base_model_prefix)
    options = {"add_pooling_layer": False} if bare else {}
    model = moved(kind(parts.model.config, **options).eval().requires_grad_(False), torch.bfloat16)
    placement.use_gpu(model)
    return Engine(replace(parts, model=model, device=CUDA))


@pytest.fixture
def read_back(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and types of all that the host reads."""
    seen: list[tuple[tuple[int, ...], torch.dtype]] = []

    def download(tensors: Any) -> Any:
        assert {tensor.device for tensor in tensors} == {CUDA}
        seen.extend((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        return zeros_instead(tensors)

    monkeypatch.setattr(reading, "download", download)
    return seen


def test_the_host_reads_vectors_and_candidates_and_never_waits_between(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, read_back: list[Any]
) -> None:
    tokens, width = sum(map(len, xlm.load(tiny_model).ids(TEXTS))), 32
    parts = load_parts(tiny_model, "bfloat16", "cpu")
    with fake_cuda(monkeypatch) as copies:
        engine = gpu_engine(parts)
        copies.waits.clear()
        engine.embed(TEXTS)
        assert read_back == [((5, width), torch.float32)]
        read_back.clear()
        engine.encode(TEXTS)
        assert read_back == [((tokens, width), torch.bfloat16)]
        read_back.clear()
        engine.fill_mask(["Paris is the <mask> of <mask>.", "hello <mask>"], top_k=4)
        assert read_back == [((3, 4), torch.int64), ((3, 4), torch.float64)]
        read_back.clear()
        engine.guesses([[0, 5, 6, 2], [0, 7, 2]], [[1, 2], []])
        assert read_back == [((2,), torch.int64)]
        assert copies.waits == copies.down == []
        read_back.clear()
        linear = Linear(np.zeros((1, width), np.float32), np.zeros(1, np.float32))
        many = Linear(np.zeros((8, width), np.float32), np.zeros(8, np.float32))
        engine.embedding = Embedding("cls", sparse=linear, multi=many, said=True)
        found = engine.embed_all(TEXTS)
        assert read_back == [
            ((5, width), torch.float32),
            ((tokens, 1), torch.float32),
            ((tokens - 5, 8), torch.float32),
        ]
        assert [len(one["multi"]) for one in found] == [len(row) - 1 for row in engine.ids(TEXTS)]
        assert copies.down == []


@pytest.mark.parametrize(
    "task", ["SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"]
)
def test_tasks_read_scores_alone(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_back: list[Any]
) -> None:
    folder = toytasks.checkpoint(tmp_path / "model")
    file = folder / "config.json"
    labels = {"QuestionAnswering": 2, "MultipleChoice": 1}.get(task, 3)
    config = xlm.AutoConfig.from_pretrained(folder, id2label={n: str(n) for n in range(labels)})
    getattr(xlm, f"XLMRobertaFor{task}")(config).save_pretrained(folder)
    assert json.loads(file.read_text())["architectures"] == [f"XLMRobertaFor{task}"]
    parts = load_parts(folder, "bfloat16", "cpu")
    with fake_cuda(monkeypatch) as copies:
        engine = gpu_engine(parts)
        copies.waits.clear()
        if task == "SequenceClassification":
            engine.classify(TEXTS)
            assert read_back == [((5, 3), torch.bfloat16)]
        elif task == "TokenClassification":
            engine.tag(TEXTS)
            assert read_back[0][0][1] == 3
        elif task == "QuestionAnswering":
            engine.answer(TEXTS[:2], TEXTS[:2])
            assert read_back[0][0][1] == 2
        else:
            engine.choose(TEXTS[:2], [TEXTS[:2], TEXTS[2:]])
            assert read_back == [((5, 1), torch.bfloat16)]
        assert copies.waits == copies.down == []
