"""How Flax calls are compiled: with products by Eigen where that is known and wanted, the same numbers everywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
import jax
import jax.numpy as jnp

import tiny
import xlm
from xlm.backends.flax import compiling
from xlm.backends.flax.ops import gelu

HEAD = next(h for h in tiny.HEADS if h.name == "XLMRobertaModel")
IDS = tiny.ids(HEAD).numpy()


@pytest.fixture(scope="module")
def model() -> Any:
    return xlm.FlaxXLMRobertaModel(tiny.config(HEAD))


@pytest.fixture
def fresh() -> Any:
    """What a compiler knows is asked anew in the test, and after it."""
    compiling._known.cache_clear()
    yield
    compiling._known.cache_clear()


def products(text: str | None) -> bool:
    """Whether a compiled program gives a product to YNNPACK."""
    assert text
    bodies = text.split("\n\n")
    called = [line.split("calls=")[1].split(",")[0] for line in text.splitlines() if "__ynn_fusion" in line]
    return any(" dot(" in body for body in bodies if any(body.lstrip().startswith(name + " ") for name in called))


def test_float32_leaves_products_to_eigen_and_other_types_do_not(model: Any) -> None:
    if not compiling._known(jax.default_backend()):
        pytest.skip("this compiler has no such choice")
    assert model.compiler_options == compiling.EIGEN
    assert xlm.FlaxXLMRobertaModel(tiny.config(HEAD), dtype=jnp.bfloat16, _do_init=False).compiler_options == {}
    square = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    by_default, chosen = (
        jax.jit(lambda x: x @ x, compiler_options=o).lower(square).compile().as_text()
        for o in ({}, model.compiler_options)
    )
    assert products(by_default) and not products(chosen)


def test_a_call_is_the_same_alone_and_within_programs(model: Any) -> None:
    want = model(IDS).last_hidden_state
    params = model.stacked
    programs = {
        "arguments": jax.jit(lambda p, ids: model(ids, params=p).last_hidden_state),
        "constants": lambda *_: jax.jit(lambda: model(IDS).last_hidden_state)(),
        "options": jax.jit(lambda p, ids: model(ids, params=p)[0], compiler_options=model.compiler_options),
        "vmap": lambda p, ids: jax.vmap(lambda row: model(row[None], params=p)[0][0])(ids),
    }
    for name, program in programs.items():
        np.testing.assert_allclose(program(params, IDS), want, atol=1e-5, rtol=1e-5, err_msg=name)
    slope = jax.grad(lambda p: (model(IDS, params=p)[0] ** 2).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.usefixtures("fresh")
def test_a_compiler_without_the_option_compiles_as_it_always_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "EIGEN", {"xla_cpu_of_another_release": True})
    assert compiling.compiler_options() == {}
    run = compiling.compiled(lambda graph, params, x: params * x + graph)
    assert run(jnp.float32, 1, jnp.arange(3.0), jnp.ones(3)).tolist() == [1, 2, 3]


def test_other_backends_and_machines_get_no_options(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    assert not compiling._known("gpu")
    monkeypatch.setattr(compiling.platform, "machine", lambda: "aarch64")
    assert compiling.compiler_options() == {}


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, 1e-6), (jnp.bfloat16, 8e-3)])
def test_gelu_is_exact(dtype: Any, limit: float) -> None:
    x = jnp.linspace(-9, 9, 2001).astype(dtype)
    want = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in np.asarray(x, np.float64).tolist()])
    have = gelu(x)
    assert have.dtype == dtype
    np.testing.assert_allclose(np.asarray(have, np.float64), want, atol=limit, rtol=limit)
