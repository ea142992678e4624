"""What a checkpoint is, and the same checkpoint in another layout, whatever wrote it; no framework is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xlm.atomic import make_folder, write_bytes, write_json
from xlm.checkpoints.beside import copy_beside, names_beside, need_own
from xlm.checkpoints.checkpoint import Checkpoint, Stored
from xlm.checkpoints.dtypes import is_float
from xlm.checkpoints.expected import expected_shapes
from xlm.checkpoints.files import open_checkpoint
from xlm.checkpoints.published import PREFIX, sides_of, to_ours
from xlm.checkpoints.report import Report, fit, modern_name
from xlm.checkpoints.shards import safe_member
from xlm.checkpoints.writer import save_safetensors
from xlm.errors import CheckpointError, ConfigError, InputError
from xlm.families.auto import config_class_of
from xlm.families.config import PretrainedConfig
from xlm.families.registry import FAMILIES, Family
from xlm.hub import TOKENIZER_FILES, WEIGHTS
from xlm.jsonfile import read_object

LAYOUTS = ("transformers", "fairseq", "xlm")
_WORDS = PREFIX + "embeddings.word_embeddings.weight"
_DTYPES = ("float32", "bfloat16", "float16", "float64")
# Copies of other tensors where the model ties them, dropped when they agree.
_TIED = {"lm_head.decoder.weight": _WORDS, "lm_head.decoder.bias": "lm_head.bias"}


@dataclass
class Opened:
    """A checkpoint with its config: tensors under our full names, and what does not fit the model it claims to be.

    ``family`` is of the model, of an encoder-decoder's decoder; names of its sides begin with ``encoder.``, ``decoder.``.
    """

    checkpoint: Checkpoint
    config: PretrainedConfig
    family: Family
    tensors: dict[str, Stored]
    report: Report
    folder: Path
    notes: list[str]


def open_model(path: str | os.PathLike[str]) -> Opened:
    """Open a folder or a file of weights with its config, whichever program wrote them.

    Raises:
        CheckpointError: no weights, damaged or unsafe files, or nothing that says what the model is.
        ConfigError: the config is not valid.
    """
    path = Path(path)
    checkpoint = open_checkpoint(path)
    folder = path if path.is_dir() else path.parent
    notes: list[str] = []
    config = _config(checkpoint, folder, notes)
    sides = sides_of(config)
    family = sides[-1].family
    tensors: dict[str, Stored] = {}
    unknown = list(checkpoint.extras.get("unread", []))
    for name, stored in checkpoint.entries.items():
        ours = next((found for side in sides if (found := side.to_ours(name)) is not None), None)
        if ours is not None:
            tensors[ours] = stored
        elif modern_name(name) is not None:
            unknown.append(name)
    report = _report(checkpoint, config, tensors)
    report.unexpected += unknown
    return Opened(checkpoint, config, family, tensors, report, folder, notes)


def _config(checkpoint: Checkpoint, folder: Path, notes: list[str]) -> PretrainedConfig:
    file = folder / "config.json"
    if file.is_file():
        data = read_object(file, ConfigError)
    elif "config" in checkpoint.extras:
        data = dict(checkpoint.extras["config"])
    else:
        raise CheckpointError(f"{folder}: has weights but no config.json that says what they are")
    found, told = _family_by_names(checkpoint), data.get("model_type")
    if found is not None and told != found:
        # Files made by converters before the XL family had a name of its own say xlm-roberta.
        notes.append(f"config.json says model_type {told!r}; the tensors are those of {found!r}")
        data["model_type"] = found
    known = config_class_of(data.get("model_type"))
    if known is None:
        raise CheckpointError(
            f"{file}: model_type={data.get('model_type')!r}: this library has {', '.join(sorted(FAMILIES))}"
        )
    return known.from_dict(data)


def _family_by_names(checkpoint: Checkpoint) -> str | None:
    """The family whose table knows the most tensors, if it knows any of the layers."""
    scores = {}
    for model_type, family in FAMILIES.items():
        known = [to_ours(family, name) for name in checkpoint.entries]
        if any(name is not None and ".layer." in name for name in known):
            scores[model_type] = sum(name is not None for name in known)
    # XL's table differs from XLM-R's by the names of its norms, so the better fit is the right one.
    return max(scores, key=lambda key: scores[key]) if scores else None


def _report(checkpoint: Checkpoint, config: PretrainedConfig, tensors: dict[str, Stored]) -> Report:
    wanted = expected_shapes(config)
    found = {name: stored.shape for name, stored in tensors.items()}
    conflicts = []
    for copy, original in _tied(config):
        if copy in found and copy not in wanted and original in wanted:
            if original in found and not _equal(tensors[copy], tensors[original]):
                conflicts.append(f"{copy} differs from {original}; the former is used")
            found.setdefault(original, found[copy])
            del found[copy]
    _, report = fit(found, wanted, prefix=PREFIX, source=str(checkpoint.path))
    report.conflicts = conflicts
    return report


def _tied(config: PretrainedConfig) -> list[tuple[str, str]]:
    """Copies of other tensors where a model ties them, and those others, of all sides."""
    return [(side.prefix + copy, side.prefix + one) for side in sides_of(config) for copy, one in _TIED.items()]


def _equal(one: Stored, two: Stored) -> bool:
    return one.shape == two.shape and bool(np.array_equal(one.read(), two.read()))


def inspect(path: str | os.PathLike[str], *, values: bool = False) -> dict[str, Any]:
    """What a checkpoint is, as plain data: family, sizes, languages, types, files, and the report of what does not fit.

    Args:
        path: a folder or a file of weights.
        values: also read every tensor and name those with NaN or infinite values.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged or unsafe.
        ConfigError: its config is not valid.
    """
    opened = open_model(path)
    config, sides = opened.config, sides_of(opened.config)
    spec = opened.family.spec(sides[-1].config)
    if values:
        opened.report.nonfinite = opened.checkpoint.nonfinite()
    notes = [*opened.notes, *_vocabulary_note(opened.folder, spec.vocab_size)]
    types: dict[str, int] = {}
    for stored in opened.checkpoint.entries.values():
        types[stored.dtype.name] = types.get(stored.dtype.name, 0) + int(np.prod(stored.shape, dtype=np.int64))
    wanted = expected_shapes(config)
    return {
        "path": str(path),
        "format": opened.checkpoint.format,
        "family": " and ".join(dict.fromkeys(side.family.model_type for side in sides)),
        "architecture": next(iter(config.architectures or ()), None),
        "files": [str(file) for file in opened.checkpoint.files],
        "bytes": opened.checkpoint.nbytes,
        "tensors": len(opened.checkpoint),
        "parameters": sum(int(np.prod(shape, dtype=np.int64)) for shape in wanted.values()),
        "dtypes": dict(sorted(types.items())),
        "sizes": {
            "vocabulary": spec.vocab_size,
            "hidden": spec.hidden_size,
            "layers": sum(side.family.spec(side.config).num_layers for side in sides),
            "heads": spec.num_heads,
            "feed_forward": spec.intermediate_size,
            "tokens": spec.max_tokens,
        },
        "sides": {s.prefix.removesuffix("."): s.family.spec(s.config).num_layers for s in sides if s.prefix},
        "languages": languages_of(config),
        "labels": dict(config.id2label) if "Classification" in str(config.architectures) else {},
        "tokenizer": [name for name in (*TOKENIZER_FILES, "dict.txt") if (opened.folder / name).is_file()],
        "notes": notes,
        "report": opened.report.to_dict(),
        "fits": not opened.report,
    }


def _vocabulary_note(folder: Path, rows: int) -> list[str]:
    """A warning when the tokenizer beside the weights has ids that the word table has no row for."""
    pieces, words = folder / "sentencepiece.bpe.model", folder / "vocab.json"
    if pieces.is_file():
        from xlm.tokenizers.proto import parse

        size = parse(pieces.read_bytes(), str(pieces)).count + 2
        name = pieces.name
    elif words.is_file():
        size, name = len(read_object(words)), words.name
    else:
        return []
    # Spare rows above the vocabulary are common and harmless.
    return [f"{name} has {size} tokens, the word table {rows} rows: ids above are out of range"] if size > rows else []


def languages_of(config: Any) -> list[str]:
    """The languages that a config names, in the order of their ids."""
    ids = getattr(config, "lang2id", None)
    if isinstance(ids, Mapping) and all(isinstance(i, int) for i in ids.values()):
        return sorted(ids, key=lambda name: ids[name])
    listed = getattr(config, "languages", None)
    return [str(name) for name in listed] if isinstance(listed, list | tuple) else []


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    to: str = "transformers",
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
) -> Report:
    """Write a checkpoint in another layout; the layout of ``src`` is found out.

    Args:
        src: a folder or file: transformers (PyTorch, TensorFlow, Flax), fairseq XLM-R, or original XLM.
        dst: the folder to write.
        to: ``transformers``: ``config.json`` and safetensors; ``fairseq``: ``model.pt`` and ``dict.txt``; ``xlm``:
            ``model.pth`` and ``codes`` of the original code.
        dtype: float32, bfloat16, float16 or float64; ``None`` keeps each tensor's.
        max_shard_size: of the safetensors files.

    Returns:
        The report of what did not fit the model; missing tensors are no report but an error.

    Raises:
        InputError: an option is unknown, or the family has no such layout.
        CheckpointError: ``src`` is no checkpoint, or lacks tensors of its model.
        OutputError: ``dst`` cannot be written, or holds files of another model that would be read with this one; what was
            there is intact.
    """
    if to not in LAYOUTS:
        raise InputError(f"to={to!r}: must be one of {', '.join(LAYOUTS)}")
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"dtype={dtype!r}: must be one of {', '.join(_DTYPES)}")
    opened = open_model(src)
    # An encoder without its pooler, and a head without its bias copies, are whole.
    missing = [name for name in opened.report.missing if not name.startswith(PREFIX + "pooler.")]
    if missing or opened.report.mismatched:
        raise CheckpointError(str(opened.report))
    tensors = untied(opened, dtype)
    names_beside(opened.folder)  # refuses links that lead out, whatever the layout
    need_own(Path(dst), opened.folder, _written(opened, to))
    folder = make_folder(dst, "dst")
    if to == "xlm":
        from xlm.checkpoints.foreign.original_out import save_original

        save_original(folder, opened.config, tensors, opened.folder)
        return opened.report
    if to == "fairseq":
        if opened.config.is_composition:
            raise InputError("to='fairseq': fairseq's XLM-R is an encoder; this is an encoder-decoder")
        if opened.family.model_type not in ("xlm-roberta", "xlm-roberta-xl"):
            raise InputError(f"to='fairseq': {opened.family.model_type} models have no fairseq layout")
        from xlm.checkpoints.foreign.fairseq_out import VOCABULARY, save_fairseq

        vocabulary = opened.folder / VOCABULARY
        save_fairseq(folder, opened.config, tensors, vocabulary if vocabulary.is_file() else None)
        return opened.report
    _save(opened, tensors, folder, dtype, max_shard_size)
    return opened.report


def _written(opened: Opened, to: str) -> list[str]:
    """The names, and patterns of names, that a conversion writes, removes or puts out of force."""
    if to == "xlm":
        return ["model.pth", "codes"]
    if to == "fairseq":
        return ["model.pt", "dict.txt", "sentencepiece.bpe.model"]
    names = [
        "config.json",
        *(pattern for kind in WEIGHTS for pattern in kind),
    ]  # nobody reads others beside safetensors
    names += ["vocab.json", "tokenizer_config.json", "merges.txt"] if opened.checkpoint.extras.get("vocabulary") else []
    return [*names, *(name.partition("/")[0] for name in names_beside(opened.folder))]


def untied(opened: Opened, dtype: str | None) -> dict[str, Stored]:
    """The model's tensors, each once: of tied copies the one that a loader would have used."""
    wanted = expected_shapes(opened.config)
    tensors = dict(opened.tensors)
    for copy, original in _tied(opened.config):
        if copy in tensors and copy not in wanted and original in wanted:
            tensors[original] = tensors.pop(copy)
    if dtype is None:
        return tensors
    kind = _numpy(dtype)
    return {name: stored.cast(kind) if is_float(stored.dtype) else stored for name, stored in tensors.items()}


