"""Our Flax classes of XLM-R against the recorded answers of transformers 4.37.2's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
import frameworks
import xlm
from goldens import layout

FOLDER = layout.FOLDER / "flax"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text("utf-8"))
OUTPUTS = layout.load(FOLDER / "outputs.npz")
TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
# The quick run takes what differs most; the rest compile as much again.
QUICK = ("model", "cache", "choose-tuple")


def parameters(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """The recorded weights as the reference's nested dictionary."""
    if isinstance(tree, dict):
        return {name: parameters(inner, (*path, name)) for name, inner in tree.items()}
    kernel = path[-1] == "kernel"
    values = layout.weight(".".join([*path[:-1], TORCH_LEAVES[path[-1]]]), tree.shape[::-1] if kernel else tree.shape)
    return values.T if kernel else values


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MANIFEST["cases"]]
)
def test_case(name: str) -> None:
    case = MANIFEST["cases"][name]
    cls = getattr(xlm, "FlaxXLMRoberta" + case["class"])
    model = cls(cls.config_class(**case["config"]), _do_init=False, **case["init"])
    params = model.stack(parameters(model.params_shape_tree))
    output: Any = None
    for number, (call, paths) in enumerate(zip(case["calls"], case["outputs"], strict=True)):
        inputs = {k: layout.value(v, array=np.array) for k, v in call.items() if k not in ("cache", "past")}
        if "cache" in call:
            inputs["past_key_values"] = model.init_cache(2, call["cache"])
        elif "past" in call:
            inputs["past_key_values"] = output["past_key_values"]
        output = model(**inputs, params=params)
        have = {p: v for p, v in layout.flatten(frameworks.plain(output)) if not p.startswith("past_key_values")}
        assert list(have) == paths, "names and order of the outputs"
        for path in paths:
            want = OUTPUTS[f"{name}/{number}/{path}"]
            np.testing.assert_allclose(have[path], want, rtol=1e-5, atol=1e-5, err_msg=path)


def test_the_formula_of_the_weights_is_the_one_that_was_recorded() -> None:
    np.testing.assert_array_equal(layout.normal("check", (4,)), np.float32(MANIFEST["check"]))
