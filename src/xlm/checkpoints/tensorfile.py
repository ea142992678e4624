"""One safetensors file, read without trusting it: every claim of its header is checked before memory is reserved.

Layout (https://github.com/huggingface/safetensors): eight bytes with the little-endian length of the header, the header in
JSON, then the tensors' bytes, which must cover the rest of the file without hole, overlap or tail.
"""

from __future__ import annotations

import gc
import json
import math
import mmap
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xlm.atomic import with_retries
from xlm.checkpoints.dtypes import CODES
from xlm.errors import CheckpointError
from xlm.jsonfile import unique_keys

MAX_HEADER = 100_000_000  # bytes
MAX_TENSORS = 100_000
MAX_RANK = 32
_MAX_BYTES = 2**63 - 1
# The parser's time is bounded by what it may meet: seven dimensions and some metadata a tensor are plenty.
_MAX_COMMAS = 64 * MAX_TENSORS
_DEEP = re.compile(rb"[\[{]\s*[\[{]\s*[\[{]\s*[\[{]")


class Slot(NamedTuple):
    """Where a tensor lies: its type, shape and first and last byte counted from the beginning of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def map_file(path: Path) -> mmap.mmap:
    """Map a file privately: what is written to the memory stays in this process. CheckpointError when absent or empty."""
    try:
        with with_retries(lambda: path.open("rb")) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size == 0:
                raise CheckpointError(f"{path}: the file is empty (0 bytes)")
            if hasattr(mmap, "MAP_PRIVATE"):
                # No memory is set aside for pages that nobody writes: a file may be larger than the memory.
                flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
                return mmap.mmap(stream.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def refuse_impostor(path: Path, beginning: bytes) -> None:
    """Say what a file is that was saved in place of weights: a Git LFS pointer, a web page, a server's message."""
    text = beginning.lstrip()[:64].lower()
    if text.startswith((b"version https://git-lfs", b"version https://hawser")):
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, not the weights: fetch them with 'git lfs pull' or download the file again"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(f"{path}: is a web page (HTML or XML), not the weights: download the file again")
    if text.startswith((b'{"error"', b'{"message"', b"entry not found", b"repository not found", b"invalid username")):
        raise CheckpointError(f"{path}: is a server's error message, not the weights: {beginning[:80]!r}")


