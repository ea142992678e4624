"""How a server's models are loaded: when it listens already, and read from the disk while PyTorch is imported."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlm.assets import BUNDLED, BUNDLED_NAMES
from xlm.hub import resolve

_AT_ONCE = 1 << 22
"""Bytes that are read at once."""


def loader(path_or_name: str | None, load: Callable[..., Any], lang: str | None = None) -> Callable[[], Any]:
    """What loads an engine when it is called: ``load(model=..., lang=...)``, which is `xlm.load` with all other options."""

    def begin() -> Any:
        folder = resolve(BUNDLED if path_or_name is None else path_or_name)
        threading.Thread(target=read_ahead, args=(folder,), daemon=True).start()
        return load(model=path_or_name, lang=lang)

    return begin


def read_ahead(folder: Path) -> int:
    """Read a folder's weights into the kernel's cache, unless they would fill half of the memory; bytes read."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if sum(file.stat().st_size for file in files) > _memory() / 2:
        return 0
    buffer, count = bytearray(_AT_ONCE), 0
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while size := stream.readinto(buffer):
                count += size
    return count


def _memory() -> int:
    """Bytes of memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def name_of(path_or_name: str | Path | None) -> str:
    """What a model is called in requests: a hub name as it is, a folder by its own name."""
    path = Path(BUNDLED if path_or_name is None else path_or_name)
    if path_or_name is None or (str(path) in BUNDLED_NAMES and not path.exists()):
        return BUNDLED
    return path.resolve().name if path.is_dir() else str(path_or_name)
