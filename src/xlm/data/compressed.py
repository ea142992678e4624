"""Files of bytes, plain or compressed; the suffix says how: ``.gz``, ``.bz2``, ``.xz``, ``.zst`` or anything else."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any, cast

from xlm.atomic import with_retries
from xlm.errors import DataError, MissingExtraError

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
# What reading damaged data raises; OSError too, which is also what a failing disk raises.
DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError)
_CHUNK = 8192  # compressed bytes at a time: what they grow to is held in memory


def open_bytes(path: Path) -> IO[bytes]:
    """The file's uncompressed bytes.

    Raises ``DataError`` when it cannot be opened, ``MissingExtraError`` for ``.zst`` without the extra ``corpus``.
    """
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstd}
    try:
        return cast(IO[bytes], with_retries(lambda: openers.get(path.suffix, open)(path, "rb")))
    except OSError as error:
        if isinstance(error, DataError | MissingExtraError):
            raise
        raise DataError(f"{path}: cannot be opened: {error.strerror or error}") from error


def without_suffix(name: str) -> str:
    """The name without the suffix of a compression."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


class _Zstd(io.RawIOBase):
    """All frames of a file one after another. The package's own reader stops after the first frame and takes a cut-off
    one for the end; here both would be lost text."""

    def __init__(self, path: Path, zstandard: Any) -> None:
        self._file = path.open("rb")
        self._make = zstandard.ZstdDecompressor
        self._error = zstandard.ZstdError
        self._frame: Any = None
        self._input = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not len(self._ready):
            data = self._input or self._file.read(_CHUNK)
            self._input = b""
            if not data:
                if self._frame is not None:
                    raise EOFError("the last frame is cut off")
                return 0
            self._frame = self._frame or self._make().decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(data))
            except self._error as error:
                raise EOFError(str(error)) from error
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_zstd(path: Path, mode: str) -> IO[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading .zst", "zstandard", "corpus") from error
    return io.BufferedReader(_Zstd(path, zstandard), 1 << 17)
