"""Writing files that ``torch.load`` reads, without PyTorch: the zip layout, one tensor in memory at a time."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from xlm.atomic import need_space, replacing
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.writer import write_array
from xlm.errors import InputError

_STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}
_ALIGNMENT = 64


class Namespace(dict[str, Any]):
    """Settings that become an ``argparse.Namespace`` in the file."""


class Ordered(dict[str, Any]):
    """A dictionary that becomes a ``collections.OrderedDict`` in the file, as state dicts are."""


class _Pickler:
    """Writes plain data and tensors as a pickle of protocol 2; equal ``Stored`` objects share a storage."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.storages: dict[int, tuple[str, Stored]] = {}

    def dump(self, value: Any) -> bytes:
        self._save(value)
        return bytes(self.out) + b"."

    def _save(self, value: Any) -> None:
        out = self.out
        if value is None or isinstance(value, bool):
            out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            out += (
                struct.pack("<Bi", ord("J"), value) if -(2**31) <= value < 2**31 else b"\x8a" + bytes([len(raw)]) + raw
            )
        elif isinstance(value, float):
            out += struct.pack(">cd", b"G", value)
        elif isinstance(value, str):
            raw = value.encode("utf-8")
            out += struct.pack("<cI", b"X", len(raw)) + raw
        elif isinstance(value, Stored):
            self._tensor(value)
        elif isinstance(value, Namespace):
            out += b"cargparse\nNamespace\n)\x81"
            self._dict(value)
            out += b"b"
        elif isinstance(value, Mapping):
            out += b"ccollections\nOrderedDict\n)R" if isinstance(value, Ordered) else b"}"
            self._entries(value)
        elif isinstance(value, list | tuple):
            out += b"(" if isinstance(value, tuple) else b"]("
            for item in value:
                self._save(item)
            out += b"t" if isinstance(value, tuple) else b"e"
        else:
            raise InputError(f"a {type(value).__name__} cannot be written into a PyTorch file")

    def _dict(self, value: Mapping[str, Any]) -> None:
        self.out += b"}"
        self._entries(value)

    def _entries(self, value: Mapping[str, Any]) -> None:
        self.out += b"("
        for key, item in value.items():
            self._save(key)
            self._save(item)
        self.out += b"u"

    def _tensor(self, stored: Stored) -> None:
        if stored.dtype not in _STORAGES:
            raise InputError(f"a tensor of the type {stored.dtype} cannot be written into a PyTorch file")
        key, _ = self.storages.setdefault(id(stored), (str(len(self.storages)), stored))
        strides = tuple(math.prod(stored.shape[place + 1 :]) for place in range(len(stored.shape)))
        self.out += b"ctorch._utils\n_rebuild_tensor_v2\n(("
        self._save("storage")
        self.out += f"ctorch\n{_STORAGES[stored.dtype]}\n".encode()
        for item in (key, "cpu", math.prod(stored.shape)):
            self._save(item)
        self.out += b"tQ"
        for item in (0, stored.shape, strides, False, Ordered()):
            self._save(item)
        self.out += b"tR"


def save_torch(path: str | os.PathLike[str], value: Any) -> None:
    """Write plain data with :class:`Stored` tensors in it, so that ``torch.load`` gives it back.

    Raises:
        InputError: a value that such a file cannot hold.
        OutputError: the file cannot be written or the bytes needed do not fit on the disk.
    """
    path = Path(path)
    pickler = _Pickler()
    listing = pickler.dump(value)
    sizes = [stored.nbytes for _, stored in pickler.storages.values()]
    total = sum(sizes) + len(listing) + 512 * (len(sizes) + 4)
    need_space(path.parent, total, total)
    with replacing(path, total) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in (("data.pkl", listing), ("byteorder", b"little")):
            with _member(archive, stream, name) as out:
                out.write(raw)
        for key, stored in pickler.storages.values():
            with _member(archive, stream, f"data/{key}") as out:
                write_array(out, stored, key)
        with _member(archive, stream, "version") as out:
            out.write(b"3\n")


def _member(archive: zipfile.ZipFile, stream: Any, name: str) -> Any:
    """A member whose data begins at a multiple of 64 bytes, so that it can be mapped into memory as it is."""
    info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
    # The fixed header, the name, the 20 bytes of the large-file field, then a field that is there to pad.
    begin = stream.tell() + 30 + len(info.filename) + 20 + 4
    padding = -begin % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return archive.open(info, "w", force_zip64=True)
