"""Opening and writing checkpoints: the one door to the tensors of a folder or file, whatever wrote them."""

from __future__ import annotations

import os
from pathlib import Path

from xlm.atomic import make_folder, write_json, write_text
from xlm.checkpoints.checkpoint import Checkpoint, Stored
from xlm.checkpoints.shards import check_contents, read_index
from xlm.checkpoints.tensorfile import TensorFile
from xlm.checkpoints.writer import INDEX, SINGLE, parse_size, save_safetensors
from xlm.errors import CheckpointError

# Names under which other formats are found in a folder, tried after safetensors.
FOREIGN = (
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "model.pt",
    "flax_model.msgpack",
    "tf_model.h5",
)
FOREIGN_SUFFIXES = (".bin", ".pt", ".pth", ".h5", ".msgpack")


def open_checkpoint(path: str | os.PathLike[str], *, allow_pickle: bool = False, use_safetensors: bool | None = None) -> Checkpoint:
    """Open the weights of a folder or a weights file; tensors are read when asked for.

    In a folder safetensors (single or sharded) come first, then the formats of other libraries.

    Args:
        path: a folder or a file.
        allow_pickle: accepted for the sake of callers of other libraries: pickles are always read by a restricted reader
            that builds tensors and plain data only, so there is nothing to allow.
        use_safetensors: ``True`` refuses every other format, ``False`` prefers them.

    Raises:
        CheckpointError: no weights there, or damaged, unsafe or unknown files.
    """
    del allow_pickle
    found = weights_of(Path(path), use_safetensors)
    if found.name.endswith(".safetensors"):
        return _single(found)
    if found.name.endswith(".safetensors.index.json"):
        return _sharded(found)
    from xlm.checkpoints.foreign import open_foreign

    return open_foreign(found)


def weights_of(path: Path, use_safetensors: bool | None = None) -> Path:
    """The file (or index of shards) that holds the weights of a folder.

    Raises:
        CheckpointError: there is none; says what was looked for.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder")
    safe = [path / SINGLE, path / INDEX]
    others = [path / name for name in FOREIGN]
    others += sorted(p for p in path.glob("*.pth"))
    candidates = safe if use_safetensors else [*others, *safe] if use_safetensors is False else [*safe, *others]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    lonely = sorted(path.glob("*.safetensors"))
    if len(lonely) == 1:
        return lonely[0]
    looked = ", ".join(p.name for p in candidates)
    raise CheckpointError(f"{path}: is not a checkpoint: holds none of {looked}")


def _single(path: Path) -> Checkpoint:
    file = TensorFile(path)
    return Checkpoint(path, [path], "safetensors", _entries(file), dict(file.metadata))


def _entries(file: TensorFile) -> dict[str, Stored]:
    def stored(name: str) -> Stored:
        slot = file.slots[name]
        return Stored(slot.shape, slot.dtype, lambda: file.view(name), lambda: file.release(name))

    return {name: stored(name) for name in file.slots}


def _sharded(index: Path) -> Checkpoint:
    places = read_index(index)
    shards: dict[Path, set[str]] = {}
    for name, shard in places.items():
        shards.setdefault(shard, set()).add(name)
    entries: dict[str, Stored] = {}
    metadata: dict[str, str] = {}
    for shard, names in shards.items():
        file = TensorFile(shard)
        check_contents(index, shard, names, set(file.slots))
        entries.update(_entries(file))
        metadata.update(file.metadata)
    return Checkpoint(index.parent, list(shards), "safetensors", entries, metadata)


write_text_atomic = write_text
write_json_atomic = write_json

__all__ = [
    "Checkpoint",
    "make_folder",
    "open_checkpoint",
    "parse_size",
    "save_safetensors",
    "weights_of",
    "write_json_atomic",
    "write_text_atomic",
]
