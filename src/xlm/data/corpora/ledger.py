"""What happened to every row of one input file: counts by language, the quarantine, and the documents that stay.

Documents go into pieces, zstd files of JSON texts, one language each. A file's manifest is written last: where there is one
the file is done, and a build that was killed goes on with the others.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from xlm import atomic
from xlm.data.corpora.options import Source
from xlm.data.corpora.rows import BadRow
from xlm.errors import DataError

PAIR = "\n"
"""What stands between the two sides of a pair in a document's text."""
_EXAMPLES = 3


@dataclass(frozen=True)
class Piece:
    """Documents of one language from one file: ``bytes`` of text before compression."""

    file: str
    kind: str
    language: str
    documents: int
    bytes: int


def piece_folder(work: Path) -> Path:
    """Where pieces and manifests lie."""
    return work / "pieces"


def manifests(work: Path, sources: int) -> list[dict[str, Any]]:
    """The manifests of all files, in their order."""
    return [json.loads((piece_folder(work) / f"{i:05d}.json").read_text("utf-8")) for i in range(sources)]


class Ledger:
    """The books of one file at a time. It lives in one process; steps of the same pipeline share it."""

    def __init__(self, work: Path, piece_bytes: int, bad_rows: int) -> None:
        self._folder, self._piece_bytes, self._limit = piece_folder(work), piece_bytes, bad_rows

    def done(self, index: int) -> bool:
        """Whether file number ``index`` has been read to its end before."""
        return (self._folder / f"{index:05d}.json").is_file()

    def begin(self, index: int, source: Source) -> None:
        """Open the books of a file; what a killed process left of it is removed."""
        self._index, self._source = index, source
        shutil.rmtree(self._folder / f"{index:05d}", ignore_errors=True)
        (self._folder / f"{index:05d}").mkdir(parents=True)
        self._counts: dict[tuple[str, str], Counter[str]] = {}
        self._examples: dict[tuple[str, str], list[str]] = {}
        self._open: dict[tuple[str, str], _Writer] = {}
        self._pieces: list[Piece] = []
        self._quarantine = (self._folder / f"{index:05d}.quarantine").open("w", encoding="utf-8")
        self.rows = self.bad = self.replaced = 0

    def count(self, kind: str, language: str, what: str) -> None:
        """One more document of a language is ``read``, ``kept`` or dropped for a reason."""
        self._counts.setdefault((kind, language), Counter())[what] += 1

    def drop(self, kind: str, language: str, reason: str, text: str) -> None:
        """A document goes; the first few of every reason are shown in the report."""
        self.count(kind, language, reason)
        shown = self._examples.setdefault((language, reason), [])
        if len(shown) < _EXAMPLES:
            shown.append(text[:200])

    def quarantine(self, row: BadRow) -> None:
        """Set a row aside.

        Raises ``DataError`` naming the file, the line and the reason when there are more of them than allowed.
        """
        self.bad += 1
        entry = {"file": self._source.path, "line": row.line, "reason": row.reason, "sample": row.sample}
        self._quarantine.write(json.dumps(entry, ensure_ascii=True) + "\n")
        if self.bad > self._limit:
            raise DataError(
                f"{self._source.path}:{row.line}: {row.reason}; that is bad row {self.bad:,} of the file, bad_rows allows "
                f"{self._limit:,} (the others are listed in {self._quarantine.name})"
            )

    def keep(self, kind: str, language: str, text: str) -> None:
        """A document stays."""
        self.count(kind, language, "kept")
        key = (kind, language)
        writer = self._open.get(key)
        if writer is None:
            number = sum(piece.kind == kind and piece.language == language for piece in self._pieces)
            name = f"{self._index:05d}/{kind}.{language}.{number:04d}.zst"
            writer = self._open[key] = _Writer(self._folder / name, name)
        writer.write(text)
        if writer.bytes >= self._piece_bytes:
            self._close(key)

    def _close(self, key: tuple[str, str]) -> None:
        writer = self._open.pop(key)
        writer.close()
        self._pieces.append(Piece(writer.name, *key, writer.documents, writer.bytes))

    def finish(self) -> None:
        """Close everything and write the manifest, last and at once."""
        for key in sorted(self._open):
            self._close(key)
        self._quarantine.close()
        manifest = {
            "path": self._source.path,
            "rows": self.rows,
            "bad": self.bad,
            "replaced": self.replaced,
            "counts": [[*key, dict(counts)] for key, counts in sorted(self._counts.items())],
            "examples": [[*key, texts] for key, texts in sorted(self._examples.items())],
            "pieces": [asdict(piece) for piece in self._pieces],
        }
        atomic.write_json(self._folder / f"{self._index:05d}.json", manifest)


class _Writer:
    def __init__(self, path: Path, name: str) -> None:
        import zstandard

        self.name, self.documents, self.bytes = name, 0, 0
        self._stream: IO[bytes] = zstandard.open(path, "wb", cctx=zstandard.ZstdCompressor(level=1))

    def write(self, text: str) -> None:
        data = json.dumps(text, ensure_ascii=False).encode("utf-8") + b"\n"
        self._stream.write(data)
        self.documents += 1
        self.bytes += len(data)

    def close(self) -> None:
        self._stream.close()


@dataclass(frozen=True)
class Bin:
    """What becomes one shard: pieces of one language, in order. ``number`` counts within the language."""

    kind: str
    language: str
    number: int
    pieces: tuple[str, ...]


def plan_bins(work: Path, sources: int, shard_bytes: int) -> list[Bin]:
    """Pieces put together to shards of about ``shard_bytes``: the same for every process that asks."""
    by_language: dict[tuple[str, str], list[Piece]] = {}
    for manifest in manifests(work, sources):
        for values in manifest["pieces"]:
            piece = Piece(**values)
            by_language.setdefault((piece.kind, piece.language), []).append(piece)
    bins: list[Bin] = []
    for (kind, language), pieces in sorted(by_language.items()):
        groups: list[list[str]] = []
        size = shard_bytes
        for piece in pieces:
            if size >= shard_bytes:
                groups.append([])
                size = 0
            groups[-1].append(piece.file)
            size += piece.bytes
        bins += [Bin(kind, language, number, tuple(group)) for number, group in enumerate(groups)]
    return bins
