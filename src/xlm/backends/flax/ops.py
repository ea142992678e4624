"""The primitive operations an encoder is built on: parameters, linear layers, norms, tables, dropout, activations.

Parameters are made as shapes without memory; values come from a file or from :mod:`xlm.backends.flax.weights`. Each says
along which logical axes a mesh may split it (``heads``, ``mlp``, ``vocab``; see :mod:`xlm.backends.flax.sharding`).
Everything computes in the type of the states it is given; norms always compute in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jax.core import Tracer

from xlm.errors import ConfigError, InputError


def gelu(x: Array) -> Array:
    """``x * Φ(x)`` by erf in float32 as PyTorch computes it; JAX's own takes erfc, which costs CPUs twice as much."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * (lax.erf(wide * math.sqrt(0.5)) + 1) * 0.5).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "mish": jax.nn.mish,
    "linear": lambda x: x,
    "identity": lambda x: x,
}


def activation(act: str | Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function of an activation's name; a callable is its own function.

    Raises:
        ConfigError: an unknown name.
    """
    if not isinstance(act, str):
        return act
    if act not in ACTIVATIONS:
        raise ConfigError(f"activation {act!r}: must be one of {', '.join(sorted(ACTIVATIONS))} or a callable")
    return ACTIVATIONS[act]


def traced(*values: Any) -> bool:
    """Whether a value cannot be read here, since a tracer stands for it or part of it lies on another host."""
    return any(isinstance(v, Tracer) or (isinstance(v, jax.Array) and not v.is_fully_addressable) for v in values)


def parameter(*shape: int, axes: tuple[str | None, ...] = ()) -> nnx.Param[Any]:
    """A parameter without memory, and the logical axes of its last dimensions."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32), axes=axes)


def values(module: nnx.Module) -> Mapping[str, Any]:
    """The plain tree of a module's parameters: names of attributes -> trees or arrays."""
    return nnx.to_pure_dict(nnx.state(module))


class Linear(nnx.Module):
    """``x @ kernel + bias``."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, axes: tuple[str | None, str | None] = (None, None)
    ) -> None:
        self.kernel = parameter(inputs, outputs, axes=axes)
        self.bias = parameter(outputs, axes=axes[1:]) if bias else None

    def __call__(self, x: Array) -> Array:
        """(..., inputs) -> (..., outputs)."""
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Embed(nnx.Module):
    """A table of vectors. Row ``fixed`` gets no gradient from look-ups, as padding's row does not in PyTorch."""

    def __init__(
        self, rows: int, width: int, *, fixed: int | None = None, axes: tuple[str | None, ...] = (None, None)
    ) -> None:
        self.embedding = parameter(rows, width, axes=axes)
        self.fixed = fixed

    def __call__(self, ids: Array) -> Array:
        """Ids (...) -> vectors (..., width) in the table's own type."""
        found = self.embedding[...][ids]
        if self.fixed is None:
            return found
        return jnp.where((ids == self.fixed)[..., None], lax.stop_gradient(found), found)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        self.scale = parameter(size)
        self.bias = parameter(size)
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        """(..., size) -> (..., size), in the type of ``x``."""
        wide = x.astype(jnp.float32)
        mean = wide.mean(-1, keepdims=True)
        centred = wide - mean
        variance = (centred * centred).mean(-1, keepdims=True)
        y = centred * lax.rsqrt(variance + self.eps)
        return (y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Zero elements with probability ``rate`` and scale the rest; nothing without a key."""
    if key is None or rate == 0.0:
        return x
    if rate >= 1.0:
        return jnp.zeros_like(x)
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def fork(key: Array | None, count: int) -> list[Array | None]:
    """``count`` independent keys of one, or as many times ``None``."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def rows_at_once(batch: int, numbers: int, limit: int) -> int:
    """How many sequences, each of so many intermediate numbers, one CPU computes together; it divides ``batch``.

    XLA for CPUs asks the system for the memory of large intermediates again and again, and reads them from far away; in
    parts the same arithmetic is faster. Accelerators want the whole batch, and meshes have cut it already.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return batch
    return next((rows for rows in range(batch, 1, -1) if batch % rows == 0 and rows * numbers <= limit), 1)


def in_parts(function: Callable[..., Array], rows: int, *arrays: Array) -> Array:
    """``function`` of arrays (b, ...), ``rows`` sequences after others; its result is (b, ...)."""
    done = lax.map(lambda part: function(*part), tuple(x.reshape(-1, rows, *x.shape[1:]) for x in arrays))
    return done.reshape(-1, *done.shape[2:])


def integers(name: str, value: Any, limit: int | None = None, owner: str = "", low: int = 0) -> Array:
    """Ids as a 32-bit JAX array, checked where their values can be read.

    Raises:
        InputError: no integers, or a value below ``low`` or at or above ``limit``; names the place.
    """
    if traced(value):
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise InputError(f"{name} of dtype {value.dtype}: must be integers")
        return value.astype(jnp.int32)
    host = np.asarray(value)
    if host.dtype.kind not in "iu":
        raise InputError(f"{name} of dtype {host.dtype}: must be integers")
    if limit is not None and host.size and (int(host.min()) < low or int(host.max()) >= limit):
        place = tuple(np.argwhere((host < low) | (host >= limit))[0].tolist())
        raise InputError(f"{name}{list(place)}={int(host[place])}: must be from {low} to {limit - 1} ({owner})")
    # Asked for as it is: a device array stays where and how it is placed.
    return value.astype(jnp.int32) if isinstance(value, jax.Array) else jnp.asarray(host.astype(np.int32))


def floats(name: str, value: Any, low: float | None = None, high: float | None = None) -> Array:
    """Masks and factors as a JAX array, checked where their values can be read.

    Raises:
        InputError: a value outside ``low`` to ``high``, or not a number at all; names the place.
    """
    if traced(value):
        return value
    host = np.asarray(value)
    if host.dtype.kind not in "iufb" and host.dtype.name != "bfloat16":
        raise InputError(f"{name} of dtype {host.dtype}: must be numbers")
    if low is not None and high is not None and host.dtype.kind != "b" and host.size:
        bad = ~((host >= low) & (host <= high))
        if bad.any():
            place = tuple(np.argwhere(bad)[0].tolist())
            raise InputError(f"{name}{list(place)}={host[place]}: must be from {low:g} to {high:g}, 1 = visible")
    return value if isinstance(value, jax.Array) else jnp.asarray(host)
