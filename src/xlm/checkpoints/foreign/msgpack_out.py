"""Writing Flax weights (``flax_model.msgpack``) without Flax: nested maps with arrays as Flax's extension type."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xlm.atomic import need_space, replacing
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.writer import write_array
from xlm.errors import InputError

FLAX_WEIGHTS = "flax_model.msgpack"
_ARRAY = 1
# Flax cuts larger arrays into pieces, since a byte string of MessagePack ends at 4 GiB.
_PIECE = 2**30


def save_msgpack(path: Path, tree: Mapping[str, Any], beside: Mapping[str, str] | None = None) -> Path:
    """Write a nested dictionary of :class:`Stored` tensors, one tensor in memory at a time; all or nothing.

    ``beside``: name -> text of further files of the folder (``config.json``), which are replaced together with the weights.

    Raises:
        OutputError: the file cannot be written; what was there before is intact.
        InputError: the tree holds something else.
    """
    total = _bytes(tree, "")
    need_space(path.parent, total, total)
    with replacing(path, total, beside) as stream:
        _write_map(stream, tree)
    return path


def _bytes(tree: Mapping[str, Any], where: str) -> int:
    total = 0
    for key, value in tree.items():
        if not isinstance(key, str):
            raise InputError(f"tree: the key {key!r} under {where or 'the root'!r} is no text")
        if isinstance(value, Mapping):
            total += _bytes(value, f"{where}/{key}")
        elif isinstance(value, Stored):
            total += value.nbytes + 64
        else:
            raise InputError(f"tree: {where}/{key} is a {type(value).__name__}, not a tensor")
    return total


def _write_map(stream: BinaryIO, tree: Mapping[str, Any]) -> None:
    _write_count(stream, len(tree), 0x80, 0xDE)
    for key, value in tree.items():
        _write_text(stream, key)
        if isinstance(value, Mapping):
            _write_map(stream, value)
        elif value.nbytes > _PIECE:
            _write_pieces(stream, value)
        else:
            _write_array(stream, value)


def _write_count(stream: BinaryIO, count: int, small: int, wide: int) -> None:
    """The head of a map or list: its kind and how many entries follow."""
    if count < 16:
        stream.write(bytes([small | count]))
    else:
        stream.write(struct.pack(">BH" if count < 2**16 else ">BI", wide if count < 2**16 else wide + 1, count))


def _write_text(stream: BinaryIO, text: str) -> None:
    raw = text.encode("utf-8")
    stream.write(bytes([0xA0 | len(raw)]) if len(raw) < 32 else struct.pack(">BI", 0xDB, len(raw)))
    stream.write(raw)


def _number(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else struct.pack(">BQ", 0xCF, value)


def _write_array(stream: BinaryIO, stored: Stored) -> None:
    """An array is an extension that holds the list (shape, name of the type, bytes)."""
    name = stored.dtype.name.encode()
    inner = b"\x93" + struct.pack(">BI", 0xDD, len(stored.shape)) + b"".join(map(_number, stored.shape))
    inner += bytes([0xA0 | len(name)]) + name + struct.pack(">BI", 0xC6, stored.nbytes)
    stream.write(struct.pack(">BIb", 0xC9, len(inner) + stored.nbytes, _ARRAY) + inner)
    write_array(stream, stored)


def _write_pieces(stream: BinaryIO, stored: Stored) -> None:
    size = _PIECE // stored.dtype.itemsize
    count = math.prod(stored.shape)
    starts = range(0, count, size)
    stream.write(bytes([0x83]))
    _write_text(stream, "__msgpack_chunked_array__")
    stream.write(b"\xc3")
    _write_text(stream, "shape")
    _write_count(stream, len(stored.shape), 0x80, 0xDE)
    for axis, length in enumerate(stored.shape):
        _write_text(stream, str(axis))
        stream.write(_number(length))
    _write_text(stream, "chunks")
    _write_count(stream, len(starts), 0x80, 0xDE)
    flat = np.ascontiguousarray(stored.read()).reshape(-1)
    for number, start in enumerate(starts):
        _write_text(stream, str(number))
        _write_array(stream, Stored.of(flat[start : start + size]))
    stored.release()
