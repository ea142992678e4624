"""Folders that say how their vectors are made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import xlm
from fake_cuda import CUDA, fake_cuda
from loopback_hub import LoopbackHub
from xlm.errors import CheckpointError, InputError
from xlm.inference.embedding import Linear, linear_rows, read_embedding, sparse_weights

TEXTS = ["The weather is nice today.", "Il fait beau.", "今天天气很好。", "x"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled model as a sentence-transformers folder that reads the first token and has prompts."""
    from xlm.assets import bundled_folder

    for file in bundled_folder().iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(zip(kinds, ["", "1_Pooling", "2_Normalize"], strict=True))
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 256, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    settings = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": None}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    return tmp_path


def test_a_sentence_transformers_folder_decides(folder: Path) -> None:
    engine, plain = xlm.load(folder), xlm.load()
    assert engine.max_tokens == 24
    np.testing.assert_allclose(engine.embed(TEXTS), plain.embed(TEXTS, "cls"), atol=1e-6)
    prompted = plain.embed(["query: " + text for text in TEXTS], "cls")
    np.testing.assert_allclose(engine.embed(TEXTS, prompt="query"), prompted, atol=1e-6)
    with pytest.raises(InputError, match=r"prompt is 'doc'.*passage, query"):
        engine.embed(TEXTS, prompt="doc")
    with pytest.raises(InputError, match="limit is 24"):
        engine.embed(["one two three " * 12])


def test_truncated_names_the_long_ones(folder: Path) -> None:
    engine = xlm.load(folder)
    assert engine.truncated(["short", "one two three " * 12]) == [1]


def test_heads_of_bge_m3(folder: Path) -> None:
    torch.manual_seed(0)
    sparse, multi = torch.nn.Linear(256, 1), torch.nn.Linear(256, 8)
    torch.save(sparse.state_dict(), folder / "sparse_linear.pt")
    torch.save(multi.state_dict(), folder / "colbert_linear.pt")
    engine = xlm.load(folder)
    states = engine.encode(TEXTS)
    ids = engine.tokenizer(TEXTS)["input_ids"]
    for found, state, row in zip(engine.embed_all(TEXTS), states, ids, strict=True):
        with torch.no_grad():
            weights = sparse(torch.from_numpy(state)).relu()[:, 0]
            vectors = torch.nn.functional.normalize(multi(torch.from_numpy(state[1:])), dim=-1)
        wanted: dict[int, float] = {}
        for token, weight in zip(row, weights.tolist(), strict=True):
            if weight > 0 and token not in engine.tokenizer.all_special_ids:
                wanted[token] = max(wanted.get(token, 0.0), weight)
        assert found["sparse"].keys() == wanted.keys()
        np.testing.assert_allclose(list(found["sparse"].values()), [wanted[k] for k in found["sparse"]], rtol=1e-4)
        np.testing.assert_allclose(found["multi"], vectors.numpy(), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found["dense"]), 1.0, rtol=1e-5)


