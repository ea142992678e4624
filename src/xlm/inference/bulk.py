"""Vectors of files too large to hold: shards of the work, Parquet parts that are made once, a manifest that proves them.

    xlm embed --input texts/ --output vectors/ --shard 0/4        # four such processes, on one machine or four, share the work

Part ``k`` of all parts belongs to shard ``k mod n``. A part is written whole or not at all; run again, a shard goes on where
it was stopped. `Embedder` is the same for `Ray Data <https://docs.ray.io/en/latest/data/data.html>`_.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from xlm.atomic import make_folder, replacing, write_text
from xlm.data.tables import BadRow, Row, read_rows
from xlm.errors import DataError, InputError, MissingExtraError, OutputError
from xlm.inference.fingerprint import fingerprint
from xlm.inference.sources import Source, find_sources


@dataclass(frozen=True)
class Part:
    """A file of vectors: of ``source``, ``rows`` records from the ``first`` on (from 0), ``bad`` ones left out,
    ``truncated`` ones cut to the model's length."""

    file: str
    source: str
    first: int
    rows: int
    bad: int
    bytes: int
    sha256: str
    truncated: int = 0


@dataclass
class Manifest:
    """What a shard has done, and under which settings."""

    settings: dict[str, Any]
    parts: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A shard's outcome: parts written now, parts that were there; rows, bad rows and cut rows of all of them."""

    written: int
    kept: int
    rows: int
    bad: int
    output: str
    truncated: int = 0


def parse_shard(text: str) -> tuple[int, int]:
    """``i/n`` -> (i, n).

    Raises:
        InputError: not of that form, or i not below n.
    """
    left, slash, right = text.partition("/")
    if not slash or not left.isdigit() or not right.isdigit() or int(left) >= int(right):
        raise InputError(f"shard is {text!r}: it must be i/n with i from 0 up to n - 1, for example 0/4")
    return int(left), int(right)


