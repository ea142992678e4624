"""How a documented call may be written: keywords, a list in order, or one mapping; and what Keras makes of its outputs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import optree
import tensorflow as tf

import xlm.outputs
from xlm.errors import InputError

# Arguments that are no tensors, and the dictionary that XLM writes its cache into.
PLAIN = ("use_cache", "output_attentions", "output_hidden_states", "return_dict", "training", "cache")


class Box:
    """Holds a dictionary so that Keras does not look into it: XLM's cache mixes tensors and numbers."""

    def __init__(self, content: Any) -> None:
        self.content = content


def documented(call: Callable[..., Any]) -> Callable[..., Any]:
    """Let the first argument of a documented ``call`` also be a mapping of the others, or a list of them in order."""

    @functools.wraps(call)
    def unpacked(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, **arguments(call, args, kwargs))

    return unpacked


@functools.cache
def _names(call: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(call).parameters)[1:]


def arguments(call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, by name, without what is ``None``; arrays, lists of numbers and tensors as tensors.

    Raises:
        InputError: more positional arguments than names, a name that ``call`` does not have, or a name given twice.
    """
    names = _names(inspect.unwrap(call))
    first, *rest = args if args else (kwargs.get(names[0]),)
    given: dict[str, Any] = {name: value for name, value in kwargs.items() if name != names[0] or args}
    if isinstance(first, Mapping):
        packed = first
    elif isinstance(first, list | tuple) and all(v is None or hasattr(v, "shape") for v in first):
        packed = _by_name(names, first)
    else:
        packed = {names[0]: first}
    for part in (packed, _by_name(names[1:], rest)):
        if twice := given.keys() & {name for name, value in part.items() if value is not None}:
            if any(given[name] is not None for name in twice):
                raise InputError(f"{min(twice)}: given twice")
        given.update(part)
    if unknown := given.keys() - set(names):
        raise InputError(f"{', '.join(sorted(unknown))}: not among the arguments {', '.join(names)}")
    return {
        name: _unboxed(value) if name in PLAIN else keras.tree.map_structure(_tensor, _plain(value))
        for name, value in given.items()
        if value is not None
    }


def _unboxed(value: Any) -> Any:
    return value.content if isinstance(value, Box) else value


def _by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    if len(values) > len(names):
        raise InputError(f"{len(values)} inputs in order: the arguments are {', '.join(names)}")
    return dict(zip(names, values, strict=False))


def _plain(value: Any) -> Any:
    """Nested lists of numbers as one array; nested tuples of tensors, such as caches, as they are."""
    leaf = value
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    return np.asarray(value) if isinstance(value, list | tuple) and isinstance(leaf, bool | int | float) else value


def _tensor(value: Any) -> Any:
    if value is None or isinstance(value, keras.KerasTensor):
        return value
    if not tf.is_tensor(value):
        value = np.asarray(value)
        if value.dtype.kind not in "biuf":
            raise InputError(f"values of type {value.dtype}: must be numbers")
        value = tf.convert_to_tensor(value.astype(np.float32) if value.dtype == np.float64 else value)
    # One type of integers, so that ids, positions and masks can be computed with each other.
    return tf.cast(value, tf.int32) if value.dtype.is_integer and value.dtype != tf.int32 else value


def _register(cls: type[Any]) -> None:
    """Let Keras take an output apart and put it together again: in ``predict``, ``fit`` and functional models."""

    def take_apart(output: Any) -> tuple[list[Any], tuple[str, ...]]:
        names = tuple(name for name in output if output[name] is not None)
        return [output[name] for name in names], names

    def put_together(names: Any, values: Any) -> Any:
        return cls(**dict(zip(names, values, strict=True)))

    optree.register_pytree_node(cls, take_apart, put_together, namespace="keras")


for _output in vars(xlm.outputs).values():
    if isinstance(_output, type) and issubclass(_output, xlm.outputs.ModelOutput):
        _register(_output)