def test_heads_of_invariant_models_multiply_blocks_of_one_size_on_a_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU goes sequence by sequence anyway."""
    put_heads(folder)
    asked: list[bool] = []

    def noted(*arguments: Any, batch_invariant: bool = False, **options: Any) -> Any:
        asked.append(batch_invariant)
        return linear_rows(*arguments, batch_invariant=batch_invariant, **options)

    monkeypatch.setattr("xlm.inference.engine.linear_rows", noted)
    for invariant in (False, True):
        xlm.load(folder, batch_invariant=invariant).embed_all(TEXTS)
        assert set(asked) == {invariant}
        asked.clear()

    sizes: list[int] = []
    product = torch.nn.functional.linear

    def counted(rows: torch.Tensor, *layer: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        return product(rows, *layer)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    head = Linear(np.ones((8, 16), np.float32), np.ones(8, np.float32))
    for invariant, wanted in ((False, [147]), (True, [64, 64, 64])):
        sizes.clear()
        with fake_cuda(monkeypatch):
            states = torch.zeros(150, 16).to(CUDA, non_blocking=True)
            made = linear_rows(head, states, [100, 30, 20], first=1, batch_invariant=invariant)
            assert made.shape == (147, 8) and made.device == CUDA
        head._placed.clear()
        assert sizes == wanted


def put_heads(folder: Path) -> None:
    for name, width in (("sparse_linear.pt", 1), ("colbert_linear.pt", 8)):
        torch.save(torch.nn.Linear(256, width).state_dict(), folder / name)


@pytest.mark.parametrize("way", ["quantize", "convert", "trim"])
def test_a_rewritten_folder_says_the_same_of_its_vectors(way: str, folder: Path, tmp_path_factory) -> None:
    from xlm.checkpoints.io import convert
    from xlm.checkpoints.trim import trim
    from xlm.inference.quantize import quantize

    put_heads(folder)
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "config.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"many")
    out = tmp_path_factory.mktemp(way) / "out"
    if way == "quantize":
        quantize(folder, out, {"": TEXTS}, force=True, activations="by row")
    elif way == "convert":
        convert(folder, out)
    else:
        trim(folder, out, texts={"": TEXTS})
    before, after = read_embedding(folder), read_embedding(out)
    assert (after.pooling, after.prompts, after.max_tokens) == ("cls", before.prompts, 24)
    assert before.sparse is not None and after.sparse is not None and after.multi is not None
    np.testing.assert_array_equal(after.sparse.weight, before.sparse.weight)
    assert xlm.load(out).embed_all(["x"])[0].keys() == {"dense", "sparse", "multi"}
    assert not {"checkpoint-5", "optimizer.pt"} & {path.name for path in out.iterdir()}


def test_heads_come_from_the_hub(folder: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    put_heads(folder)
    with LoopbackHub() as hub:
        hub.add("some/m3", folder)
        hub.connect(monkeypatch, tmp_path_factory.mktemp("cache"))
        assert xlm.load("some/m3").embed_all(["x"])[0].keys() == {"dense", "sparse", "multi"}


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("modules.json", '{"a": 1}', "a list of modules"),
        ("modules.json", '["Transformer"]', "a list of modules"),
        ("modules.json", '[{"type": "sentence_transformers.models.Pooling"}]', "path"),
        ("1_Pooling/config.json", "[]", "not an object"),
        ("config_sentence_transformers.json", '{"prompts": ["a"]}', "prompts"),
        ("config_sentence_transformers.json", '{"default_prompt_name": ["a"]}', "default_prompt_name"),
        ("sentence_bert_config.json", '{"max_seq_length": "512"}', "max_seq_length is '512'"),
        ("sentence_bert_config.json", '{"max_seq_length": 0}', "max_seq_length is 0"),
        ("sentence_bert_config.json", "3", "not an object"),
    ],
)
def test_malformed_settings_are_named(file: str, content: str, what: str, folder: Path) -> None:
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=what) as caught:
        read_embedding(folder)
    assert file in str(caught.value)


def test_unknown_modules_are_named(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="'Dense' is not known"):
        read_embedding(folder)


def test_sparse_weights_keep_the_largest() -> None:
    weights = np.array([0.9, 0.2, 0.5, -1.0, 0.4], np.float32)
    assert sparse_weights(weights, [0, 7, 7, 8, 2], {0, 2}) == {7: 0.5}


@pytest.mark.parametrize("path", ["../else", "/tmp", "1_Pooling/../../else", "C:\\else", ""])
def test_modules_lie_in_their_folder(folder: Path, path: str) -> None:
    (folder.parent / "else").mkdir(exist_ok=True)
    (folder.parent / "else" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": "x.Pooling"}]))
    with pytest.raises(CheckpointError, match=r"modules\.json: names the module .* not inside its folder"):
        read_embedding(folder)


def test_modules_that_are_nested_without_end(folder: Path) -> None:
    (folder / "modules.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match=r"modules\.json: nested too deeply"):
        read_embedding(folder)
