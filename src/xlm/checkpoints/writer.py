"""Writing safetensors: single or sharded, one tensor in memory at a time, and visible only when complete."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from xlm.atomic import Pending, make_folder, need_space, remove_leftovers, sync, target_of
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.dtypes import code_of
from xlm.errors import InputError, OutputError
from xlm.hub import with_variant
from xlm.locks import folder_lock

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_CHUNK = 16 * 2**20  # elements cast and written at a time

Tensors = Mapping[str, "np.ndarray | Stored"] | Iterable[tuple[str, "np.ndarray | Stored"]]


def parse_size(size: int | str, argument: str = "max_shard_size") -> int:
    """Bytes of a size like ``5GB`` (powers of ten) or ``5GiB`` (powers of two), or of a plain number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)", str(size).strip().upper())
    if not found or isinstance(size, bool) or found[2] not in _UNITS or float(found[1]) <= 0:
        raise InputError(f"{argument}={size!r}: must be a number of bytes above 0 or text like '500MB', '5GB', '5GiB'")
    return int(float(found[1]) * _UNITS[found[2]])


def save_safetensors(
    path: str | os.PathLike[str],
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    max_shard_size: int | str = "5GB",
    variant: str | None = None,
    beside: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write tensors to one file (``path`` ends in ``.safetensors``) or into a folder, in shards where they are large.

    Args:
        path: a file to replace, or a folder that gets ``model.safetensors`` or shards with their index.
        tensors: name -> array, or :class:`Stored` tensors, which are read one at a time while writing.
        metadata: text kept in each file; ``{"format": "pt"}`` is always there, other libraries ask for it.
        max_shard_size: the largest number of bytes of one shard; a larger tensor gets a shard of its own.
        variant: of a folder's weights: ``fp16`` writes ``model.fp16.safetensors``, and leaves other variants as they are.
        beside: name -> text of further files of the folder (``config.json``), which are replaced together with the weights.

    The files appear at once when all of them are on disk; until then what was there stays as it was, and it may be the
    very file that the tensors are mapped from. Shards that an earlier save left are removed at the end.

    Returns:
        The paths written, the index last.

    Raises:
        OutputError: the folder cannot be written or the bytes needed do not fit on the disk.
        InputError: a name is given twice, or a type has no code in the format.
    """
    pairs = list(tensors.items() if isinstance(tensors, Mapping) else tensors)
    entries: dict[str, Stored] = {}
    for name, value in pairs:
        if name in entries or name == "__metadata__" or not isinstance(name, str):
            raise InputError(f"tensors: the name {name!r} is given twice or is not allowed")
        entries[name] = value if isinstance(value, Stored) else Stored.of(np.asarray(value))
        if code_of(entries[name].dtype) is None:
            raise InputError(f"tensors: {name!r} has the dtype {entries[name].dtype}, which safetensors cannot hold")
    text = {"format": "pt", **(metadata or {})}
    path = Path(path)
    if path.suffix == ".safetensors" and not path.is_dir():
        make_folder(path.parent)
        return _write_all(
            [path], [entries], text, None, {path.parent / name: one for name, one in (beside or {}).items()}
        )
    folder = make_folder(path)
    with folder_lock(folder):
        texts = {folder / name: one for name, one in (beside or {}).items()}
        for name in ("model", *(place.name for place in texts)):
            remove_leftovers(folder, name)
        return _save_folder(folder, entries, text, max_shard_size, variant, texts)


def _save_folder(
    folder: Path,
    entries: dict[str, Stored],
    text: dict[str, str],
    max_shard_size: int | str,
    variant: str | None,
    beside: Mapping[Path, str],
) -> list[Path]:
    groups = _grouped(entries, parse_size(max_shard_size))
    if len(groups) == 1:
        written = _write_all([folder / with_variant(SINGLE, variant)], groups, text, None, beside)
        _remove_stale(folder, keep=set(), index=True, variant=variant)
        return written
    files = [folder / name for name in _shard_names(folder, len(groups), variant)]
    weights = {name: file.name for file, group in zip(files, groups, strict=True) for name in group}
    total = sum(stored.nbytes for stored in entries.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}
    place = folder / with_variant(INDEX, variant)
    content = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
    written = _write_all(files, groups, text, (place, content), beside)
    _remove_stale(folder, keep={file.name for file in files}, index=False, variant=variant)
    return written


def remove_safetensors(folder: Path, variant: str | None = None) -> None:
    """Remove the safetensors of an earlier save, which would stay in force beside a newly written file of another kind."""
    with folder_lock(folder):
        _remove_stale(folder, keep=set(), index=True, variant=variant)
        _remove_stale(folder, keep=set(), index=False, variant=variant)


def header_of(entries: Mapping[str, Stored], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the data: length and JSON, padded so that the data begins at a multiple of 64."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, stored in entries.items():
        header[name] = {
            "dtype": code_of(stored.dtype),
            "shape": list(stored.shape),
            "data_offsets": [place, place + stored.nbytes],
        }
        place += stored.nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-(len(raw) + 8) % 64)
    return len(raw).to_bytes(8, "little") + raw


def write_array(stream, stored: Stored, name: str = "") -> None:
    """Write one tensor's bytes in row order, little-endian, a piece at a time; its pages are given back afterwards."""
    array = stored.read()
    if tuple(array.shape) != stored.shape or array.dtype != stored.dtype:
        raise OutputError(f"tensor {name!r} is {array.shape} {array.dtype}, announced as {stored.shape} {stored.dtype}")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.flags.c_contiguous:
        stream.write(array.reshape(-1).view(np.uint8).data)
    else:
        rows = max(1, _CHUNK // max(1, math.prod(array.shape[1:])))
        for start in range(0, array.shape[0], rows):
            stream.write(np.ascontiguousarray(array[start : start + rows]).reshape(-1).view(np.uint8).data)
    stored.release()


def _grouped(entries: dict[str, Stored], limit: int) -> list[dict[str, Stored]]:
    """Tensors in order, a new group whenever the next one would make the last larger than ``limit``."""
    groups: list[dict[str, Stored]] = [{}]
    size = 0
    for name, stored in entries.items():
        if groups[-1] and size + stored.nbytes > limit:
            groups.append({})
            size = 0
        groups[-1][name] = stored
        size += stored.nbytes
    return groups


def _shard_names(folder: Path, count: int, variant: str | None) -> list[str]:
    """Names that no file in the folder has: the old shards must stay what the old index says until the new one is there."""
    for version in ["", *(f"-v{number}" for number in range(2, 10_000))]:
        stem = SINGLE.partition(".")[0] + ("" if variant is None else f".{variant}")
        names = [f"{stem}{version}-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
        if not any((folder / name).exists() for name in names):
            return names
    raise OutputError(f"{folder}: holds 9,999 generations of shards; remove old ones")


def _write_all(
    files: list[Path],
    groups: list[dict[str, Stored]],
    metadata: Mapping[str, str],
    index: tuple[Path, str] | None,
    beside: Mapping[Path, str],
) -> list[Path]:
    headers = [header_of(group, metadata) for group in groups]
    sizes = [len(head) + sum(s.nbytes for s in group.values()) for head, group in zip(headers, groups, strict=True)]
    texts = [*beside.items(), *([index] if index else [])]
    total = sum(sizes) + sum(len(content.encode()) for _, content in texts)
    need_space(files[0].parent, total, max(sizes))
    with Pending() as pending:
        for file, group, header in zip(files, groups, headers, strict=True):
            with pending.open(file, total) as stream:
                stream.write(header)
                for name, stored in group.items():
                    write_array(stream, stored, name)
        for place, content in texts:
            with pending.open(place, total) as stream:
                stream.write(content.encode("utf-8"))
        ours = {target_of(place) for place in beside}
        return [path for path in pending.commit() if path not in ours]


def _remove_stale(folder: Path, keep: set[str], index: bool, variant: str | None) -> None:
    """Remove what an earlier save left: index and single file first, so that no index names a file that is gone."""
    own = "" if variant is None else re.escape(f".{variant}")
    shard = re.compile(rf"model{own}(-v\d+)?-\d{{5}}-of-\d{{5}}\.safetensors")
    stale = [folder / with_variant(INDEX if index else SINGLE, variant)]
    stale += [file for file in sorted(folder.iterdir()) if shard.fullmatch(file.name) and file.name not in keep]
    removed = False
    for file in stale:
        if file.is_file() or file.is_symlink():
            file.unlink()
            removed = True
    if removed:
        sync(folder)
