"""How a recorded case is written down: weights and inputs as formulas or lists, outputs as named arrays.

Nothing here imports a framework, so the script that records the reference and the tests of every backend share it.

Weights are not stored. A tensor's values are a pure function of its *reference name* and shape, drawn from NumPy's frozen
legacy generator, so the manifest lists names and shapes only. One-dimensional ``.weight`` tensors are the scales of layer
normalisations and lie around one; everything else lies around zero.

Values of inputs in the manifest:

    {"int": [...]} {"float": [...]} {"bool": [...]}   an array of int64, float32 or bool
    {"normal": [name, shape]}                         an array drawn as above
    {"past": true}                                    the past_key_values of the call before
    {"cache": true}                                   the cache dictionary that all calls of the case share
    anything else                                     the Python value itself
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
LEARNING_RATE = 0.1


def normal(name: str, shape: list[int] | tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 numbers that depend on ``name`` and ``shape`` alone."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)


def weight(name: str, shape: list[int] | tuple[int, ...]) -> np.ndarray:
    """The values of the tensor called ``name`` in every recorded model."""
    if len(shape) == 1 and name.endswith(".weight"):
        return 1 + np.float32(0.2) * normal(name, shape)
    return np.float32(0.25) * normal(name, shape)


def state(model: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The full state dict of a recorded model under the reference's names, tied copies included."""
    tied = model["tied"]
    return {name: weight(tied.get(name, name), shape) for name, shape in model["state"].items()}


def value(recorded: Any, *, array: Callable[[np.ndarray], Any], past: Any = None, cache: Any = None) -> Any:
    """A recorded input as the thing to pass; ``array`` turns NumPy arrays into the framework's."""
    if not isinstance(recorded, dict):
        return recorded
    ((kind, content),) = recorded.items()
    if kind == "past":
        return past
    if kind == "cache":
        return cache
    if kind == "normal":
        return array(normal(*content))
    return array(np.asarray(content, {"int": np.int64, "float": np.float32, "bool": np.bool_}[kind]))


def flatten(output: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested outputs as ``(path, leaf)``: names of mappings, positions of tuples; ``None`` is a leaf."""
    if isinstance(output, Mapping):
        for name, inner in output.items():
            yield from flatten(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(output, (tuple, list)):
        for position, inner in enumerate(output):
            yield from flatten(inner, f"{path}.{position}" if path else str(position))
    else:
        yield path, output


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one long row a dtype and an index: thousands of small members would be mostly zip headers."""
    rows: dict[str, list[np.ndarray]] = {}
    index = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    for array in arrays.values():
        rows.setdefault(array.dtype.name, []).append(array.ravel())
    described = np.frombuffer(json.dumps(index, separators=(",", ":")).encode(), np.uint8)
    np.savez_compressed(path, index=described, **{name: np.concatenate(parts) for name, parts in rows.items()})


def load(path: Path) -> dict[str, np.ndarray]:
    """What :func:`save` wrote."""
    arrays = {}
    with np.load(path) as file:
        rows = {name: file[name] for name in file.files}
    at = dict.fromkeys(rows, 0)
    for name, dtype, shape in json.loads(rows["index"].tobytes()):
        size = int(np.prod(shape))
        arrays[name] = rows[dtype][at[dtype] : at[dtype] + size].reshape(shape)
        at[dtype] += size
    return arrays


def read() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest and all arrays: outputs under ``case/call/path``, weights after a step under ``case/step/name``."""
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    arrays: dict[str, np.ndarray] = {}
    for file in sorted(FOLDER.glob("*.npz")):
        arrays.update(load(file))
    return manifest, arrays
