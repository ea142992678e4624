"""Documents -> shards of ids, and shards -> the stores that pretraining reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xlm import atomic
from xlm.data.corpora.ledger import PAIR, Bin
from xlm.data.store import FORMAT, is_held_out, token_dtype
from xlm.data.vocabulary import Vocabulary, load_vocabulary

PARTS = {("text", False): "text", ("text", True): "valid", ("pairs", False): "pairs", ("pairs", True): "held-out"}
_BATCH = 4096


class TokenSink:
    """Writes the shard of one bin at a time: its ids, beside them the lengths and counts that the store is made from.

    Documents whose hash says so go to the held-out part instead. ``documents`` of the text parts count sentences, which are
    the lines of a document.
    """

    def __init__(self, work: Path, tokenizer: Path, held_out: float, pivot: str) -> None:
        self.work, self.tokenizer, self.held_out, self.pivot = work, tokenizer, held_out, pivot
        self._vocabulary: Vocabulary | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """Opened in the process that needs it."""
        if self._vocabulary is None:
            self._vocabulary = load_vocabulary(self.tokenizer)
        return self._vocabulary

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_vocabulary": None}

    def begin(self, one: Bin) -> None:
        """Begin a shard."""
        self._bin = one
        self._parts: dict[str, _Part] = {}
        self._dropped: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def drop(self, kind: str, language: str, reason: str, text: str) -> None:
        """A document goes."""
        self._dropped[reason] += 1
        shown = self._examples.setdefault(reason, [])
        if len(shown) < 3:
            shown.append(text[:200])

    def add(self, text: str) -> None:
        """A document stays."""
        lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
        hashed = text.split(PAIR)[1].strip() if self._bin.kind == "pairs" else text
        name = PARTS[self._bin.kind, is_held_out(hashed, self.held_out)]
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = _Part(self.work, name, self._bin, self.vocabulary, self.pivot)
        part.add(lines, len(text))

    def finish(self) -> None:
        """Close the shard; its record is written last."""
        record = {
            "kind": self._bin.kind,
            "language": self._bin.language,
            "dropped": dict(self._dropped),
            "examples": [[self._bin.language, reason, texts] for reason, texts in self._examples.items()],
            "parts": [part.finish() for part in self._parts.values()],
        }
        name = f"{self._bin.kind}.{self._bin.language}.{self._bin.number:05d}.json"
        (self.work / "shards").mkdir(parents=True, exist_ok=True)
        atomic.write_json(self.work / "shards" / name, record)


class _Part:
    """One shard of one part, open."""

    def __init__(self, work: Path, part: str, one: Bin, vocabulary: Vocabulary, pivot: str) -> None:
        self.part, self.language, self.vocabulary = part, one.language, vocabulary
        self._languages = [one.language, pivot] if one.kind == "pairs" else [one.language]
        self._dtype = token_dtype(vocabulary.size)
        folder = work / "result" / part / one.language
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"tokens-{one.number:05d}.bin"
        self._aside = work / "shards" / f"{part}.{one.language}.{one.number:05d}"
        self._aside.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._path.open("wb")
        self._hash = hashlib.sha256()
        self._lines: list[str] = []
        self._lengths: list[NDArray[np.uint32]] = []
        self._documents: list[int] = []
        self._counts = np.zeros(vocabulary.size, np.int64)
        self.characters = self.tokens = 0

    def add(self, lines: Sequence[str], characters: int) -> None:
        self._lines += lines
        self._documents.append(len(lines))
        self.characters += characters
        if len(self._lines) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._lines:
            return
        encoded = self.vocabulary.encode(self._lines, self._languages)
        self._lines = []
        end = self.vocabulary.eos_id
        flat = np.concatenate([np.asarray([*ids, end], np.int64) for ids in encoded])
        self._counts += np.bincount(flat, minlength=self.vocabulary.size)
        self._lengths.append(np.array([len(ids) + 1 for ids in encoded], np.uint32))
        data = flat.astype(self._dtype).tobytes()
        self._hash.update(data)
        self._stream.write(data)
        self.tokens += len(flat)

    def finish(self) -> dict[str, Any]:
        """Write what is left and flush it to the disk."""
        self._flush()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.uint32)
        np.savez(self._aside, lengths=lengths, documents=np.array(self._documents, np.uint32), counts=self._counts)
        unknown = self.vocabulary.unk_id
        return {
            "part": self.part,
            "file": self._path.name,
            "aside": f"{self._aside.name}.npz",
            "tokens": self.tokens,
            "sentences": len(lengths),
            "documents": len(self._documents),
            "characters": self.characters,
            "unknown": 0 if unknown is None else int(self._counts[unknown]),
            "bytes": self._path.stat().st_size,
            "sha256": self._hash.hexdigest(),
        }


def assemble(work: Path, vocabulary: Vocabulary, about: dict[str, Any]) -> dict[str, Any]:
    """Make stores of the shards under ``work/result``; ``{part: {language: totals}}``. It can be run again."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted((work / "shards").glob("*.json"))]
    parts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        for part in record["parts"]:
            parts.setdefault((part["part"], record["language"]), []).append(part)
    totals: dict[str, dict[str, Any]] = {}
    for (part, language), shards in sorted(parts.items()):
        folder = work / "result" / part / language
        total = _store(folder, [work / "shards" / shard["aside"] for shard in shards], shards, vocabulary, about)
        totals.setdefault(part, {})[language] = total
    return totals


def _store(
    folder: Path, asides: list[Path], shards: list[dict[str, Any]], vocabulary: Vocabulary, about: dict[str, Any]
) -> dict[str, Any]:
    sentences, documents = (sum(shard[key] for shard in shards) for key in ("sentences", "documents"))
    offsets = np.lib.format.open_memmap(folder / "offsets.npy", "w+", np.int64, (sentences + 1,))
    firsts = np.lib.format.open_memmap(folder / "documents.npy", "w+", np.int64, (documents + 1,))
    counts = np.zeros(vocabulary.size, np.int64)
    offsets[0] = firsts[0] = at = first = 0
    for path in asides:
        with np.load(path, allow_pickle=False) as kept:
            lengths, per_document = kept["lengths"].astype(np.int64), kept["documents"].astype(np.int64)
            counts += kept["counts"]
        offsets[at + 1 : at + 1 + len(lengths)] = offsets[at] + np.cumsum(lengths)
        firsts[first + 1 : first + 1 + len(per_document)] = firsts[first] + np.cumsum(per_document)
        at, first = at + len(lengths), first + len(per_document)
    offsets.flush()
    firsts.flush()
    np.save(folder / "counts.npy", counts)
    for name in ("offsets.npy", "documents.npy", "counts.npy"):
        with (folder / name).open("rb+") as stream:
            os.fsync(stream.fileno())
    totals = {
        key: sum(shard[key] for shard in shards)
        for key in ("documents", "sentences", "tokens", "unknown", "characters", "bytes")
    }
    listed = [{key: shard[key] for key in ("file", "tokens", "bytes", "sha256")} for shard in shards]
    store = {"format": FORMAT, **about, "dtype": token_dtype(vocabulary.size).name, **totals, "shards": listed}
    atomic.write_json(folder / "store.json", store)
    return totals
