"""What tells one model's folder from another's, whatever its path: a hash of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from xlm.checkpoints.files import open_checkpoint
from xlm.hub import MODULE_FOLDERS, is_side_file

_BLOCK = 4096
_BLOCKS = 256


def fingerprint(folder: Path) -> str:
    """sha256 over a folder's settings, vocabulary and weights, by name and content; the card and the licence left out.

    Of a large file of weights the size and 256 blocks or more, evenly spread, are read: training an encoder changes them.

    Raises:
        CheckpointError: there are no weights, or they are damaged.
    """
    weights = open_checkpoint(folder).files
    modules = [file for path in folder.glob(MODULE_FOLDERS) for file in path.glob("*.json")]
    beside = [file for file in folder.iterdir() if is_side_file(file.name) and file.suffix not in ("", ".md")]
    digest = hashlib.sha256()
    for file in sorted({*weights, *modules, *beside}):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()}:{size}\n".encode())
        step = max(1, size // (_BLOCK * _BLOCKS)) * _BLOCK if file in weights else _BLOCK
        with file.open("rb") as stream:
            for place in range(0, size, step):
                stream.seek(place)
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()
