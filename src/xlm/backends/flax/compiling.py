"""How calls are compiled: as JAX does by default, and on x86-64 CPUs in float32 with the products left to Eigen.

XLA for CPUs gives products one by one to YNNPACK, whose float32 kernels make a layer a sixth slower (docs/frameworks.md). The
choice holds for a compilation, so only the outermost ``jit`` can make it: calls make it themselves, a program with a ``jit``
of its own passes it on:

    jax.jit(step, compiler_options=compiler_options())
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

EIGEN: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
"""YNNPACK for reductions only."""


@cache
def _known(backend: str) -> bool:
    """Whether this backend is a CPU of the measured kind and its compiler knows the option; others come and go."""
    if backend != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        jax.jit(lambda x: x, compiler_options=EIGEN).lower(jax.ShapeDtypeStruct((), jnp.float32)).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compiler_options(dtype: Any = jnp.float32) -> dict[str, Any]:
    """What ``jax.jit`` should get as ``compiler_options`` for a model that computes in ``dtype``; may be empty.

    Initialises JAX's backends.
    """
    return dict(EIGEN) if jnp.dtype(dtype) == jnp.float32 and _known(jax.default_backend()) else {}


def compiled(function: Callable[..., Any], constants: int = 1) -> Callable[..., Any]:
    """``function``, compiled once for each value of its first ``constants`` arguments (graphs, options) and shape of the rest.

    The returned function takes the type in which it computes before all others. Inside another ``jit`` that one decides.
    """
    static = tuple(range(constants))
    inner = jax.jit(function, static_argnums=static)
    outer = jax.jit(function, static_argnums=static, compiler_options=EIGEN)

    def run(dtype: Any, *arguments: Any) -> Any:
        alone = compiler_options(dtype) and not _traced(arguments[constants:])
        return (outer if alone else inner)(*arguments)

    return run


def _traced(tree: Any) -> bool:
    """Whether JAX is tracing here: over these arrays, or a function that holds them as constants."""
    return isinstance(jnp.zeros(()), Tracer) or any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))
