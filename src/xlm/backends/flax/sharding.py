"""Where parameters lie on a mesh of devices. Layers name logical axes; rules say which mesh axis each is split over.

The usual rules are Megatron's (Shoeybi et al. 2019): the first matrix of a block is split by columns (``heads``, ``mlp``),
the second by rows, and the vocabulary's table by words, so that a block needs one sum over devices. Compilers derive the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xlm.backends.flax.weights import unflatten
from xlm.errors import InputError

RULES: dict[str, str | None] = {"heads": "model", "mlp": "model", "vocab": "model"}
"""Logical axis -> mesh axis."""


def automatic(mesh: Mesh) -> Mesh:
    """The same devices with axes along which the compiler derives the sharding of what is computed."""
    return Mesh(mesh.devices, mesh.axis_names)


def shardings(
    graph: Any,
    shapes: Mapping[tuple[str, ...], tuple[int, ...]],
    mesh: Mesh,
    rules: Mapping[str, str | None] | None = None,
) -> nnx.State[Any, Any]:
    """The sharding of every parameter, as a tree like the stacked parameters.

    Args:
        graph, shapes: a model's ``graph`` and ``slots.shapes``.
        mesh: axes that no rule names (``data``) hold copies of the parameters; split the batch along them.
        rules: logical axis (``heads``, ``mlp``, ``vocab``) -> mesh axis or ``None``. Rules for axes that the mesh lacks
            do nothing. Unless given :data:`RULES`, where sizes that the mesh axis does not divide (XLM-R's vocabulary of
            250002 on 4 devices) are copied to every device.

    Raises:
        InputError: an unknown logical axis, or given rules and a size that the mesh axis does not divide.
    """
    given = rules is not None
    rules = RULES if rules is None else rules
    if unknown := rules.keys() - RULES.keys():
        raise InputError(f"rules: unknown axes {', '.join(sorted(unknown))}; must be of {', '.join(RULES)}")
    sizes = dict(mesh.shape)
    out = {}
    for path, axes in logical_axes(graph, shapes).items():
        shape = shapes[path]
        names = [rules.get(axis) if axis else None for axis in axes]
        names = [name if name in sizes else None for name in names]
        for place, size in enumerate(shape[len(shape) - len(names) :]):
            name = names[place]
            if name is None or size % sizes[name] == 0:
                continue
            if given:
                raise InputError(
                    f"mesh axis {name!r} of {sizes[name]} devices: does not divide {size} of {'/'.join(path)}"
                )
            names[place] = None
        out[path] = NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - len(names)), *names))
    return nnx.State(unflatten(out))


def logical_axes(
    graph: Any, shapes: Mapping[tuple[str, ...], tuple[int, ...]]
) -> dict[tuple[str, ...], tuple[str | None, ...]]:
    """Path of a parameter -> names of the axes of its last dimensions."""
    empty = nnx.State(unflatten({path: jax.ShapeDtypeStruct(shape, "float32") for path, shape in shapes.items()}))
    state = nnx.state(nnx.merge(graph, empty))
    return {
        tuple(map(str, path)): variable.get_metadata().get("axes", ()) for path, variable in nnx.to_flat_state(state)
    }