class TensorFile:
    """An open safetensors file: the slots of its tensors, its metadata and views of the mapped bytes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open and check a file.

        Raises:
            CheckpointError: the file is absent, truncated, damaged or not a safetensors file; names file, tensor, limit.
        """
        self.path = Path(path)
        self._map = map_file(self.path)
        refuse_impostor(self.path, self._map[:256])
        with _uncollected():
            header, self.data_begin = self._header()
            self.metadata, self.slots = self._slots(header)

    def _fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}")

    def _header(self) -> tuple[dict[str, Any], int]:
        size = len(self._map)
        if size < 8:
            raise self._fail(f"{size} bytes long: a safetensors file begins with 8 bytes of header length")
        length = int.from_bytes(self._map[:8], "little")
        if length > MAX_HEADER:
            raise self._fail(f"claims a header of {length} bytes; the limit is {MAX_HEADER} (not a safetensors file?)")
        if length > size - 8:
            raise self._fail(
                f"claims a header of {length} bytes, but only {size - 8} bytes follow: truncated or damaged"
            )
        raw = self._map[8 : 8 + length]
        if not raw.startswith(b"{"):
            raise self._fail(f"its header begins with {raw[:8]!r}, not with '{{': not a safetensors file")
        return parse_strict(raw, self.path), 8 + length

    def _slots(self, header: dict[str, Any]) -> tuple[dict[str, str], dict[str, Slot]]:
        metadata = header.pop("__metadata__", {})
        if metadata is None:
            metadata = {}
        if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
            raise self._fail("its '__metadata__' must map text to text")
        if len(header) > MAX_TENSORS:
            raise self._fail(f"lists {len(header)} tensors; the limit is {MAX_TENSORS}")
        room = len(self._map) - self.data_begin
        slots = {name: self._slot(name, entry) for name, entry in header.items()}
        # The bytes must be covered exactly: sorted by place, each tensor begins where the one before it ended.
        place, before = self.data_begin, "the header"
        for name, slot in sorted(slots.items(), key=lambda item: (item[1].begin, item[1].end)):
            if slot.begin != place:
                fault = "overlaps" if slot.begin < place else "leaves a hole after"
                raise self._fail(
                    f"tensor {name!r} {fault} {before}: begins at byte {slot.begin - self.data_begin} of the data, "
                    f"expected {place - self.data_begin}"
                )
            place, before = slot.end, f"tensor {name!r}"
        if (needed := place - self.data_begin) > room:
            name = next(name for name, slot in slots.items() if slot.end - self.data_begin > room)
            raise self._fail(f"truncated: the tensors need {needed} bytes, the file has {room}; first cut: {name!r}")
        if needed < room:
            raise self._fail(f"{room - needed} bytes follow {before}: expected {needed} bytes of data, found {room}")
        return metadata, slots

    def _slot(self, name: str, entry: Any) -> Slot:
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise self._fail(f"tensor {name!r} needs 'dtype', 'shape' and 'data_offsets', found {str(entry)[:80]}")
        dtype = CODES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            raise self._fail(
                f"tensor {name!r} has the unknown dtype {entry['dtype']!r}; supported: {', '.join(sorted(CODES))}"
            )
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _is_sizes(shape) or len(shape) > MAX_RANK:
            raise self._fail(f"tensor {name!r} has the shape {str(shape)[:80]}: at most {MAX_RANK} sizes of at least 0")
        if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise self._fail(f"tensor {name!r} has the data_offsets {str(offsets)[:80]}: two numbers, first <= second")
        if math.prod([size or 1 for size in shape]) * dtype.itemsize > _MAX_BYTES or offsets[1] > _MAX_BYTES:
            raise self._fail(f"tensor {name!r} of shape {str(shape)[:80]} overflows 64 bits")
        size = math.prod(shape) * dtype.itemsize
        if offsets[1] - offsets[0] != size:
            raise self._fail(
                f"tensor {name!r} of shape {shape} and dtype {entry['dtype']} needs {size} bytes, "
                f"its data_offsets {offsets} give {offsets[1] - offsets[0]}"
            )
        return Slot(dtype, tuple(shape), self.data_begin + offsets[0], self.data_begin + offsets[1])

    def view(self, name: str) -> np.ndarray:
        """A view of a tensor's mapped bytes; nothing is read until it is used, and writing copies the page, never the file."""
        slot = self.slots[name]
        if slot.begin == slot.end:
            return np.zeros(slot.shape, slot.dtype)
        count = (slot.end - slot.begin) // slot.dtype.itemsize
        return np.frombuffer(self._map, slot.dtype, count, slot.begin).reshape(slot.shape)

    def release(self, name: str) -> None:
        """Give the memory of a tensor's pages back to the system; a view of it reads them from the file again.

        What was written into a view is lost by this.
        """
        slot = self.slots[name]
        release_pages(self._map, slot.begin, slot.end)

    def prefetch(self, name: str) -> None:
        """Ask the system to read a tensor's pages soon."""
        slot = self.slots[name]
        prefetch_pages(self._map, slot.begin, slot.end)


def prefetch_pages(mapped: mmap.mmap, begin: int, end: int) -> None:
    """Ask the system to read the pages between two bytes of a mapped file."""
    if hasattr(mmap, "MADV_WILLNEED"):
        first = begin // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, first, end - first)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which would look through a large header's entries again and again while they are made."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def release_pages(mapped: mmap.mmap, begin: int, end: int) -> None:
    """Drop the whole pages between two bytes of a mapped file from this process's memory."""
    if hasattr(mmap, "MADV_DONTNEED"):
        first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            mapped.madvise(mmap.MADV_DONTNEED, first, length)


def parse_strict(raw: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object of a foreign file: bounded in size and depth, duplicate keys and NaN refused."""

    def no_constant(name: str) -> Any:
        raise CheckpointError(f"{path}: its header holds the value {name}, which JSON does not have")

    if len(raw) > MAX_HEADER:
        raise CheckpointError(f"{path}: {len(raw)} bytes of JSON; the limit is {MAX_HEADER}")
    if raw.count(b"{") > MAX_TENSORS + 2 or raw.count(b",") > _MAX_COMMAS:
        raise CheckpointError(f"{path}: its header lists more than {MAX_TENSORS} tensors, which is the limit")
    if _DEEP.search(raw):
        raise CheckpointError(f"{path}: its header is nested more than 3 levels deep")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys(path), parse_constant=no_constant)
    except CheckpointError:
        raise
    except RecursionError as error:
        raise CheckpointError(f"{path}: its header is nested more than 3 levels deep") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: its header is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: its header is a {type(value).__name__}, not an object")
    return value


def _is_sizes(value: Any) -> bool:
    if type(value) is not list:
        return False
    for size in value:  # noqa: SIM110  # a plain loop is twice as fast, and this runs for each of up to 100,000 tensors
        if type(size) is not int or not 0 <= size <= _MAX_BYTES:
            return False
    return True
