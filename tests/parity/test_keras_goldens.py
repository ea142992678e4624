"""Our TensorFlow classes against the recorded answers of transformers 4.37.2's, and all families against PyTorch's."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import xlm
from goldens import layout
from xlm.backends.keras.weights import assign
from xlm.checkpoints.published import to_theirs

FOLDER = layout.FOLDER / "tf"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text("utf-8"))
OUTPUTS = layout.load(FOLDER / "outputs.npz")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TOLERANCE = 1e-5


def build(name: str, config: dict[str, Any], **init: Any) -> Any:
    cls = getattr(xlm, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(cls.config_class.from_dict(config), **init)


def fill(model: Any) -> Any:
    """The recorded weights, which are functions of the published names."""
    base = model.trunk() is model
    for name, weight in model.named_weights().items():
        full = (
            f"{model.family.theirs_prefix}.{to_theirs(model.family, name, base)}"
            if base
            else to_theirs(model.family, name)
        )
        weight.write(layout.weight(full, weight.shape))
    return model


@pytest.mark.parametrize("name", MANIFEST["cases"])
def test_case(name: str) -> None:
    case = MANIFEST["cases"][name]
    model = fill(build(case["class"], case["config"]))
    past: Any = None
    for number, (call, paths) in enumerate(zip(case["calls"], case["outputs"], strict=True)):
        inputs = {k: layout.value(v, array=np.array) for k, v in call.items() if k not in ("past", "list")}
        listed = [[layout.value(v, array=np.array) for v in call["list"]]] if "list" in call else []
        output = model(*listed, **inputs, **({"past_key_values": past} if "past" in call else {}))
        past = getattr(output, "past_key_values", None)
        have = {p: v for p, v in layout.flatten(output) if not p.startswith("past_key_values")}
        assert list(have) == paths, "names and order of the outputs"
        for path in paths:
            if have[path] is None:
                assert f"{name}/{number}/{path}" not in OUTPUTS
                continue
            want = OUTPUTS[f"{name}/{number}/{path}"]
            assert have[path].shape == want.shape, path
            np.testing.assert_allclose(have[path], want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=path)


def test_the_formula_of_the_weights_is_the_one_that_was_recorded() -> None:
    np.testing.assert_array_equal(layout.normal("check", (4,)), np.float32(MANIFEST["check"]))


@pytest.mark.parametrize(("file", "case"), [("xlm-roberta.h5", "masked"), ("xlm.h5", "xlm-words")])
def test_the_references_h5_fills_every_framework(file: str, case: str, tmp_path: Path) -> None:
    recorded = MANIFEST["cases"][case]
    shutil.copy(FOLDER / file, tmp_path / "tf_model.h5")
    getattr(xlm, recorded["class"]).config_class.from_dict(recorded["config"]).save_pretrained(tmp_path)
    model, info = getattr(xlm, recorded["class"]).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    want = fill(build(recorded["class"], recorded["config"])).named_weights()
    torch_model = getattr(xlm, recorded["class"].removeprefix("TF")).from_pretrained(tmp_path)
    parameters = dict(torch_model.named_parameters())
    for name, weight in model.named_weights().items():
        np.testing.assert_array_equal(weight.read(), want[name].read(), err_msg=name)
        np.testing.assert_array_equal(weight.read(), parameters[name].detach().numpy(), err_msg=name)


TORCH, TORCH_ARRAYS = layout.read()
SHARED = [
    name
    for name, case in TORCH["cases"].items()
    if hasattr(xlm, "TF" + TORCH["models"][case["model"]]["class"])
    and case.get("method") != "prepare_inputs_for_generation"
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_what_pytorch_answers(name: str) -> None:
    """The same 4.37.2 in PyTorch, with everything that its TensorFlow lacks: XL, head masks, caches, generation."""
    case = TORCH["cases"][name]
    entry = TORCH["models"][case["model"]]
    model = build("TF" + entry["class"], entry["config"], **entry["init"])
    assign(model, layout.state(entry)).raise_for(strict=False)
    cache: dict[Any, Any] = {"slen": 0}
    past: Any = None
    for number, call in enumerate(case["calls"]):
        inputs = {k: layout.value(v, array=np.array, past=past, cache=cache) for k, v in call.items()}
        output = getattr(model, case.get("method", "__call__"))(**inputs)
        past = getattr(output, "past_key_values", None)
        have = dict(layout.flatten(output))
        for path, kind in case["outputs"][number].items():
            if kind != "array":
                assert have.get(path) == kind, path
                continue
            want, got = TORCH_ARRAYS[f"{name}/{number}/{path}"], np.asarray(have[path])
            if want.shape == () and got.shape != ():  # a loss an example, as documented for TensorFlow
                got = got.mean()
            assert got.shape == want.shape, path
            np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=path)
