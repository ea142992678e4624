"""Index files of sharded checkpoints: which file holds which tensor, and whether that may be believed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from xlm.checkpoints.tensorfile import MAX_HEADER, parse_strict
from xlm.errors import CheckpointError

_SHOWN = 10


def some(names: Iterable[str]) -> str:
    """The first ten names and how many there are in all."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"{len(ordered)}: " + ", ".join(ordered[:_SHOWN]) + more


def safe_member(folder: Path, name: str, index: Path, what: str = "shard") -> Path:
    """The path of a shard (or of what else), named by an index: it must lie inside its folder by the rules of every system.

    Links are followed only inside the folder, or from a Hub cache's snapshot into the blobs of the same repository.

    Raises:
        CheckpointError: the name is absolute, climbs out, names a drive or a share, or is a link that leads out.
    """
    if not name or "\0" in name:
        raise CheckpointError(f"{index}: names the {what} {name!r}, which is not a file name")
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if (
        posix.is_absolute()
        or windows.drive
        or windows.root
        or "\\" in name
        or ":" in name
        or ".." in posix.parts
        or ".." in windows.parts
    ):
        raise CheckpointError(f"{index}: names the {what} {name!r}, which is not inside its folder: refused")
    real = Path(os.path.realpath(folder / posix))
    allowed = [Path(os.path.realpath(folder))]
    parents = [folder.absolute(), *folder.absolute().parents]
    for parent in parents:
        if parent.parent.name == "snapshots":
            allowed.append(Path(os.path.realpath(parent.parent.parent / "blobs")))
    if not any(real.is_relative_to(root) for root in allowed):
        raise CheckpointError(f"{index}: the {what} {name!r} is a link to {real}, outside its folder: refused")
    return folder / posix


def read_index(index: Path) -> dict[str, Path]:
    """Tensor name -> path of its shard, after checking every shard's name and that the files are there.

    Raises:
        CheckpointError: the index is damaged, unsafe or names files that are absent.
    """
    try:
        size = index.stat().st_size
        if size > MAX_HEADER:
            raise CheckpointError(f"{index}: {size} bytes; the limit for an index is {MAX_HEADER}")
        data = parse_strict(index.read_bytes().lstrip(), index)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{index}: cannot be read: {error}") from error
    weights = data.get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{index}: has no 'weight_map' from tensors to files")
    for name, shard in weights.items():
        if not isinstance(shard, str):
            raise CheckpointError(f"{index}: names the shard {shard!r} of {name!r}, which is not a file name")
    paths = {shard: safe_member(index.parent, shard, index) for shard in dict.fromkeys(weights.values())}
    if absent := [shard for shard, path in paths.items() if not path.is_file()]:
        raise CheckpointError(f"{index}: names shards that are not there ({some(absent)})")
    return {name: paths[shard] for name, shard in weights.items()}


def check_contents(index: Path, shard: Path, promised: set[str], found: set[str]) -> None:
    """Hold a shard's tensors against what its index promises.

    Raises:
        CheckpointError: the shard lacks some or holds others; names the first ten and counts them.
    """
    if lacking := promised - found:
        raise CheckpointError(f"{shard}: lacks tensors that {index.name} promises ({some(lacking)})")
    if extra := found - promised:
        raise CheckpointError(f"{shard}: holds tensors that {index.name} does not list ({some(extra)})")