def _numpy(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def save_model(
    opened: Opened, tensors: dict[str, Stored], folder: Path, dtype: str | None = None, limit: int | str = "5GB"
) -> None:
    """Write ``config.json`` and tensors (by our names) as safetensors under the published names."""
    config, named = opened.config, {}
    for side in sides_of(config):
        for name, stored in tensors.items():
            theirs = side.to_theirs(name)
            if theirs is not None:  # an encoder's file holds no head
                named[theirs] = stored
    kinds = {stored.dtype.name for stored in tensors.values()}
    config.torch_dtype = dtype or (kinds.pop() if len(kinds) == 1 else None)
    text = config.to_json_string()
    save_safetensors(folder, named, {"format": "pt"}, limit, beside={"config.json": text})


def _save(opened: Opened, tensors: dict[str, Stored], folder: Path, dtype: str | None, limit: int | str) -> None:
    config, family = opened.config, opened.family
    save_model(opened, tensors, folder, dtype, limit)
    copy_beside(opened.folder, folder)
    extras = opened.checkpoint.extras
    if extras.get("vocabulary"):
        write_json(folder / "vocab.json", extras["vocabulary"])
        settings = dict(extras.get("tokenizer", {}))
        own = config.get_text_config(encoder=True)
        settings |= {key: getattr(own, key) for key in ("lang2id", "id2lang") if hasattr(own, key)}
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": family.tokenizer_class, **settings})
        _copy_codes(opened, folder)


def _copy_codes(opened: Opened, folder: Path) -> None:
    """The merges of an original XLM model lie beside it in a file of codes; without it no text can be split."""
    codes = [file for file in sorted(opened.folder.iterdir()) if file.is_file() and file.name.startswith("codes")]
    if len(codes) == 1:
        safe_member(opened.folder, codes[0].name, opened.folder, "file")
        write_bytes(folder / "merges.txt", codes[0].read_bytes())
    elif not (folder / "merges.txt").is_file():
        opened.report.initialised.append(
            f"merges.txt: put the model's codes file into {folder} under this name ({len(codes)} found beside the model)"
        )
