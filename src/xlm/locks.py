"""Locks that keep a second writer out of a folder, and end with the process that holds them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xlm.errors import OutputError


@contextmanager
def folder_lock(folder: Path, name: str = ".saving.lock", *, stays: bool = False) -> Iterator[None]:
    """Keep a second writer out of a folder while the block runs.

    The system drops the lock when its process ends, however it ends, so a stale lock file stops nobody. Where a system or a
    file system has no locks, nothing is held; temporary names are unique all the same.

    Args:
        folder: it is there.
        name: of the lock's file.
        stays: whether the file is left, as a mark of what the folder is.

    Raises:
        OutputError: another process writes into the folder now; names its host and process.
    """
    path = folder / name
    try:
        import fcntl
    except ImportError:  # Windows: renames are refused there while another process has the file open
        if stays:
            path.touch()
        yield
        return
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode("utf-8", "replace").strip() or "an unnamed process"
            os.close(handle)
            raise OutputError(
                f"{folder}: {holder} writes into this folder now (lock {path.name}); wait, or write elsewhere"
            ) from error
        except OSError:
            pass  # a file system without locks
        if _is_still(handle, path):
            break
        os.close(handle)  # its holder removed it between our two calls: try the new one
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        if not stays:
            with suppress(OSError):
                path.unlink()
        os.close(handle)


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
