"""Build a corpus: raw files -> a folder of token stores by language that ``data.corpus`` of a recipe names.

The folder::

    corpus.json      what it is made of, by hash, and how much there is of what; written last
    data-<key>/      text/ valid/ pairs/ held-out/ <language>/: token stores, see xlm.data.store
    quarantine.jsonl file, line, reason and beginning of every row that could not be read
    report.html, report.json, languages.png

The same inputs, options and vocabulary have the same key: a finished build is found again, an unfinished one (``.work-<key>``)
goes on where it was stopped, whatever stopped it, and the corpus that was there before stays until the new one is whole.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xlm import atomic
from xlm.data.compressed import SUFFIXES
from xlm.data.corpora.ledger import piece_folder, plan_bins
from xlm.data.corpora.options import CorpusOptions
from xlm.data.corpora.run import Executor, RunStage, Stage, Tell, be_quiet, here
from xlm.data.corpora.tokens import assemble
from xlm.data.store import TokenStore, file_digest
from xlm.data.vocabulary import Vocabulary, load_vocabulary
from xlm.errors import ConfigError, DataError, MissingExtraError, OutputError
from xlm.locks import folder_lock

FORMAT = 1
CORPUS_FILE = "corpus.json"
_PACKAGES = {"datatrove": "datatrove", "zstandard": "zstandard", "xxhash": "xxhash", "loguru": "datatrove"}


@dataclass(frozen=True)
class Built:
    """A finished corpus: its folder, what ``corpus.json`` says, and whether it had been there before."""

    folder: Path
    about: dict[str, Any]
    existed: bool


def build_corpus(
    options: CorpusOptions,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    tell: Tell = lambda name, done, tasks: None,
) -> Built:
    """Build, or go on building, or find the corpus built.

    Args:
        workers: processes at a time on this machine.
        executor: who runs the stages instead, see `xlm.data.corpora.cluster`; the corpus is the same.
        overwrite: whether another corpus in ``options.out`` may be replaced, at the end and at once.

    Raises:
        ConfigError: options that do not fit together, a vocabulary that is not there, another corpus in the folder.
        DataError: a file that cannot be read, or too many bad rows.
        OutputError: the folder cannot be written, the disk is full, or another process builds there.
        MissingExtraError: without the extra ``corpus``.
    """
    out = atomic.make_folder(options.out, "out")
    with folder_lock(out, ".building.lock"):
        prepared = prepare(options, overwrite=overwrite)
        if prepared.built is not None:
            return Built(out, prepared.built, True)
        with executor or here(workers) as run:
            run_stages(options, prepared.work, run, tell)
        tell("stores", 0, 1)
        about = finish_corpus(options, prepared)
        tell("stores", 1, 1)
        return Built(out, about, False)


@dataclass(frozen=True)
class Prepared:
    """A build about to begin: its work folder, the vocabulary, the inputs with their hashes, and the key of all that.

    ``built`` is what ``corpus.json`` says when this very corpus is there already.
    """

    work: Path
    vocabulary: Vocabulary
    inputs: list[dict[str, Any]]
    key: str
    built: dict[str, Any] | None


def prepare(options: CorpusOptions, *, overwrite: bool = False) -> Prepared:
    """Look at the inputs and make the work folder; arguments and errors as of :func:`build_corpus`.

    With :func:`run_stages` and :func:`finish_corpus` this is a build.
    """
    _check_packages(options)
    be_quiet()
    vocabulary = load_vocabulary(options.tokenizer)
    out = atomic.make_folder(options.out, "out")
    before = _read(out)
    inputs = _digests(options, before, out)
    key = _key(options, vocabulary, inputs)
    work = out / f".work-{key}"
    if before is not None and before["key"] == key:
        return Prepared(work, vocabulary, inputs, key, before)
    if before is not None and not overwrite:
        raise ConfigError(
            f"{out}: holds another corpus ({'; '.join(_differences(before, options, vocabulary, inputs))}): "
            "choose another folder, or overwrite it"
        )
    _need_space(options, out)
    for made in ("exact/found", "near/found", "shards", "result"):
        (work / made).mkdir(parents=True, exist_ok=True)
    return Prepared(work, vocabulary, inputs, key, None)


def run_stages(options: CorpusOptions, work: Path, run: RunStage, tell: Tell) -> None:
    """All stages one after another: each reads what the one before has written."""
    from xlm.data.corpora.steps import stages

    tasks, work = len(options.sources), work.absolute()
    for number, (name, pipeline, wanted) in enumerate(stages(_anywhere(options), work)):
        if number == 1:  # from here on shards are what is counted
            tasks = max(len(plan_bins(work, len(options.sources), options.shard_bytes)), 1)
        run(Stage(name, pipeline, wanted or tasks, work), tell)


def _anywhere(options: CorpusOptions) -> CorpusOptions:
    """The same with paths that hold in processes with another working directory."""
    model = options.cleaning.identify
    cleaning = replace(
        options.cleaning, identify=str(Path(model).absolute()) if model and Path(model).is_file() else model
    )
    return replace(options, out=options.out.absolute(), tokenizer=options.tokenizer.absolute(), cleaning=cleaning)


def finish_corpus(options: CorpusOptions, prepared: Prepared) -> dict[str, Any]:
    """When all stages have run: put the shards together to stores, move them into place, write ``corpus.json`` last."""
    from xlm.data.corpora.report import summarise, write_report

    out, work, vocabulary, key = options.out, prepared.work, prepared.vocabulary, prepared.key
    data, result = out / f"data-{key}", work / "result"
    summary = work / "summary.json"
    if not (summary.is_file() and data.is_dir()):
        totals = assemble(work, vocabulary, {"tokenizer": vocabulary.fingerprint})
        if not totals:
            raise DataError(f"{out}: no document is left: the reasons are counted in {piece_folder(work)}")
        about = {
            "format": FORMAT,
            "key": key,
            "data": data.name,
            "tokenizer": vocabulary.fingerprint,
            "vocabulary": vocabulary.size,
            "pivot": next((source.pivot for source in options.sources if source.pivot), None),
            "options": options.record(),
            "inputs": prepared.inputs,
            "parts": totals,
            **summarise(work, len(options.sources)),
        }
        atomic.write_json(summary, about)
        shutil.rmtree(data, ignore_errors=True)
        os.replace(result, data)
        atomic.sync(out)
    about = json.loads(summary.read_text("utf-8"))
    with atomic.replacing(out / "quarantine.jsonl") as stream:
        for index in range(len(options.sources)):
            stream.write((piece_folder(work) / f"{index:05d}.quarantine").read_bytes())
    write_report(out, about)
    atomic.write_json(out / CORPUS_FILE, about)
    for old in [*out.glob("data-*"), *out.glob(".work-*")]:
        if old.name != data.name:
            shutil.rmtree(old, ignore_errors=True)
    return about


# ---- what is there ---------------------------------------------------------------------------------------------------
def _read(out: Path) -> dict[str, Any] | None:
    path = out / CORPUS_FILE
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text("utf-8"))
        if about["format"] != FORMAT:
            raise DataError(f"{path}: format {about['format']!r}: this version reads {FORMAT}")
        return about
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read: {error}") from error


def describe(folder: Path) -> dict[str, Any]:
    """What ``corpus.json`` says.

    Raises ``DataError`` when the folder holds no finished corpus.
    """
    about = _read(folder)
    if about is None:
        raise DataError(f"{folder}: no finished corpus there ({CORPUS_FILE} is missing): xlm corpus build makes one")
    return about


def open_corpus_folder(folder: Path, fingerprint: str | None = None) -> dict[str, dict[str, TokenStore]]:
    """The token stores of a built corpus: ``{"text" | "valid" | "pairs" | "held-out": {language: store}}``.

    Raises ``DataError`` when the folder holds no finished corpus or a damaged one, ``ConfigError`` when it was made with
    another vocabulary than the one of ``fingerprint``.
    """
    about = describe(folder)
    if fingerprint is not None and about["tokenizer"] != fingerprint:
        raise ConfigError(
            f"{folder}: was built with another vocabulary (fingerprint {about['tokenizer'][:12]}, not {fingerprint[:12]})"
        )
    return {
        part: {language: TokenStore.open(folder / about["data"] / part / language) for language in languages}
        for part, languages in about["parts"].items()
    }


def verify_corpus(folder: Path) -> dict[str, Any]:
    """Read everything and hold it against the hashes; what ``corpus.json`` says.

    Raises ``DataError`` naming the first file that is missing or not as it was written.
    """
    open_corpus_folder(folder)
    about = describe(folder)
    for part, languages in about["parts"].items():
        for language in languages:
            store = folder / about["data"] / part / language
            for shard in json.loads((store / "store.json").read_text("utf-8"))["shards"]:
                if file_digest(store / shard["file"]) != shard["sha256"]:
                    raise DataError(
                        f"{store / shard['file']}: not as it was written: its sha256 differs; build it again"
                    )
    return about


def _digests(options: CorpusOptions, before: dict[str, Any] | None, out: Path) -> list[dict[str, Any]]:
    """Path, size, time and sha256 of every input; hashes of unchanged files are taken from earlier builds."""
    kept = out / ".digests.json"
    known = {entry["path"]: entry for entry in (before or {}).get("inputs", [])}
    if kept.is_file():
        known |= {entry["path"]: entry for entry in json.loads(kept.read_text("utf-8"))}
    found: list[dict[str, Any]] = []
    for source in options.sources:
        try:
            about = Path(source.path).stat()
            entry = {"path": source.path, "bytes": about.st_size, "mtime_ns": about.st_mtime_ns}
            old = known.get(source.path, {})
            same = all(old.get(name) == value for name, value in entry.items())
            entry["sha256"] = old["sha256"] if same else file_digest(Path(source.path))
        except OSError as error:
            raise DataError(f"{source.path}: cannot be read: {error.strerror or error}") from error
        found.append(entry | {"language": source.language, "pivot": source.pivot, "format": source.format})
    atomic.write_json(kept, found)
    return found


def _identity(options: CorpusOptions, tokenizer: str, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    model = options.cleaning.identify
    digest = file_digest(Path(model)) if model and Path(model).is_file() else model
    files = [[entry[name] for name in ("sha256", "language", "pivot", "format")] for entry in inputs]
    return {"format": FORMAT, "tokenizer": tokenizer, "options": options.record(), "inputs": files, "identify": digest}


def _key(options: CorpusOptions, vocabulary: Vocabulary, inputs: list[dict[str, Any]]) -> str:
    text = json.dumps(_identity(options, vocabulary.fingerprint, inputs), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _differences(
    before: dict[str, Any], options: CorpusOptions, vocabulary: Vocabulary, inputs: list[dict[str, Any]]
) -> list[str]:
    found: list[str] = []
    if before["tokenizer"] != vocabulary.fingerprint:
        found.append("another vocabulary")
    if sorted(e["sha256"] for e in before["inputs"]) != sorted(e["sha256"] for e in inputs):
        found.append(f"other inputs: {len(before['inputs'])} files there, {len(inputs)} now")
    old, new = (
        {**record, **record["cleaning"]} for record in (before["options"], json.loads(json.dumps(options.record())))
    )
    found += [
        f"{name} was {old.get(name)}, is {new[name]}"
        for name in new
        if name != "cleaning" and old.get(name) != new[name]
    ]
    return found or ["the inputs come in another order or under other languages"]


def _need_space(options: CorpusOptions, out: Path) -> None:
    """At least: half of the text as ids, and as much again for pieces; compressed text grows to three times its size."""
    sizes = ((Path(s.path).stat().st_size, s.path.endswith((*SUFFIXES, ".parquet"))) for s in options.sources)
    try:
        atomic.need_space(out, sum(3 * size if packed else size for size, packed in sizes))
    except OutputError as error:
        raise OutputError(f"{error} (estimated from the size of the input files)") from error


def _check_packages(options: CorpusOptions) -> None:
    needed = dict(_PACKAGES)
    if options.cleaning.fix_unicode:
        needed["ftfy"] = "ftfy"
    if any(source.format == "parquet" for source in options.sources):
        needed["pyarrow"] = "pyarrow"
    for module, package in needed.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingExtraError("xlm corpus build", package, "corpus") from error
    if options.cleaning.identify:
        from xlm.data.corpora.languages import open_identifier

        open_identifier(options.cleaning.identify)
