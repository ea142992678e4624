"""Every documented class against the recorded answers of transformers 4.37.2: outputs, losses, gradients, one step."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import xlm
from goldens import layout

MANIFEST, ARRAYS = layout.read()
CASES: dict[str, Any] = MANIFEST["cases"]
TOLERANCE = 1e-5


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def build(entry: dict[str, Any]) -> Any:
    """Our model with the reference's weights: XLM-R takes its state dict as it is, the others through one function."""
    cls = getattr(xlm, entry["class"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cls(cls.config_class(**entry["config"]), **entry["init"]).eval()
    state = {name: tensor(array) for name, array in layout.state(entry).items()}
    if entry["family"] == "xlm-roberta":
        model.load_state_dict(state)
    else:
        xlm.load_reference_state_dict(model, state)
    return model


@functools.cache
def published_names(model_name: str) -> dict[str, str]:
    """Our parameter names -> the reference's, found through the values: every recorded tensor is unlike all others."""
    entry = MANIFEST["models"][model_name]
    theirs = {
        layout.weight(entry["tied"].get(name, name), shape).tobytes(): name
        for name, shape in entry["state"].items()
        if name not in entry["tied"]
    }
    return {name: theirs[p.detach().numpy().tobytes()] for name, p in build(entry).named_parameters()}


def compare(answer: Any, name: str, number: int) -> None:
    expected = CASES[name]["outputs"][number]
    got = dict(layout.flatten(answer))
    assert list(got) == list(expected), "names and order of the outputs"
    for path, kind in expected.items():
        if kind != "array":
            assert got[path] == kind, path
            continue
        want, have = ARRAYS[f"{name}/{number}/{path}"], got[path].detach().numpy()
        assert have.shape == want.shape, path
        if want.dtype.kind in "iu":
            np.testing.assert_array_equal(have, want, err_msg=path)
        else:
            np.testing.assert_allclose(have, want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=path)


def test_the_formula_of_the_weights_is_the_one_that_was_recorded() -> None:
    np.testing.assert_array_equal(layout.normal("check", (4,)), np.float32(MANIFEST["check"]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    entry = MANIFEST["models"][case["model"]]
    model = build(entry)
    method = getattr(model, case.get("method", "__call__"))
    cache: dict[Any, Any] = {"slen": 0}
    past, answer, inputs = None, None, {}
    for number, call in enumerate(case["calls"]):
        inputs = {key: layout.value(item, array=tensor, past=past, cache=cache) for key, item in call.items()}
        answer = method(**inputs)
        past = getattr(answer, "past_key_values", None)
        compare(answer, name, number)
    if not case.get("train"):
        return
    model.train()
    model(**inputs).loss.backward()
    names = published_names(case["model"])
    norms = {names[key]: float(p.grad.norm()) for key, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == case["gradient_norms"].keys()
    for key, want in case["gradient_norms"].items():
        assert norms[key] == pytest.approx(want, rel=1e-4, abs=TOLERANCE), key
    torch.optim.SGD(model.parameters(), layout.LEARNING_RATE).step()
    for key, p in model.named_parameters():
        want = ARRAYS[f"{name}/step/{names[key]}"]
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)
