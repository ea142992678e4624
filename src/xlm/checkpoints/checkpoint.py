"""A checkpoint in memory: names and, behind each, a tensor that is read when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xlm.checkpoints.dtypes import is_float
from xlm.checkpoints.names import Match, NameTable
from xlm.errors import CheckpointError

Shape = tuple[int, ...]
_CHUNK = 4_000_000  # elements looked at or cast at a time


def _nothing() -> None:
    """A tensor that lies in ordinary memory has no pages to give back."""


@dataclass(frozen=True)
class Stored:
    """A tensor that is not read yet: its shape and type, how to read it, how to give its pages back."""

    shape: Shape
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    release: Callable[[], None] = _nothing
    prefetch: Callable[[], None] = _nothing

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def transposed(self) -> Stored:
        """The same tensor with its axes reversed, as a view."""
        return Stored(self.shape[::-1], self.dtype, lambda: self.read().T, self.release)

    def cast(self, dtype: np.dtype) -> Stored:
        """The same tensor in another type; cast when read."""
        return Stored(self.shape, np.dtype(dtype), lambda: self.read().astype(dtype), self.release)

    @classmethod
    def of(cls, array: np.ndarray) -> Stored:
        """A tensor that is in memory already."""
        return cls(tuple(array.shape), array.dtype, lambda: array)


@dataclass
class Checkpoint(Mapping[str, np.ndarray]):
    """Named tensors of one checkpoint. ``checkpoint[name]`` reads one; nothing else does.

    Attributes:
        path: the folder or file it was opened from.
        files: the files that hold the tensors.
        format: what wrote it: ``safetensors``, ``pytorch``, ``tensorflow``, ``flax``, ``fairseq``, ``xlm``.
        entries: name -> :class:`Stored`.
        metadata: text that the files carry about themselves.
        extras: what else the file holds as plain data (arguments, dictionaries), where the format has it.
    """

    path: Path
    files: list[Path]
    format: str
    entries: dict[str, Stored]
    metadata: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {self.format}, {len(self)} tensors, {self.nbytes:,} bytes)"

    @property
    def names(self) -> list[str]:
        """The tensors' names, in the order of the files."""
        return list(self.entries)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Name -> shape."""
        return {name: stored.shape for name, stored in self.entries.items()}

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Name -> type in the file."""
        return {name: stored.dtype for name, stored in self.entries.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(stored.nbytes for stored in self.entries.values())

    def _stored(self, name: str) -> Stored:
        if name not in self.entries:
            raise CheckpointError(f"{self.path}: holds no tensor {name!r}")
        return self.entries[name]

    def read(self, name: str) -> np.ndarray:
        """A tensor, where the format allows as a read-only view of the mapped file."""
        return self._stored(name).read()

    def release(self, name: str) -> None:
        """Give a mapped tensor's memory back to the system; views of it stay valid and read the file again."""
        self._stored(name).release()

    def prefetch(self, name: str) -> None:
        """Ask the system to read a mapped tensor soon, without waiting for it."""
        self._stored(name).prefetch()

    def mapped(self, name: str) -> bool:
        """Whether a tensor stays in a mapped file, where only the pages that are read take memory."""
        return self._stored(name).prefetch is not _nothing

    def copy_to(self, name: str, out: np.ndarray) -> None:
        """Copy a tensor into ``out`` of the same shape, cast on the way, without ever holding both whole.

        Raises:
            CheckpointError: the shapes differ.
        """
        stored = self._stored(name)
        if tuple(out.shape) != stored.shape:
            raise CheckpointError(f"{self.path}: tensor {name!r} has the shape {stored.shape}, not {tuple(out.shape)}")
        source = stored.read()
        if source.ndim == 0:
            out[...] = source
        else:
            rows = max(1, _CHUNK // max(1, math.prod(stored.shape[1:])))
            for start in range(0, stored.shape[0], rows):
                out[start : start + rows] = source[start : start + rows]
                if start % (16 * rows) == 0:
                    stored.release()
        stored.release()

    def nonfinite(self) -> list[str]:
        """The names of the tensors that contain NaN or infinity; reads every tensor."""
        bad = []
        for name, stored in self.entries.items():
            if is_float(stored.dtype):
                flat = stored.read().reshape(-1)
                pieces = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
                if not all(bool(np.isfinite(piece).all()) for piece in pieces):
                    bad.append(name)
                stored.release()
        return bad

    def renamed(self, lookup: Callable[[str], str | Match | None]) -> tuple[Checkpoint, list[str]]:
        """The checkpoint under other names, and the names that ``lookup`` has no place for.

        Raises:
            CheckpointError: two tensors would get the same name.
        """
        entries: dict[str, Stored] = {}
        origin: dict[str, str] = {}
        rest = []
        for name, stored in self.entries.items():
            found = lookup(name)
            if found is None:
                rest.append(name)
                continue
            match = Match(found, False) if isinstance(found, str) else found
            if match.name in entries:
                raise CheckpointError(f"{self.path}: {origin[match.name]!r} and {name!r} are both {match.name!r}")
            entries[match.name] = stored.transposed() if match.transposed else stored
            origin[match.name] = name
        return Checkpoint(self.path, self.files, self.format, entries, self.metadata, self.extras), rest

    def through(self, table: NameTable) -> tuple[Checkpoint, list[str]]:
        """The checkpoint under our names by a table of foreign ones, and the foreign names the table lacks."""
        return self.renamed(table.ours)
