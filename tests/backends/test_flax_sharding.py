"""Flax models on a mesh of two (host) devices: data and tensor parallel steps equal those on one device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import tiny
import xlm

STEP = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
import tiny, xlm

assert jax.device_count() == 2
head = next(h for h in tiny.HEADS if h.name == sys.argv[1])
config = tiny.config(head, vocab_size=42)
ids = np.asarray(tiny.ids(head, batch=4))
labels = np.where(ids % 2 == 0, ids, -100)
optimizer = optax.sgd(0.1)

def run(model, ids, labels):
    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: model(ids, params=p, labels=labels).loss)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss
    params, state = model.stacked, optimizer.init(model.stacked)
    losses = []
    for _ in range(3):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    return params, losses

make = getattr(xlm, "Flax" + head.name)
want, losses = run(make(config), ids, labels)
for axes in ((2, 1), (1, 2)):
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh(axes, ("data", "model"), axis_types=(kind, kind))
        model = make(config).shard(mesh)
        rows = NamedSharding(model.mesh, P("data"))
        have, seen = run(model, jax.device_put(ids, rows), jax.device_put(labels, rows))
        np.testing.assert_allclose(seen, losses, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3), have, want)
        kernel = have["roberta"]["encoder"]["layer"]["intermediate"]["dense"]["kernel"]
        pieces = {shard.data.shape for shard in kernel.addressable_shards}
        assert pieces == {(2, kernel.shape[1], kernel.shape[2] // axes[1])}, pieces
        words = have["roberta"]["embeddings"]["word_embeddings"]["embedding"]
        assert words.addressable_shards[0].data.shape[0] == 42 // axes[1]
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["XLMRobertaForMaskedLM", "XLMWithLMHeadModel", "XLMRobertaXLForMaskedLM"])
def test_two_devices_are_one(name: str) -> None:
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(Path(tiny.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", STEP, name], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


def test_rules_are_checked() -> None:
    model = xlm.FlaxXLMRobertaForMaskedLM(tiny.config(next(h for h in tiny.HEADS if h.name == "XLMRobertaForMaskedLM")))
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
    with pytest.raises(xlm.InputError, match="rules: unknown axes rows; must be of heads, mlp, vocab"):
        model.shardings(mesh, {"rows": "model"})
    specs = model.shardings(mesh)
    layer = specs["roberta"]["encoder"]["layer"]
    assert layer["attention"]["self"]["query"]["kernel"].spec == P(None, None, "model")
    assert layer["attention"]["output"]["dense"]["kernel"].spec == P(None, "model", None)
    assert layer["output"]["dense"]["bias"].spec == P(None, None)
    assert specs["lm_head"]["bias"].spec == P(
        "model",
    )
    # A vocabulary that the devices do not divide is copied, unless the rules were asked for.
    four = jax.sharding.AbstractMesh((1, 4), ("data", "model"))
    specs = model.shardings(four)
    assert specs["lm_head"]["bias"].spec == P(None)
    assert specs["roberta"]["encoder"]["layer"]["attention"]["self"]["query"]["kernel"].spec == P(None, None, "model")
    with pytest.raises(xlm.InputError, match="mesh axis 'model' of 4 devices: does not divide 41 of "):
        model.shardings(four, {"vocab": "model"})
    assert model.shardings(mesh, {"mlp": None})["lm_head"]["bias"].spec == P(
        None,
    )
