"""Folders that are there whole or not at all, and manifests that prove what was written into them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xlm.atomic import make_folder, sibling, sync, with_retries
from xlm.errors import CheckpointError, OutputError

MANIFEST = "manifest.json"


def need_new(folder: str | os.PathLike[str], argument: str = "out") -> Path:
    """The path, if nothing is there or an empty folder; OutputError otherwise."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{argument}={str(folder)!r} is there already, and not an empty folder: name a new one")
    return folder


@contextmanager
def new_folder(folder: str | os.PathLike[str], argument: str = "out") -> Iterator[Path]:
    """A folder beside ``folder`` that becomes it when the block ends, flushed to disk, and vanishes when it raises.

    Raises:
        OutputError: there is something at ``folder`` already, or it cannot be made.
    """
    folder = need_new(folder, argument)
    make_folder(folder.absolute().parent, argument)
    with _temporary(folder.absolute()) as temporary:
        yield temporary
        _flush(temporary)
        try:
            os.replace(temporary, folder)
        except OSError as error:
            raise OutputError(f"{argument}={str(folder)!r} cannot be made: {error.strerror or error}") from error
        sync(folder.absolute().parent)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Like :func:`new_folder`, with a manifest of its files' hashes, and in the place of an earlier ``folder``.

    That one is renamed to a hidden sibling, ``.NAME.….old``, and removed when the new one is in place: a process killed
    between loses neither.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(folder) as temporary:
        yield temporary
        entries = {
            str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        (temporary / MANIFEST).write_text(json.dumps(entries, indent=1), "utf-8")
        _flush(temporary)
        old, replaces = sibling(folder, "old"), folder.exists()
        if replaces:
            os.rename(folder, old)
        try:
            os.rename(temporary, folder)
        except BaseException:
            if replaces:
                os.rename(old, folder)
            raise
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A sibling that is gone when the block ends, unless it has another name by then."""
    temporary = sibling(folder)
    try:
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Make everything in a folder survive a power cut. A file that cannot be flushed is an error."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        else:
            sync(path)
    sync(folder)


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file's content."""

    def digest() -> str:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return with_retries(digest)


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
    doomed = sibling(folder)
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