def embed_files(
    engine: Any,
    source: str | Path,
    output: str | Path,
    *,
    column: str = "text",
    shard: tuple[int, int] = (0, 1),
    rows_a_part: int = 10_000,
    truncate: bool = False,
    half: bool = False,
    keep_text: bool = False,
    on_part: Any = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    long: str = "refuse",
) -> Done:
    """Embed the texts of files into Parquet parts ``part-FILE-NUMBER.parquet``: source, row, embedding (and text).

    ``row`` is the line of ``source`` that the text stands in (the first of its lines), of Parquet the row; both from 1.

    Args:
        engine: of `xlm.load`.
        source: a file or a folder, here or at a URL (``s3://bucket/folder``): JSONL, CSV, TSV, Parquet with a ``column`` of
            texts, or lines of ``.txt``. Every shard reads all files, and computes its own parts.
        output: a folder; every shard writes into the same one.
        shard: (i, n): this process makes every n-th part, from the i-th on.
        rows_a_part: rows of a part.
        truncate: cut long texts, which the column ``truncated`` then tells; else they are bad rows.
        half: vectors as float16.
        keep_text: the texts in the parts too.
        on_part: called with every `Part` that is done.
        pooling, normalize, prompt, long: as in `Engine.embed`; with ``long="windows"`` no text is too long.

    Bad rows (unreadable, empty, no text in the column, too long) are left out, and named in ``bad-FILE-NUMBER.jsonl``
    beside their part.

    Raises:
        DataError: no such file, or one that cannot be read at all.
        InputError: ``output`` lies in ``source``, where its parts would be texts of the next run.
        OutputError: the folder holds parts made under other settings, or cannot be written.
    """
    if rows_a_part < 1:
        raise InputError(f"rows_a_part is {rows_a_part}: it must be at least 1")
    if "://" not in str(source) and Path(output).absolute().resolve().is_relative_to(Path(source).resolve()):
        raise InputError(f"output is {str(output)!r}, in the folder of texts {str(source)!r}: name one outside it")
    pyarrow = _pyarrow()
    files = find_sources(source)
    folder = make_folder(output, "output")
    name = f"{shard[0]}-of-{shard[1]}"
    settings = {
        "model": engine.name, "fingerprint": fingerprint(engine.folder), "lang": engine.lang,
        "dtype": engine.dtype, "column": column, "rows_a_part": rows_a_part,
        "truncate": truncate, "half": half, "keep_text": keep_text,
        "pooling": engine.pooling(pooling), "normalize": normalize, "prompt": prompt, "long": long,
        "files": {file.name: [file.size, file.stamp] for file in files},
    }  # fmt: skip
    options = {"pooling": pooling, "normalize": normalize, "prompt": prompt, "truncate": truncate, "long": long}
    may_cut = truncate or long != "refuse"
    manifest = _open_manifest(folder, name, settings)
    written = kept = number = 0
    for index, origin in enumerate(files):
        for chunk_number, chunk in enumerate(_chunks(origin, rows_a_part)):
            mine, number = number % shard[1] == shard[0], number + 1
            if not mine:
                continue
            file = f"part-{index:05}-{chunk_number:06}.parquet"
            known = manifest.parts.get(file)
            if known is not None and _is_whole(folder / file, known):
                kept += 1
                continue
            first = chunk_number * rows_a_part
            numbers, texts, bad = _texts_of(chunk, column, engine, may_cut, prompt)
            vectors = engine.embed(texts, **options)
            cut = set(engine.truncated(texts, prompt=prompt)) if truncate else None
            if bad:
                lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in bad]
                write_text(folder / file.replace("part-", "bad-").replace(".parquet", ".jsonl"), "".join(lines))
            size, digest = _write_part(
                pyarrow, folder / file, origin.name, numbers, texts if keep_text else None, vectors, half, cut
            )
            part = Part(file, origin.name, first, len(texts), len(bad), size, digest, len(cut or ()))
            manifest.parts[file] = part
            _save(folder, name, manifest)
            written += 1
            if on_part is not None:
                on_part(part)
    parts = manifest.parts.values()
    return Done(
        written,
        kept,
        sum(p.rows for p in parts),
        sum(p.bad for p in parts),
        str(folder),
        sum(p.truncated for p in parts),
    )


class Embedder:
    """For ``ray.data.Dataset.map_batches(Embedder, fn_constructor_kwargs={"model": ...})``: batches of columns in,
    the same with a column ``embedding`` (rows, hidden) out. Every actor loads the model once.

    Args:
        model, dtype, device, lang: as in `xlm.load`.
        column: of the texts.
        options: of `Engine.embed`.
    """

    def __init__(
        self,
        model: str | None = None,
        dtype: str | None = None,
        column: str = "text",
        *,
        device: str | None = None,
        lang: str | None = None,
        **options: Any,
    ) -> None:
        from xlm.inference.engine import load

        self.engine = load(model, dtype=dtype, device=device, lang=lang)
        self.column, self.options = column, options

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the vectors."""
        texts = [str(text) for text in batch[self.column]]
        return {**batch, "embedding": self.engine.embed(texts, **self.options)}


def _chunks(origin: Source, rows_a_part: int) -> Iterator[list[Row | BadRow]]:
    """The rows of a file, a part's worth at a time; places name the file as it was asked for."""
    with origin.local() as path:
        copy = str(path)
        rows = read_rows(copy)
        try:
            while chunk := list(islice(rows, rows_a_part)):
                if copy != origin.name:
                    chunk = [replace(row, where=row.where.replace(copy, origin.name, 1)) for row in chunk]
                yield chunk
        except DataError as error:
            raise DataError(str(error).replace(copy, origin.name, 1)) from error


