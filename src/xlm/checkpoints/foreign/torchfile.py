"""Files of ``torch.save``, read without PyTorch: the zip layout of today and the plain one of before version 1.6.

Storages stay where they are: a tensor is a strided view of the mapped file, or of a member unpacked when it is read.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.foreign.pickles import Global, Reader
from xlm.checkpoints.tensorfile import map_file, release_pages
from xlm.errors import CheckpointError

MAX_PICKLE = (
    64_000_000  # bytes of the pickle that lists the tensors; a vocabulary of 200,000 words in it takes ten million
)
# A member may be compressed; weights hardly shrink, so what grows more than this is no checkpoint.
MAX_GROWTH = 20
_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: dict[str, Any] = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexFloat": np.complex64,
}
_BY_NAME: dict[str, Any] = {
    **{n: getattr(np, n) for n in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8")},
    **{n: getattr(np, n) for n in ("uint16", "uint32", "uint64")},
    **{n: getattr(ml_dtypes, n) for n in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
    "bool": np.bool_,
}


@dataclass
class Storage:
    """The memory behind tensors: how many bytes, and where they come from when read."""

    dtype: np.dtype
    count: int
    read: Callable[[], np.ndarray]  # raw bytes, (count * itemsize,)
    release: Callable[[], None]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a pickle: a strided window of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: np.dtype

    def stored(self) -> Stored:
        """The tensor, to be read when needed."""
        return Stored(self.shape, self.dtype, self.array, self.storage.release)

    def array(self) -> np.ndarray:
        """The tensor as a view, of which every index lies inside the storage (checked when it was made)."""
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.dtype)
        flat = self.storage.read().view(self.dtype)[self.offset :]
        strides = tuple(step * self.dtype.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides)


def _rebuild(storage: Storage, offset: int, shape: Any, stride: Any, dtype: np.dtype | None = None) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without storage")
    dtype = dtype or storage.dtype
    shape, stride = tuple(shape), tuple(stride)
    numbers = (offset, *shape, *stride)
    if any(type(n) is not int or n < 0 or n > 2**62 for n in numbers) or len(shape) != len(stride) or len(shape) > 32:
        raise ValueError(f"a tensor of shape {shape}, stride {stride} and offset {offset}")
    room = storage.count * storage.dtype.itemsize // dtype.itemsize
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if math.prod(shape) and (last >= room or math.prod(shape) > room):
        raise ValueError(f"a tensor of shape {shape}, stride {stride} and offset {offset} in a storage of {room}")
    return Tensor(storage, offset, shape, stride, dtype)


def _rebuild_v3(
    storage: Storage, offset: int, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    if not isinstance(dtype, Global) or (name := dtype.name.removeprefix("torch.")) not in _BY_NAME:
        raise ValueError(f"a tensor of the type {dtype!r}")
    return _rebuild(storage, offset, shape, stride, np.dtype(_BY_NAME[name]))


def _label(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise ValueError(f"a call of {name}")

    return refuse


_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": lambda storage, offset, shape, stride: _rebuild(storage, offset, shape, stride),
    "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, stride, *_: _rebuild(
        storage, offset, shape, stride
    ),
    "torch._utils._rebuild_tensor_v3": _rebuild_v3,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda make, kind, args, state: _MAKERS[make.name](*args),
    "torch.Size": tuple,
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    **{name: _label(name) for name in (f"torch.{kind}Storage" for kind in _DTYPES)},
    **{name: _label(name) for name in (f"torch.{kind}" for kind in _BY_NAME)},
    "torch.storage.UntypedStorage": _label("UntypedStorage"),
    "torch.storage._UntypedStorage": _label("UntypedStorage"),
    "torch.nn.parameter.Parameter": _label("Parameter"),
    "torch.Tensor": _label("Tensor"),
}


def _storage_type(kind: Any) -> np.dtype:
    name = kind.name.rpartition(".")[2] if isinstance(kind, Global) else ""
    if name.endswith("UntypedStorage"):
        return np.dtype(np.uint8)
    if name.removesuffix("Storage") not in _DTYPES:
        raise ValueError(f"a storage of the kind {kind!r}")
    return np.dtype(_DTYPES[name.removesuffix("Storage")])


def load_torch(path: Path) -> Any:
    """What a file of ``torch.save`` holds: plain data with :class:`Tensor` in it.

    Raises:
        CheckpointError: damaged, compressed beyond reason, or asking for code.
    """
    mapped = map_file(path)
    if mapped[:4] == b"PK\x03\x04":
        return _load_zip(path, mapped)
    return _load_legacy(path, mapped)


def _load_zip(path: Path, mapped: mmap.mmap) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: damaged or truncated zip file: {error}") from error
    total, limit = sum(info.file_size for info in members.values()), MAX_GROWTH * len(mapped)
    if total > limit:
        raise CheckpointError(f"{path}: {len(mapped)} bytes that unpack to {total}; the limit is {limit}: refused")
    listing = next((name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")), None)
    if listing is None:
        raise CheckpointError(f"{path}: is a zip file, but not one of torch.save: it has no data.pkl")
    root = listing.removesuffix("data.pkl")
    if members[listing].file_size > MAX_PICKLE:
        raise CheckpointError(f"{path}: {listing} has {members[listing].file_size} bytes; the limit is {MAX_PICKLE}")
    if root + "byteorder" in members and bytes(_member(path, mapped, members[root + "byteorder"])()) != b"little":
        raise CheckpointError(f"{path}: was written on a big-endian machine, which is not supported")
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        kind, type_, key, _, count = pid[:5]
        if kind != "storage" or type(count) is not int or count < 0:
            raise ValueError(f"a reference {str(pid)[:80]}")
        name = f"{root}data/{key}"
        if name not in storages:
            if name not in members:
                raise ValueError(f"the storage {key!r}, which is not in the file")
            dtype = _storage_type(type_)
            size = count * dtype.itemsize
            if size > members[name].file_size:
                raise ValueError(f"{size} bytes of the storage {key!r}, which has {members[name].file_size}")
            read = _member(path, mapped, members[name])
            begin = _begin(path, mapped, members[name])
            release = lambda: release_pages(mapped, begin, begin + size)  # noqa: E731
            storages[name] = Storage(dtype, count, lambda: read()[:size], release)
        return storages[name]

    data = bytes(_member(path, mapped, members[listing])())
    return Reader(data, 0, _MAKERS, persistent, str(path), MAX_PICKLE).load()


def _begin(path: Path, mapped: mmap.mmap, info: zipfile.ZipInfo) -> int:
    """The first byte of a member's data, from the header that stands before it."""
    raw = mapped[info.header_offset : info.header_offset + 30]
    if len(raw) < 30 or raw[:4] != b"PK\x03\x04":
        raise CheckpointError(f"{path}: the zip member {info.filename!r} has no header at byte {info.header_offset}")
    name, extra = struct.unpack("<HH", raw[26:30])
    begin = info.header_offset + 30 + name + extra
    if begin + info.compress_size > len(mapped):
        raise CheckpointError(
            f"{path}: truncated: {info.filename!r} ends at {begin + info.compress_size} of {len(mapped)}"
        )
    return begin


