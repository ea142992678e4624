"""Models as SavedModels: graphs that TensorFlow, TensorFlow Serving and TensorFlow Lite run without this library."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from xlm.errors import InputError


def export(
    model: Any,
    folder: Path,
    input_signature: Mapping[str, Any] | None = None,
    verbose: bool | None = None,
    **options: Any,
) -> None:
    """Write a model's forward as a SavedModel with the signature ``serving_default``.

    Args:
        folder: is made; the signature takes ``input_ids`` and ``attention_mask``, int32 (batch, sequence), for multiple choice
            (batch, choices, sequence), of any size.
        input_signature: other inputs by their documented names, as ``tf.TensorSpec``.
        options: flags of the call that the graph is to have, such as ``output_hidden_states=True``.

    The outputs carry the names of the documented output; tuples such as ``hidden_states`` are stacked along a new first axis.

    Raises:
        InputError: an input that the model does not take.
    """
    wanted = dict(input_signature or _signature(model))
    known = inspect.signature(model.call).parameters
    if unknown := [name for name in [*wanted, *options] if name not in known]:
        raise InputError(f"{', '.join(unknown)}: not among the arguments {', '.join(known)}")

    def serve(inputs: dict[str, Any]) -> dict[str, Any]:
        output = model(inputs, **{**options, "training": False, "return_dict": True})
        return {
            name: tf.stack([tf.convert_to_tensor(v) for v in keras.tree.flatten(value)])
            if isinstance(value, tuple)
            else value
            for name, value in output.items()
        }

    archive: Any = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", serve, input_signature=[wanted])
    archive.write_out(str(folder), verbose=bool(verbose))


def _signature(model: Any) -> dict[str, tf.TensorSpec]:
    rank = 3 if "Choice" in type(model).__name__ else 2
    return {
        name: tf.TensorSpec((None,) * rank, tf.int32, name=name) for name in (model.main_input_name, "attention_mask")
    }