def _texts_of(
    chunk: Sequence[Row | BadRow], column: str, engine: Any, may_cut: bool, prompt: str | None
) -> tuple[list[int], list[str], list[dict[str, Any]]]:
    """Lines (of Parquet: rows) and texts of a chunk, and what is wrong with the others."""
    numbers: list[int] = []
    texts: list[str] = []
    places: list[str] = []
    bad: list[dict[str, Any]] = []
    for row in chunk:
        if isinstance(row, BadRow):
            bad.append({"where": row.where, "reason": row.reason})
            continue
        text = row.values.get(column)
        if not isinstance(text, str) or not text.strip():
            reason = f"no column {column!r}" if text is None else f"column {column!r} holds no text"
            bad.append({"where": row.where, "reason": reason})
            continue
        numbers.append(_line_of(row.where))
        texts.append(text)
        places.append(row.where)
    if not may_cut:
        for at in sorted(engine.truncated(texts, prompt=prompt), reverse=True):
            bad.append({"where": places[at], "reason": f"longer than the model's {engine.max_tokens:,} tokens"})
            del numbers[at], texts[at]
    return numbers, texts, bad


def _line_of(where: str) -> int:
    """The number that a row's place ends in: ``texts/a.jsonl:17``, ``a.parquet: row 17``."""
    return int(where[len(where.rstrip("0123456789")) :])


def _is_whole(path: Path, part: Part) -> bool:
    """Whether a part is there as its manifest says, to the last byte."""
    try:
        with path.open("rb") as stream:
            return (
                path.stat().st_size == part.bytes and hashlib.file_digest(stream, "sha256").hexdigest() == part.sha256
            )
    except OSError:
        return False


def _write_part(
    pyarrow: Any,
    path: Path,
    source: str,
    numbers: list[int],
    texts: list[str] | None,
    vectors: Any,
    half: bool,
    cut: set[int] | None,
) -> tuple[int, str]:
    """Write a part; its size and hash. ``cut``: indices of cut texts, None where none may be."""
    kind = pyarrow.float16() if half else pyarrow.float32()
    flat = pyarrow.array(np.ascontiguousarray(vectors, np.float16 if half else np.float32).reshape(-1), kind)
    columns = {
        "source": pyarrow.array([source] * len(numbers), pyarrow.string()),
        "row": pyarrow.array(numbers, pyarrow.int64()),
        "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    if texts is not None:
        columns["text"] = pyarrow.array(texts, pyarrow.string())
    if cut is not None:
        columns["truncated"] = pyarrow.array([index in cut for index in range(len(numbers))], pyarrow.bool_())
    sink = pyarrow.BufferOutputStream()
    importlib.import_module("pyarrow.parquet").write_table(pyarrow.table(columns), sink)
    data = sink.getvalue().to_pybytes()
    with replacing(path, len(data)) as stream:
        stream.write(data)
    return len(data), hashlib.sha256(data).hexdigest()


def _open_manifest(folder: Path, name: str, settings: dict[str, Any]) -> Manifest:
    for path in sorted(folder.glob("manifest-*.json")):
        before = json.loads(path.read_text("utf-8"))
        changed = [key for key in settings if before["settings"].get(key) != settings[key]]
        if changed:
            raise OutputError(
                f"{path}: made with other settings ({', '.join(changed)}): choose another output, or the same settings"
            )
    path = folder / f"manifest-{name}.json"
    if not path.is_file():
        return Manifest(settings)
    found = json.loads(path.read_text("utf-8"))
    return Manifest(settings, {part["file"]: Part(**part) for part in found["parts"]})


def _save(folder: Path, name: str, manifest: Manifest) -> None:
    content = {"settings": manifest.settings, "parts": [asdict(part) for part in manifest.parts.values()]}
    write_text(folder / f"manifest-{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise MissingExtraError("writing Parquet", "pyarrow", "data") from error


def all_parts(folder: str | Path) -> Iterator[Part]:
    """The parts of all shards of an output, in the order of their files."""
    found: dict[str, Part] = {}
    for path in Path(folder).glob("manifest-*.json"):
        for part in json.loads(path.read_text("utf-8"))["parts"]:
            found[part["file"]] = Part(**part)
    yield from (found[file] for file in sorted(found))
