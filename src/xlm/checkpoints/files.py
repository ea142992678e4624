"""Find the weights of a checkpoint, whatever wrote them, and open them without reading them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from xlm.atomic import write_bytes, write_json, write_text
from xlm.checkpoints.checkpoint import Checkpoint, Stored
from xlm.checkpoints.quantized import widened
from xlm.checkpoints.shards import check_contents, read_index
from xlm.checkpoints.tensorfile import TensorFile, map_file, refuse_impostor
from xlm.checkpoints.writer import save_safetensors
from xlm.errors import CheckpointError
from xlm.hub import WEIGHTS as KINDS
from xlm.hub import with_variant

__all__ = ["Checkpoint", "Stored", "open_checkpoint", "save_safetensors", "write_bytes", "write_json", "write_text"]

# What is looked for in a folder, best first; an index stands for its shards.
WEIGHTS = tuple(names[0] for names in KINDS if "*" not in names[0])
_ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".h5", ".msgpack")


def find_weights(folder: Path, use_safetensors: bool | None = None, variant: str | None = None) -> Path:
    """The file that holds, or the index that names, a folder's weights.

    Args:
        folder: where to look.
        use_safetensors: ``True`` looks for nothing else, ``False`` prefers every other format.
        variant: of the weights, such as ``fp16``: no other file will do.

    Raises:
        CheckpointError: there is none; lists what was looked for and what is there.
    """
    safe = tuple(name for name in WEIGHTS if ".safetensors" in name)
    looked = safe if use_safetensors else WEIGHTS
    if use_safetensors is False:
        looked = (*(name for name in WEIGHTS if name not in safe), *safe)
    looked = tuple(with_variant(name, variant) for name in looked)
    for name in looked:
        if (folder / name).is_file():
            return folder / name
    names = sorted(entry.name for entry in folder.iterdir())
    alone = [name for name in names if name.endswith(".safetensors")]
    alone = alone or [name for name in names if name.endswith((".pth", ".pt")) and not use_safetensors]
    if len(alone) == 1 and variant is None:
        return folder / alone[0]
    if any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            f"{folder}: is a distributed PyTorch checkpoint (.distcp), which can run code when loaded: refused; "
            "write it as safetensors with the program that made it"
        )
    shards = [name for name in names if "-of-" in name and name.endswith(_ENDINGS)]
    if shards and not use_safetensors and variant is None:
        raise CheckpointError(
            f"{folder}: has {len(shards)} shards but no index (model.safetensors.index.json) to name them"
        )
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "nothing"
    what = "no weights found" if variant is None else f"no weights of the variant {variant!r} found"
    raise CheckpointError(f"{folder}: {what}; looked for {', '.join(looked)}; the folder holds {shown}")


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    allow_pickle: bool = True,
    use_safetensors: bool | None = None,
    variant: str | None = None,
) -> Checkpoint:
    """Open a folder or a file of weights; tensors are read when they are asked for.

    Names and layouts are those of the published PyTorch models, whatever wrote the file: TensorFlow, Flax, fairseq and
    original XLM names are translated, kernels transposed (``format`` says what it was).

    Args:
        path: a folder or a file.
        allow_pickle: whether PyTorch's pickles may be read; they are never given to a general unpickler, but to one
            that makes nothing except tensors and plain data.
        use_safetensors: ``True`` refuses every other format, ``False`` prefers them.
        variant: of a folder's weights: ``fp16`` opens ``model.fp16.safetensors``, or the shards that its index names.

    Raises:
        CheckpointError: there are no weights, or they are damaged, unsafe or of an unknown format.
        MissingExtraError: an .h5 file without the package that reads it.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    weights = find_weights(path, use_safetensors, variant) if path.is_dir() else path
    pickled = _kind(weights).endswith((".bin", ".pt", ".pth"))
    if (pickled and not allow_pickle) or (use_safetensors and ".safetensors" not in weights.name):
        option = f"allow_pickle={allow_pickle}, use_safetensors={use_safetensors}"
        raise CheckpointError(f"{weights}: is not a safetensors file, and others are refused by {option}")
    if weights.suffix == ".json":
        return widened(_open_sharded(path, weights))
    checkpoint = _reader(weights)(weights)
    checkpoint.path = path
    return widened(checkpoint)


def _kind(weights: Path) -> str:
    """The name of a file of weights, or of the files that an index names, without what an index adds."""
    return weights.name.partition(".index.")[0]


def _open_sharded(path: Path, index: Path) -> Checkpoint:
    places = read_index(index)
    promised: dict[Path, set[str]] = {}
    for name, shard in places.items():
        promised.setdefault(shard, set()).add(name)
    entries: dict[str, Stored] = {}
    parts = []
    for shard in sorted(promised):
        part = _reader(shard)(shard)
        if part.format in ("safetensors", "pytorch"):
            check_contents(index, shard, promised[shard], set(part.entries))
        if double := entries.keys() & part.entries.keys():
            raise CheckpointError(f"{shard}: holds {min(double)!r}, which another shard of {index.name} holds too")
        entries.update(part.entries)
        parts.append(part)
    return Checkpoint(path, sorted(promised), parts[0].format, entries, parts[0].metadata, parts[0].extras)


def open_safetensors(path: Path) -> Checkpoint:
    """Open one safetensors file; names and types are the file's own."""
    file = TensorFile(path)
    entries = {
        name: Stored(
            slot.shape,
            slot.dtype,
            lambda n=name: file.view(n),
            lambda n=name: file.release(n),
            lambda n=name: file.prefetch(n),
        )
        for name, slot in file.slots.items()
    }
    checkpoint = Checkpoint(path, [path], "safetensors", entries, file.metadata)
    if file.metadata.get("format") in ("tf", "flax"):
        from xlm.checkpoints.foreign import naming

        return naming.from_safetensors(checkpoint)
    return checkpoint


def _open_torch(path: Path) -> Checkpoint:
    from xlm.checkpoints.foreign import pytorch

    return pytorch.open_torch(path)


def _open_h5(path: Path) -> Checkpoint:
    from xlm.checkpoints.foreign import h5

    return h5.open_h5(path)


def _open_msgpack(path: Path) -> Checkpoint:
    from xlm.checkpoints.foreign import msgpack

    return msgpack.open_msgpack(path)


def _reader(path: Path) -> Callable[[Path], Checkpoint]:
    """Which reader a file needs, by its first bytes and only then by its name."""
    mapped = map_file(path)
    beginning = mapped[:512]
    refuse_impostor(path, beginning)
    if beginning.startswith(b"\x89HDF\r\n\x1a\n"):
        return _open_h5
    if beginning[8:9] == b"{" or path.suffix == ".safetensors":
        return open_safetensors
    if path.suffix == ".msgpack":
        return _open_msgpack
    if beginning.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return _open_torch
    if beginning[257:262] == b"ustar" or beginning.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        raise CheckpointError(f"{path}: is an archive (tar, gz, bz2 or xz): unpack it first and give the folder")
    raise CheckpointError(f"{path}: no known format of weights; it begins with {beginning[:16]!r}")
