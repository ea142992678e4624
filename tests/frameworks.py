"""The backends beside PyTorch behind one face, for the suites that hold them to it: one small adapter a framework."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import tiny
import xlm

Arrays = dict[str, Any]


class Framework(Protocol):
    """What a suite asks of a backend. Inputs and outputs are NumPy arrays; names of tensors are the published ones."""

    name: str
    package: str

    prefix: str
    """How the backend's classes begin."""

    def load(self, head: tiny.Head, folder: Path, **options: Any) -> Any:
        """The backend's class of a head, from a folder."""
        ...

    def run(self, model: Any, inputs: Arrays) -> Arrays:
        """The outputs of one call."""
        ...

    def gradients(self, model: Any, inputs: Arrays) -> tuple[Arrays, Arrays]:
        """The outputs of one call, and gradients: of its loss, or without one of the sum of its first output's squares."""
        ...

    def tensors(self, model: Any) -> Arrays:
        """The parameters."""
        ...


def plain(output: Any) -> Any:
    """Outputs as dictionaries and tuples of NumPy arrays."""
    if isinstance(output, dict):
        return {name: plain(value) for name, value in output.items()}
    if isinstance(output, tuple | list):
        return tuple(plain(value) for value in output)
    return np.asarray(output)


class Torch:
    """The PyTorch backend behind the face of the others, for what all three must do alike."""

    name, package, prefix = "torch", "torch", ""

    def load(self, head: tiny.Head, folder: Any, **options: Any) -> Any:
        return head.cls.from_pretrained(folder, **options)

    def run(self, model: Any, inputs: Arrays) -> Arrays:
        import torch

        given = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
        with torch.no_grad():
            return plain(model(**given))

    def tensors(self, model: Any) -> Arrays:
        from xlm.backends.torch.assign import published_tensors

        return dict(published_tensors(model))


class Flax:
    """The Flax backend."""

    name, package, prefix = "flax", "jax", "Flax"

    def load(self, head: tiny.Head, folder: Path, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(xlm, "Flax" + head.name).from_pretrained(folder, **options)

    def run(self, model: Any, inputs: Arrays) -> Arrays:
        return plain(model(**inputs))

    def gradients(self, model: Any, inputs: Arrays) -> tuple[Arrays, Arrays]:
        import jax

        def loss(params: Any) -> Any:
            output = model(**inputs, params=params)
            return output["loss"] if "loss" in output else (output[0] ** 2).sum(), output

        found, output = jax.grad(loss, has_aux=True)(model.stacked)
        return plain(output), {s.theirs: stored.read() for s, stored in model.slots.published(found)}

    def tensors(self, model: Any) -> Arrays:
        return {slot.theirs: stored.read() for slot, stored in model.slots.published(model.stacked)}


class Keras:
    """The TensorFlow backend; its losses are means here, as they are everywhere else."""

    name, package, prefix = "keras", "tensorflow", "TF"

    def load(self, head: tiny.Head, folder: Path, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(xlm, "TF" + head.name).from_pretrained(folder, **options)

    def run(self, model: Any, inputs: Arrays) -> Arrays:
        output = plain(model(**inputs))
        return {**output, "loss": output["loss"].mean()} if "loss" in output else output

    def gradients(self, model: Any, inputs: Arrays) -> tuple[Arrays, Arrays]:
        import tensorflow as tf

        from xlm.checkpoints.published import to_theirs

        weights = {to_theirs(model.family, n, model.trunk() is model): w for n, w in model.named_weights().items()}
        with tf.GradientTape() as tape:
            output = model(**inputs)
            loss = tf.reduce_mean(output["loss"]) if "loss" in output else tf.reduce_sum(output[0] ** 2)
        found = tape.gradient(loss, [w.variable.value for w in weights.values()], unconnected_gradients="zero")
        dense = (tf.convert_to_tensor(gradient).numpy() for gradient in found)
        output = plain(output)
        if "loss" in output:
            output["loss"] = output["loss"].mean()
        return output, {n: g.T if w.transposed else g for (n, w), g in zip(weights.items(), dense, strict=True)}

    def tensors(self, model: Any) -> Arrays:
        from xlm.backends.keras.weights import published_tensors

        return {name: stored.read() for name, stored in published_tensors(model)}


FRAMEWORKS: list[Framework] = [
    framework for framework in (Flax(), Keras()) if importlib.util.find_spec(framework.package) is not None
]
PAIRS = [(f, head) for f in FRAMEWORKS for head in tiny.HEADS if hasattr(xlm, f.prefix + head.name)]
"""Every backend with the heads that it has: TensorFlow has no beam search over answers."""
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # three lines about processors a run
# Compilers take longer than these tiny models: no need for fast code.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