def _member(path: Path, mapped: mmap.mmap, info: zipfile.ZipInfo) -> Callable[[], np.ndarray]:
    """How to read the bytes of a member: a view of the file, or unpacked to exactly the announced size."""
    begin = _begin(path, mapped, info)
    if info.flag_bits & 1:
        raise CheckpointError(f"{path}: the zip member {info.filename!r} is encrypted")
    if info.compress_type == zipfile.ZIP_STORED:
        if info.compress_size != info.file_size:
            raise CheckpointError(f"{path}: the zip member {info.filename!r} is damaged: its two sizes differ")
        return lambda: np.frombuffer(mapped, np.uint8, info.file_size, begin)
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise CheckpointError(f"{path}: the zip member {info.filename!r} is packed in an unknown way")

    def unpack() -> np.ndarray:
        engine = zlib.decompressobj(-15)
        try:
            data = engine.decompress(mapped[begin : begin + info.compress_size], info.file_size + 1)
        except zlib.error as error:
            raise CheckpointError(f"{path}: the zip member {info.filename!r} is damaged: {error}") from error
        if len(data) != info.file_size:
            raise CheckpointError(f"{path}: {info.filename!r} unpacks to {len(data)} bytes, not {info.file_size}")
        return np.frombuffer(data, np.uint8)

    return unpack


def _load_legacy(path: Path, mapped: mmap.mmap) -> Any:
    """Magic number, protocol, machine facts, the data, the list of storages, then each storage's count and bytes."""
    storages: dict[str, Storage] = {}
    places: dict[str, int] = {}

    def persistent(pid: Any) -> Storage:
        if pid[0] != "storage" or len(pid) < 5 or (len(pid) > 5 and pid[5] is not None):
            raise ValueError(f"a reference {str(pid)[:80]}")
        _, type_, key, _, count = pid[:5]
        if type(count) is not int or not 0 <= count <= 2**62:
            raise ValueError(f"a storage of {count!r} numbers")
        if key not in storages:
            dtype = _storage_type(type_)
            size = count * dtype.itemsize
            read = lambda: np.frombuffer(mapped, np.uint8, size, places[key])  # noqa: E731
            release = lambda: release_pages(mapped, places[key], places[key] + size)  # noqa: E731
            storages[key] = Storage(dtype, count, read, release)
        return storages[key]

    reader = Reader(mapped, 0, _MAKERS, persistent, str(path), MAX_PICKLE)
    if reader.load() != _MAGIC:
        raise CheckpointError(f"{path}: is a pickle, but not one of torch.save")
    if reader.load() != 1001:
        raise CheckpointError(f"{path}: a version of the torch.save format that is not known")
    facts = reader.load()
    if isinstance(facts, Mapping) and facts.get("little_endian") is False:
        raise CheckpointError(f"{path}: was written on a big-endian machine, which is not supported")
    value, keys = reader.load(), reader.load()
    at = reader.at
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(key)
        if storage is None or at + 8 > len(mapped):
            raise CheckpointError(f"{path}: truncated or damaged: no data for the storage {key!r}")
        count, places[key] = struct.unpack("<q", mapped[at : at + 8])[0], at + 8
        at += 8 + storage.count * storage.dtype.itemsize
        if count != storage.count or at > len(mapped):
            raise CheckpointError(
                f"{path}: truncated: the storage {key!r} of {storage.count} numbers ends at byte {at} of {len(mapped)}"
            )
    if lost := storages.keys() - places.keys():
        raise CheckpointError(f"{path}: damaged: no data for the storage {min(lost)!r}")
    return value


def tensors_of(value: Any) -> dict[str, Stored]:
    """The tensors of a dictionary by name; other values are left out."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name): item.stored() for name, item in value.items() if isinstance(item, Tensor)}
