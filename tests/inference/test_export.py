"""Exports: opened again, equal to the model, refused when they are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from xlm.errors import CheckpointError, ConfigError, OutputError
from xlm.inference import export as module
from xlm.inference.export import export

pytestmark = pytest.mark.filterwarnings("ignore")
ALL = [pytest.param(h, marks=() if h is tiny.ONE_A_FAMILY[1] else pytest.mark.slow, id=str(h)) for h in tiny.HEADS]


@pytest.fixture
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny model's folder."""
    tiny.model(request.param).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("saved", ALL, indirect=True)
def test_onnx_answers_as_the_model_does(saved: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = export(saved, tmp_path / "out")
    assert done.cosine > 0.999999 and done.difference < 1e-4
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"model.onnx", "config.json", "export.json"}
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    choices = (2,) if "MultipleChoice" in str(json.loads((saved / "config.json").read_text())["architectures"]) else ()
    given = {name: np.ones((4, *choices, 11), np.int64) for name in done.inputs}
    assert len(session.run(None, given)) == len(done.outputs)


@pytest.mark.parametrize("saved", ALL, indirect=True)
def test_torch_export_answers_as_the_model_does(saved: Path, tmp_path: Path) -> None:
    done = export(saved, tmp_path / "out", "torch-export")
    assert done.difference < 1e-5
    assert torch.export.load(tmp_path / "out" / "model.pt2") is not None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_types(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = export(None, tmp_path / "out", "onnx", dtype)
    assert done.cosine > 0.99
    assert done.bytes < 20_000_000


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("saved", [pytest.param(head, id=str(head)) for head in tiny.HEADS], indirect=True)
def test_every_head_in_smaller_types(saved: Path, dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = export(saved, tmp_path / "out", dtype=dtype)
    assert done.cosine > module._LEAST_COSINE[dtype] and done.outputs


XL = next(head for head in tiny.HEADS if "XLMRobertaXL" in str(head))


@pytest.mark.parametrize("saved", [XL], indirect=True)
def test_what_is_large_is_compared_layer_by_layer(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(module, "_WHOLE", 1)
    done = export(saved, tmp_path / "half", dtype="float16")
    config = json.loads((saved / "config.json").read_text())
    assert len(done.layers) == config["num_hidden_layers"] and min(done.layers) > 0.9995 and done.cosine > 0.9995
    assert not list((tmp_path / "half").glob("*part*"))


@pytest.mark.slow
@pytest.mark.parametrize("saved", [XL], indirect=True)
def test_layer_by_layer_or_whole_is_the_same(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    whole = export(saved, tmp_path / "whole")
    monkeypatch.setattr(module, "_WHOLE", 1)
    done = export(saved, tmp_path / "parts")
    assert not whole.layers and min(done.layers) > 0.999999
    assert (done.cosine, done.difference) == pytest.approx((whole.cosine, whole.difference), abs=1e-5)
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("saved", [XL], indirect=True)
def test_a_damaged_layer_is_named(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    run = module.run_layer_by_layer

    def spoiled(path: Path, *given: object) -> object:
        """The second layer's weights, damaged between writing and comparing."""
        graph = onnx.load(str(path))
        tensor = next(t for t in graph.graph.initializer if "layer.1.intermediate" in t.name and len(t.dims) == 2)
        tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
        onnx.save_model(graph, str(path))
        return run(path, *given)

    monkeypatch.setattr(module, "_WHOLE", 1)
    monkeypatch.setattr(module, "run_layer_by_layer", spoiled)
    with pytest.raises(CheckpointError, match="differs from the model from layer 1 on"):
        export(saved, tmp_path / "spoiled")
    assert not (tmp_path / "spoiled").exists()


@pytest.mark.slow
def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert export(None, tmp_path / "out", "openvino").cosine > 0.999999


@pytest.mark.parametrize("saved", [tiny.ONE_A_FAMILY[1]], indirect=True)
def test_what_differs_is_not_written(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = module._WRITERS["torch-export"]

    def wrong(*given: object) -> object:
        name, opened = writer(*given)
        run = opened()
        return name, lambda: lambda values: [1.1 * one + 0.3 for one in run(values)]

    monkeypatch.setitem(module._WRITERS, "torch-export", wrong)
    with pytest.raises(CheckpointError, match=r"differs from the model: least cosine 0\."):
        export(saved, tmp_path / "out", "torch-export")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_has_one_number_is_compared_by_more_than_its_sign() -> None:
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    cases = [{"attention_mask": mask}, {"attention_mask": mask[:1, :3]}]
    rng = np.random.default_rng(0)
    for shapes in (
        ((2, 4), (1, 3)),
        ((2, 1), (1, 1)),
        ((2, 4, 5), (1, 3, 5)),
        ((2, 6), (1, 6)),
        ((2, 4, 1), (1, 3, 1)),
    ):
        wanted = [rng.normal(size=shape) for shape in shapes]
        wanted[0][0] = np.sign(wanted[0][0]) + 1e-3  # nothing near 0 but what is made so
        wanted[0].flat[0] = 1e-6
        near = [one.copy() for one in wanted]
        near[0].flat[0] *= -1  # the sign of next to nothing
        both = [[one] for one in wanted]
        assert module._compare(cases, both, [[one] for one in near])[0] > 0.999, shapes
        assert module._compare(cases, both, [[-one] for one in wanted])[0] < -0.999, shapes
        assert module._compare(cases, both, [[one + 3.0] for one in wanted])[0] < 0.98, shapes
        padded = [one.copy() for one in wanted]
        if padded[0].shape[:2] == mask.shape:
            padded[0][0, 3] = 1e9
            assert module._compare(cases, both, [[one] for one in padded]) == (pytest.approx(1), 0.0), shapes


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format is 'tflite'"):
        export(None, tmp_path / "x", "tflite")
    with pytest.raises(ConfigError, match="int8 is exported to onnx only"):
        export(None, tmp_path / "x", "torch-export", "int8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(OutputError, match="not an empty folder"):
        export(None, tmp_path / "full")
