"""Files that are either written whole or not at all: temporary sibling, flush to disk, rename, flush of the folder."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from xlm.errors import OutputError

T = TypeVar("T")
_FULL = {errno.ENOSPC: "the disk is full", errno.EFBIG: "the limit on file sizes is reached"}
if hasattr(errno, "EDQUOT"):
    _FULL[errno.EDQUOT] = "the disk quota is used up"
# Errors of network file systems that pass when the call is repeated.
_TRANSIENT = {errno.EIO, errno.EAGAIN, errno.EINTR, *({errno.ESTALE} if hasattr(errno, "ESTALE") else ())}
_TRIES = 4
_TEMPORARY = re.compile(r"\..*\.(\d+)-[0-9a-f]{8}\.tmp")


def with_retries(call: Callable[[], T]) -> T:
    """Run ``call`` again, a little later each time, when it fails with a transient error of a network file system."""
    for attempt in range(_TRIES):
        try:
            return call()
        except OSError as error:
            if error.errno not in _TRANSIENT or attempt == _TRIES - 1:
                raise
            time.sleep(0.05 * 2**attempt)
    raise AssertionError("unreachable")


def target_of(path: str | os.PathLike[str]) -> Path:
    """The file that a write to ``path`` replaces: behind a symbolic link its target, so that the link stays.

    A link into the ``blobs`` of a Hub cache is replaced itself: its target is shared by other revisions.
    """
    path = Path(path)
    if path.is_symlink():
        real = Path(os.path.realpath(path))
        if real.parent.name != "blobs":
            return real
    return path


def sibling(path: Path, ending: str = "tmp") -> Path:
    """A hidden name next to ``path`` that nobody else takes, and that says which process took it."""
    return path.with_name(f".{path.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.{ending}")


def make_folder(folder: str | os.PathLike[str], argument: str = "save_directory") -> Path:
    """The folder, made with its parents if need be; OutputError where that is impossible or it cannot be written."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{argument}={str(folder)!r} is a file: a folder is needed") from error
    except OSError as error:
        raise OutputError(f"{argument}={str(folder)!r} cannot be made: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{argument}={str(folder)!r} is not writable for this user")
    return folder


def need_space(folder: Path, needed: int, largest: int = 0) -> None:
    """Raise OutputError before anything is written when ``needed`` bytes do not fit on the disk of ``folder``.

    ``largest`` is the size of the largest single file, held against the process's limit on file sizes.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # some network file systems do not say; writing will
        free = needed
    if needed > free:
        raise OutputError(f"{folder}: {needed:,} bytes are needed, {free:,} are free; nothing was written")
    if sys.platform != "win32":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY and max(largest, 0) > limit:
            raise OutputError(
                f"{folder}: a file of {largest:,} bytes is needed, the limit is {limit:,} bytes; nothing was written"
            )


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries so that a rename survives a power cut; a no-op where folders cannot be opened."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Pending:
    """Temporary files that become visible together, in order, by :meth:`commit`, or vanish."""

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path]] = []

    @contextmanager
    def open(self, path: str | os.PathLike[str], needed: int | None = None) -> Iterator[BinaryIO]:
        """A binary stream to a temporary sibling of ``path``, flushed to disk when the block ends.

        Raises:
            OutputError: the folder cannot be written or the disk is full; ``needed`` is the size said in the message.
        """
        final = target_of(path)
        temporary = sibling(final)
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise OutputError(f"{final}: cannot be written: {error.strerror or error}") from error
        self._files.append((temporary, final))
        with os.fdopen(handle, "w+b") as stream:
            try:
                if final.exists() and hasattr(os, "fchmod"):
                    # A rewritten file keeps the rights it had; a new one gets what the umask leaves.
                    os.fchmod(stream.fileno(), stat.S_IMODE(final.stat().st_mode))
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            except OSError as error:
                raise _explained(error, final, needed) from error

    def commit(self) -> list[Path]:
        """Rename every file into place in the order of opening; returns the final paths."""
        done, folders = [], {}
        for temporary, final in self._files:
            try:
                os.replace(temporary, final)
            except OSError as error:
                raise OutputError(f"{final}: cannot be replaced: {error.strerror or error}") from error
            done.append(final)
            folders[final.parent] = None
        self._files = []
        for folder in folders:
            sync(folder)
        return done

    def discard(self) -> None:
        """Delete what was not committed."""
        for temporary, _ in self._files:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._files = []

    def __enter__(self) -> Pending:
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()


def _explained(error: OSError, path: Path, needed: int | None) -> OSError:
    if isinstance(error, OutputError):
        return error
    why = _FULL.get(error.errno or 0, error.strerror or str(error))
    size = f"; {needed:,} bytes are needed" if needed is not None else ""
    return OutputError(f"{path}: cannot be written: {why}{size}; what was there before is intact")


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove the temporary files of writers that were killed; call it while holding the folder's lock."""
    for path in folder.glob(f".{prefix}*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or int(found[1]) == os.getpid():
            continue
        try:
            os.kill(int(found[1]), 0)
        except (ProcessLookupError, OverflowError):
            path.unlink(missing_ok=True)
        except OSError:
            continue  # alive, and somebody else's


@contextmanager
def replacing(
    path: str | os.PathLike[str], needed: int | None = None, beside: Mapping[str, str] | None = None
) -> Iterator[BinaryIO]:
    """A binary stream whose content replaces ``path`` at once when the block ends, and not at all when it raises.

    ``beside``: name -> text of further files of its folder, which are replaced together with it.
    """
    with Pending() as pending:
        with pending.open(path, needed) as stream:
            yield stream
        for name, text in (beside or {}).items():
            with pending.open(Path(path).parent / name, needed) as stream:
                stream.write(text.encode("utf-8"))
        pending.commit()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Replace a file's content at once; OutputError when it cannot be written."""
    with replacing(path, len(data)) as stream:
        stream.write(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Replace a file's content by UTF-8 text with the line ends as given."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any, *, sort_keys: bool = False) -> Path:
    """Replace a file's content by indented JSON; NaN and infinities, which JSON cannot hold, raise ValueError."""
    text = json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n")
