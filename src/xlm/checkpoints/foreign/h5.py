"""TensorFlow weights in HDF5 (``tf_model.h5``), under the names of the same PyTorch model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from xlm.checkpoints.checkpoint import Checkpoint, Stored
from xlm.checkpoints.foreign.naming import from_tf, translated
from xlm.errors import CheckpointError, MissingExtraError

_MAX_DEPTH = 32
_KINDS = "fiub"


def open_h5(path: Path) -> Checkpoint:
    """Open a file; tensors are read when they are asked for.

    Layout: group of a layer / name of the model / path of the weight, the last part with ``:0``.

    Raises:
        MissingExtraError: the package ``h5py`` is not installed.
        CheckpointError: damaged, without weights, or leading out of the file by links or external data.
    """
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise MissingExtraError("reading tf_model.h5", "h5py", "convert") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise CheckpointError(f"{path}: damaged or truncated HDF5 file: {error}") from error
    entries: dict[str, Stored] = {}
    try:
        for name, dataset in _datasets(h5py, file, path):
            entries["/".join(name.split("/")[2:])] = _stored(path, dataset)
    except CheckpointError:
        file.close()
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        file.close()
        raise CheckpointError(f"{path}: damaged HDF5 file: {error}") from error
    if not entries:
        file.close()
        raise CheckpointError(f"{path}: holds no weights")
    named = {name: from_tf(name) for name in entries}
    return Checkpoint(path, [path], "tensorflow", translated(entries, named))


def _datasets(h5py: Any, group: Any, path: Path, where: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise CheckpointError(f"{path}: groups nested more than {_MAX_DEPTH} deep")
    found = []
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise CheckpointError(f"{path}: {where}{name} is a link, which could lead out of the file: refused")
        item = group[name]
        if isinstance(item, h5py.Group):
            found += _datasets(h5py, item, path, f"{where}{name}/", depth + 1)
        elif isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise CheckpointError(f"{path}: {where}{name} keeps its data in another file: refused")
            found.append((where + name, item))
    return found


def _stored(path: Path, dataset: Any) -> Stored:
    dtype = np.dtype(dataset.dtype)
    if dtype.kind not in _KINDS:
        raise CheckpointError(f"{path}: {dataset.name} is of the type {dtype}, not numbers")
    native = dtype.newbyteorder("=")
    return Stored(tuple(dataset.shape), native, lambda: np.asarray(dataset[()], dtype=native))
