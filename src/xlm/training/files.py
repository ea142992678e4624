"""Folders that exist only when complete, manifests that prove it, and a lock that keeps a second writer out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xlm.atomic import with_retries
from xlm.errors import CheckpointError, OutputError

MANIFEST = "manifest.json"
LOCK = "run.lock"


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file's content."""

    def digest() -> str:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return with_retries(digest)


def fsync_path(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling to fill; at the end its files are hashed, flushed, and it is renamed to ``folder``.

    A failure on the way removes the temporary folder and leaves everything else as it was. An earlier ``folder`` is renamed
    to a hidden sibling, ``.NAME.….old``, and removed when the new one is in place: a process killed between loses neither.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    temporary, old = (folder.parent / f".{folder.name}.{token}.{end}" for end in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        entries = {
            str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
        }
        (temporary / MANIFEST).write_text(json.dumps(entries, indent=1), "utf-8")
        for path in [*files, temporary / MANIFEST, *(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            fsync_path(path)
        replaces = folder.exists()
        if replaces:
            os.rename(folder, old)
        try:
            os.rename(temporary, folder)
        except BaseException:
            if replaces:
                os.rename(old, folder)
            raise
        fsync_path(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def manifest_of(folder: Path) -> dict[str, dict[str, object]] | None:
    """What ``atomic_folder`` wrote into a folder, by relative path; None for a folder that it did not make."""
    try:
        entries = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(entries, dict) and all(isinstance(e, dict) and "sha256" in e for e in entries.values())
    return entries if ours else None


def foreign_files(folder: Path) -> list[str]:
    """Relative paths of the files in a folder that its manifest does not list, sorted: somebody else's."""
    entries = manifest_of(folder)
    known = set() if entries is None else {MANIFEST, *entries}
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(set(found) - known)


def remove_folder(folder: Path) -> None:
    """Remove a folder that ``atomic_folder`` made, and no other; under another name first, so that a process that is killed
    here leaves no half of it in its place."""
    if folder.is_symlink() or manifest_of(folder) is None:
        return
    doomed = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp"
    with suppress(OSError):  # what cannot be removed stays: nothing depends on it
        os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def verify_folder(folder: Path) -> None:
    """Raise ``CheckpointError`` naming the first file that is missing or not as it was written."""
    try:
        entries = json.loads(with_retries(lambda: (folder / MANIFEST).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: the checkpoint has no readable manifest: {error}") from error
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, though the manifest lists it")
        if path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
            raise CheckpointError(
                f"{path}: {path.stat().st_size} bytes, not the {entry['bytes']} bytes that were written"
            )


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; a second process fails at once with the holder's host and process id.

    The lock is the kernel's (``flock``): it ends with its process however that dies, so it cannot go stale; the file stays,
    and marks the folder as a run's. Where the system has no such locks (Windows), nothing is held.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"{folder}: the run folder cannot be written: {error.strerror or error}") from error
    try:
        try:
            _lock(handle)
        except OSError as error:
            holder = os.read(handle, 200).decode("utf-8", "replace").strip() or "another process"
            raise OutputError(
                f"{folder}: in use by {holder} (its lock is {path}): choose another output folder or stop it"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Lock an open file for this process alone; OSError where another has it."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
