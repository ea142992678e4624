"""Flax weights (``flax_model.msgpack``), decoded without Flax: MessagePack with Flax's extension types for arrays."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from xlm.checkpoints.checkpoint import Checkpoint, Stored
from xlm.checkpoints.foreign.naming import pytorch_name, translated
from xlm.checkpoints.tensorfile import map_file
from xlm.errors import CheckpointError

_MAX_DEPTH = 64
_MAX_ITEMS = 1_000_000
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_FIXED = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h"}
_FIXED |= {0xD2: ">i", 0xD3: ">q"}
_LENGTHS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}


class Decoder:
    """Reads MessagePack from a buffer; long byte strings stay views of it."""

    def __init__(self, data: mmap.mmap | memoryview, path: Path) -> None:
        self.view = memoryview(data)
        self.at = 0
        self.path = path
        self.items = 0

    def _take(self, count: int) -> memoryview:
        if self.at + count > len(self.view):
            raise CheckpointError(f"{self.path}: truncated: {count} bytes wanted at byte {self.at} of {len(self.view)}")
        self.at += count
        return self.view[self.at - count : self.at]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def value(self, depth: int = 0) -> Any:
        """The next value: dictionaries, lists, text, numbers, views of bytes, :class:`Stored` arrays."""
        self.items += 1
        if depth > _MAX_DEPTH or self.items > _MAX_ITEMS:
            raise CheckpointError(f"{self.path}: more than {_MAX_DEPTH} levels or {_MAX_ITEMS} values: refused")
        tag = self._take(1)[0]
        if tag < 0x80 or tag >= 0xE0:
            return tag if tag < 0x80 else tag - 0x100
        if tag < 0x90 or tag in (0xDE, 0xDF):
            count = tag & 0x0F if tag < 0x90 else self._number(">H" if tag == 0xDE else ">I")
            pairs = [(self.value(depth + 1), self.value(depth + 1)) for _ in range(self._fits(count))]
            return {key: value for key, value in pairs if isinstance(key, str | int)}
        if tag < 0xA0 or tag in (0xDC, 0xDD):
            count = tag & 0x0F if tag < 0xA0 else self._number(">H" if tag == 0xDC else ">I")
            return [self.value(depth + 1) for _ in range(self._fits(count))]
        if tag < 0xC0:
            return str(self._take(tag & 0x1F), "utf-8")
        if tag in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
        if tag in _FIXED:
            return self._number(_FIXED[tag])
        if tag in _LENGTHS:
            length = self._number(_LENGTHS[tag])
            if tag <= 0xC6:
                return self._take(length)
            return str(self._take(length), "utf-8") if tag >= 0xD9 else self._extension(length, depth)
        if 0xD4 <= tag <= 0xD8:
            return self._extension(1 << (tag - 0xD4), depth)
        raise CheckpointError(f"{self.path}: not MessagePack: byte {tag:#x} at {self.at - 1}")

    def _fits(self, count: int) -> int:
        # Every item takes a byte at least: a count beyond that is a lie.
        if count > len(self.view) - self.at:
            raise CheckpointError(f"{self.path}: claims {count} items at byte {self.at} of {len(self.view)}")
        return count

    def _extension(self, length: int, depth: int) -> Any:
        kind = self._number(">b")
        if kind not in (_ARRAY, _SCALAR, _COMPLEX):
            raise CheckpointError(f"{self.path}: an extension of the unknown type {kind} at byte {self.at}")
        inner = Decoder(self._take(length), self.path)
        content = inner.value(depth + 1)
        if kind == _COMPLEX:
            return complex(*content)
        return _array(self.path, content)


def _array(path: Path, content: Any) -> Stored:
    shape, name, raw = content
    name = name if isinstance(name, str) else str(name, "utf-8")
    try:
        dtype = np.dtype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name)
    except TypeError as error:
        raise CheckpointError(f"{path}: an array of the unknown type {name!r}") from error
    shape = tuple(shape)
    if dtype.kind == "O" or any(type(size) is not int or size < 0 for size in shape) or len(shape) > 32:
        raise CheckpointError(f"{path}: an array of type {name!r} and shape {shape}")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise CheckpointError(f"{path}: an array of {shape} {name} in {len(raw)} bytes")
    return Stored(shape, dtype, lambda: np.frombuffer(raw, dtype).reshape(shape))


def _joined(chunked: Mapping[Any, Any]) -> Stored:
    """An array that was too large for one byte string and is kept in pieces."""
    shape = tuple(chunked["shape"][key] for key in sorted(chunked["shape"], key=int))
    pieces = [chunked["chunks"][key] for key in sorted(chunked["chunks"], key=int)]
    read = lambda: np.concatenate([piece.read().reshape(-1) for piece in pieces]).reshape(shape)  # noqa: E731
    return Stored(shape, pieces[0].dtype, read)


def _flat(tree: Mapping[Any, Any], where: tuple[str, ...] = ()) -> dict[str, Stored]:
    out: dict[str, Stored] = {}
    for key, value in tree.items():
        if isinstance(value, Stored):
            out["/".join([*where, str(key)])] = value
        elif isinstance(value, Mapping) and "__msgpack_chunked_array__" in value:
            out["/".join([*where, str(key)])] = _joined(value)
        elif isinstance(value, Mapping):
            out |= _flat(value, (*where, str(key)))
    return out


def open_msgpack(path: Path) -> Checkpoint:
    """Open a file; arrays stay views of it until they are read.

    Raises:
        CheckpointError: damaged, truncated, or without arrays.
    """
    decoder = Decoder(map_file(path), path)
    try:
        tree = decoder.value()
        entries = _flat(tree) if isinstance(tree, Mapping) else {}
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, struct.error) as error:
        raise CheckpointError(f"{path}: damaged MessagePack at byte {decoder.at}: {error}") from error
    if decoder.at != len(decoder.view):
        raise CheckpointError(f"{path}: {len(decoder.view) - decoder.at} bytes follow the data")
    if not entries:
        raise CheckpointError(f"{path}: holds no arrays")
    # A whole training state keeps the weights under "params".
    if all(name.startswith("params/") for name in entries):
        entries = {name.removeprefix("params/"): stored for name, stored in entries.items()}
    named = {name: pytorch_name(name.split("/")) for name in entries}
    return Checkpoint(path, [path], "flax", translated(entries, named))
