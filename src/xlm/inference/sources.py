"""The files of texts behind a path or a URL: on this machine, or wherever fsspec reaches (s3://, gs://, https://, ...)."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from xlm.errors import DataError, MissingExtraError

ENDINGS = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet")
# scheme -> the package that speaks it, and the extra that brings it
_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}


@dataclass(frozen=True)
class Source:
    """A file of texts.

    Attributes:
        name: its path, or its URL.
        size: in bytes.
        stamp: what changes when its content does: of a file here its SHA-256, which copies on other machines share; of
            one in a store an ETag or a time, "" where it tells none.
    """

    name: str
    size: int
    stamp: str = ""
    store: Any = None

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The file on this machine: itself, or a copy for as long as the block runs.

        Raises:
            DataError: it cannot be fetched.
        """
        if self.store is None:
            yield Path(self.name)
            return
        with tempfile.TemporaryDirectory(prefix="xlm-") as folder:
            copy = Path(folder) / PurePosixPath(self.name).name
            try:
                self.store.get_file(self.store._strip_protocol(self.name), str(copy))
            except Exception as error:  # every store has its own errors
                raise DataError(f"{self.name}: cannot be fetched: {error or type(error).__name__}") from error
            yield copy


def find_sources(place: str | Path) -> list[Source]:
    """The files behind a path or URL, sorted: itself, or those in a folder and its folders.

    Raises:
        DataError: there is none, or the store does not answer.
        MissingExtraError: the package for that kind of URL is not installed.
    """
    if "://" in str(place):
        return _remote(str(place))
    need_source(place)
    path = Path(place)
    if path.is_file():
        return [_here(path)]
    found = [p for p in path.rglob("*") if p.is_file() and _wanted(p.name)]
    if not found:
        raise DataError(f"{place}: no file there ends in {', '.join(ENDINGS)} (or .gz after it)")
    return [_here(path) for path in sorted(found)]


def need_source(place: str | Path) -> None:
    """Raise DataError where there is neither a file nor a folder; what is behind a URL is not asked for."""
    if "://" not in str(place) and not Path(place).exists():
        raise DataError(f"{place}: no such file or folder")


def _here(path: Path) -> Source:
    try:
        with path.open("rb") as stream:
            return Source(str(path), path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _wanted(name: str) -> bool:
    return name.removesuffix(".gz").endswith(ENDINGS)


def _remote(url: str) -> list[Source]:
    import fsspec

    scheme = url.partition("://")[0]
    try:
        store, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package, extra = _EXTRAS.get(scheme, (f"fsspec's package for {scheme}", "s3"))
        raise MissingExtraError(f"reading {scheme}://", package, extra) from error
    except ValueError as error:
        raise DataError(f"{url}: {error}") from error
    try:
        found = store.find(root, detail=True)
        if not found and store.exists(root):  # a single object; https has no folders
            found = {root: store.info(root)}
    except Exception as error:
        raise DataError(f"{url}: cannot be listed: {error or type(error).__name__}") from error
    files = {
        path: about
        for path, about in found.items()
        if about.get("type", "file") == "file" and (_wanted(path) or path == root)
    }
    if not files:
        raise DataError(f"{url}: no file there ends in {', '.join(ENDINGS)} (or .gz after it)")
    return [
        Source(store.unstrip_protocol(path), int(about.get("size") or 0), _stamp(about), store)
        for path, about in sorted(files.items())
    ]


def _stamp(about: dict[str, Any]) -> str:
    return str(about.get("ETag") or about.get("LastModified") or about.get("created") or "").strip('"')
