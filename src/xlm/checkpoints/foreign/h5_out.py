"""Writing ``tf_model.h5`` as transformers' TensorFlow classes keep their weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xlm.atomic import replacing
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.foreign.naming import to_tf
from xlm.errors import MissingExtraError
from xlm.families.registry import Family

_LARGEST = 64_000  # bytes of one attribute; HDF5 allows 64 KiB with its header


def save_h5(
    path: Path,
    family: Family,
    tensors: Iterable[tuple[str, np.ndarray | Stored]],
    base: bool = False,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write tensors under their TensorFlow names; the file appears when it is whole.

    Args:
        path: the file to replace.
        tensors: published name -> tensor; bfloat16, which HDF5 lacks, becomes float32.
        base: of a model without a head, whose published names lack the encoder's prefix.
        beside: name -> text of further files of the folder (``config.json``), which are replaced together with the weights.

    Raises:
        MissingExtraError: the package ``h5py`` is not installed.
        OutputError: the file cannot be written.
    """
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise MissingExtraError("writing tf_model.h5", "h5py", "convert") from error
    model = f"tf_{family.class_prefix.lower()}"
    layers: dict[str, list[str]] = {}
    with replacing(path, beside=beside) as stream, h5py.File(stream, "w") as file:
        for name, tensor in tensors:
            stored = tensor if isinstance(tensor, Stored) else Stored.of(tensor)
            match = to_tf(f"{family.theirs_prefix}.{name}" if base else name, len(stored.shape))
            layer = match.name.split("/")[0]
            layers.setdefault(layer, []).append(f"{model}/{match.name}:0")
            array = stored.read()
            array = array.T if match.transposed else array
            file[f"{layer}/{model}/{match.name}:0"] = array.astype(np.float32) if array.dtype.kind == "V" else array
        file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", "2.15.0"
        _put(file, "layer_names", list(layers))
        for layer, names in layers.items():
            _put(file[layer], "weight_names", names)
        _put(file.create_group("top_level_model_weights"), "weight_names", [])


def _put(group: Any, key: str, names: list[str]) -> None:
    """A list of names as Keras keeps it: one attribute, or numbered ones where it would be too large."""
    rows = np.array([name.encode() for name in names], dtype="S")
    parts = max(1, -(-rows.nbytes // _LARGEST))
    for number, part in enumerate(np.array_split(rows, parts)):
        group.attrs[key if parts == 1 else f"{key}{number}"] = part
