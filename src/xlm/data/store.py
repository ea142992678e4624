"""Tokenised text on disk: one flat, memory-mapped array of ids per language, built once and found again by its content.

A store is a folder: ``tokens.bin`` or the shards that ``store.json`` lists (uint16 or uint32, every sentence followed by the
end-of-sentence id), ``offsets.npy`` (sentences + 1, int64), ``counts.npy`` (vocab, int64), ``store.json`` and, where documents
have several sentences, ``documents.npy``. It is written beside its final place and renamed, so a store that exists is
complete; building streams, in constant memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xlm.data.readers import read_pairs, read_texts
from xlm.data.vocabulary import Vocabulary
from xlm.errors import DataError, OutputError

FORMAT = 1
_HELD_OUT_BY = "8 bytes of md5"  # stores made by another rule are not found again
_BATCH = 4096


class Shards:
    """Arrays one after another, read by slices as if they were one."""

    def __init__(self, arrays: Sequence[NDArray[np.unsignedinteger]], dtype: np.dtype) -> None:
        self._arrays, self._dtype = arrays, dtype
        self._ends = np.cumsum([0, *map(len, arrays)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: slice) -> NDArray[np.unsignedinteger]:
        start, stop, _ = key.indices(len(self))
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right") - 1
        parts = [
            array[max(start - end, 0) : stop - end]
            for array, end in zip(self._arrays[first : last + 1], self._ends[first : last + 1].tolist(), strict=True)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, self._dtype), *parts])


@dataclass(frozen=True)
class TokenStore:
    """``sentence(i)`` is a slice of a memory map. A pair store holds the two sides of pair k as sentences 2k and 2k + 1.

    ``documents`` (documents + 1,) are the sentences that documents begin with; None: every sentence is a document.
    """

    folder: Path
    tokens: NDArray[np.unsignedinteger] | Shards
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    documents: NDArray[np.int64] | None = None

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """Raises ``DataError`` naming the file that is missing or not as long as it was written."""
        try:
            about = json.loads((folder / "store.json").read_text("utf-8"))
            dtype = np.dtype(about["dtype"])
            offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
            counts = np.load(folder / "counts.npy", allow_pickle=False)
            documents = folder / "documents.npy"
            firsts = np.load(documents, mmap_mode="r", allow_pickle=False) if documents.is_file() else None
            listed = about.get("shards", [{"file": "tokens.bin", "tokens": int(offsets[-1])}])
            maps = [_map(folder / shard["file"], shard["tokens"], dtype) for shard in listed if shard["tokens"]]
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{folder}: the token store cannot be read: {error}; delete it and build it again"
            ) from error
        tokens = maps[0] if len(maps) == 1 else Shards(maps, dtype)
        if len(tokens) != int(offsets[-1]):
            raise DataError(f"{folder}: {len(tokens):,} tokens where offsets.npy has {int(offsets[-1]):,}: delete it")
        return cls(folder, tokens, offsets, counts, firsts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def slice(self, start: int, end: int) -> NDArray[np.int64]:
        """Tokens ``start .. end - 1`` of the flat array."""
        return self.tokens[start:end].astype(np.int64)

    def sentence(self, index: int) -> NDArray[np.int64]:
        """Sentence ``index`` without its end-of-sentence id."""
        return self.slice(int(self.offsets[index]), int(self.offsets[index + 1]) - 1)


def _map(path: Path, tokens: int, dtype: np.dtype) -> NDArray[np.unsignedinteger]:
    if path.stat().st_size != tokens * dtype.itemsize:
        raise DataError(
            f"{path}: {path.stat().st_size:,} bytes where {tokens * dtype.itemsize:,} are expected: delete {path.parent}"
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=(tokens,))


def token_dtype(vocabulary_size: int) -> np.dtype:
    """The smallest type that holds every id."""
    return np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


Part = Literal["text", "pairs", "held-out pairs"]


def is_held_out(pivot_text: str, share: float) -> bool:
    """Whether a pair is kept for validation: by a hash of its text in the pivot language, so that no such text is
    trained on in any language. What a smaller share holds out, a larger one does too."""
    digest = hashlib.md5(pivot_text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def build_store(
    path: Path,
    vocabulary: Vocabulary,
    cache: Path,
    part: Part,
    limit: int | None = None,
    held_out: float = 0.0,
    *,
    languages: Sequence[str],
) -> TokenStore:
    """The store of one text file (one text a line) or pairs file (TSV), built if ``cache`` does not have it yet.

    ``languages`` are the text's one or the pairs' two, for tokenizers that go by language.
    ``limit`` keeps the first lines only; ``held_out`` is the share of the pairs that ``"pairs"`` leaves to
    ``"held-out pairs"``. Raises ``DataError`` for unreadable lines, ``OutputError`` when the cache cannot be written.
    """
    about: dict[str, object] = {"format": FORMAT, "source": file_digest(path), "tokenizer": vocabulary.fingerprint}
    about |= {"part": part, "limit": limit, "held_out": held_out}
    if held_out:
        about["held out by"] = _HELD_OUT_BY
    if vocabulary.language_encoder is not None:
        about["languages"] = list(languages)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
    folder = cache / f"{path.name.split('.')[0]}-{key}"
    if (folder / "store.json").is_file():
        return TokenStore.open(folder)
    temporary = cache / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        _write(temporary, _sentences(path, part, limit, held_out), vocabulary, languages, about | {"file": path.name})
        try:
            os.rename(temporary, folder)
        except OSError:  # another process built the same store meanwhile: its content is the same
            if not (folder / "store.json").is_file():
                raise
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise OutputError(f"{folder}: the token store cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return TokenStore.open(folder)


def _sentences(path: Path, part: Part, limit: int | None, held_out: float) -> Iterator[str]:
    if part == "text":
        yield from islice(read_texts(path), limit)
        return
    for text, translation in islice(read_pairs(path), limit):
        if is_held_out(translation, held_out) == (part == "held-out pairs"):
            yield text
            yield translation


def _write(
    folder: Path, sentences: Iterable[str], vocabulary: Vocabulary, languages: Sequence[str], about: dict[str, object]
) -> None:
    dtype = token_dtype(vocabulary.size)
    lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    counts = np.zeros(vocabulary.size, np.int64)
    source = iter(sentences)
    with (folder / "tokens.bin").open("wb") as stream:
        while lines := list(islice(source, _BATCH)):
            encoded = vocabulary.encode(lines, languages)
            flat = np.concatenate([np.asarray([*ids, vocabulary.eos_id], dtype=np.int64) for ids in encoded])
            lengths.append(np.array([len(ids) + 1 for ids in encoded], np.int64))
            counts += np.bincount(flat, minlength=vocabulary.size)
            stream.write(flat.astype(dtype).tobytes())
        stream.flush()
        os.fsync(stream.fileno())
    offsets = np.cumsum(np.concatenate(lengths))
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "counts.npy", counts)
    summary = about | {"dtype": dtype.name, "sentences": len(offsets) - 1, "tokens": int(offsets[-1])}
    (folder / "store.json").write_text(json.dumps(summary, indent=1), "utf-8")
