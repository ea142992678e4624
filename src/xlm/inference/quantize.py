"""Folders with int8 weights, and what they cost in quality: measured per language against float32 before they are written.

    cosine       of a text's token states, int8 against float32: mean over the texts' tokens
    retrieval    how often the nearest other text, over all languages, is the same
    mask         how often the first guess for a hidden token is the same (models with a language-model head)

The bars hold for the mean over languages of agreements, which a handful of sentences a language gives, and for the cosine
of every language.

Activations have fixed scales, taken from every other text, if the rest of the texts are answered above the bars with them;
otherwise every row gets its own scale when it is computed, which is slower on short texts.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from xlm.assets import BUNDLED, DEMO_TEXTS
from xlm.atomic import write_text
from xlm.backends.torch.arrays import array_of
from xlm.backends.torch.calibration import Activations
from xlm.backends.torch.ops_widening import quantize_linear
from xlm.backends.torch.placement import observe, stored_names
from xlm.batches.batch import Batch
from xlm.batches.packing import pack, split_budget
from xlm.checkpoints.beside import copy_beside, names_beside
from xlm.checkpoints.files import save_safetensors
from xlm.checkpoints.published import to_theirs
from xlm.checkpoints.quantized import INPUT_SCALE, INPUT_ZERO, METHOD, SCALE
from xlm.data.readers import read_lines
from xlm.errors import DataError, InputError, QualityError
from xlm.families.auto import AutoConfig
from xlm.folders import need_new, new_folder
from xlm.hub import resolve
from xlm.inference.engine import Engine, load
from xlm.inference.loading import documented_model
from xlm.tasks.retrieve import normalized
from xlm.tokenizers import AutoTokenizer

REPORT = "quantization.json"
"""The measured quality, beside the weights."""
_HIDE_EVERY = 5
_TOKENS_AT_ONCE = 2048
Kind = Literal["calibrated", "by row"]
"""How activations become bytes: with fixed scales, or every row with its own."""


@dataclass(frozen=True)
class Bars:
    """The least that int8 must keep."""

    cosine: float = 0.99
    retrieval: float = 0.9
    mask: float = 0.9


@dataclass(frozen=True)
class Quality:
    """What int8 keeps of one language's answers."""

    language: str
    texts: int
    cosine: float
    retrieval: float
    mask: float | None


def bundled_texts() -> dict[str, list[str]]:
    """Language -> the sentences of the demo, which say the same in every language."""
    found: dict[str, list[str]] = {}
    for group in tomllib.loads(DEMO_TEXTS.read_text("utf-8"))["same"]:
        for language, text in group.items():
            if language != "shown":
                found.setdefault(language.capitalize(), []).append(text)
    return found


def compare(exact: Engine, quantized: Engine, texts: Mapping[str, Sequence[str]]) -> list[Quality]:
    """The quality of one engine against another, for each language.

    Raises:
        InputError: fewer than two texts.
    """
    every = [text for group in texts.values() for text in group]
    if len(every) < 2:
        raise InputError(f"texts: {len(every)} given: at least 2 are needed to compare what is nearest")
    states = [engine.encode(every, truncate=True) for engine in (exact, quantized)]
    cosines = [float((normalized(a) * normalized(b)).sum(1).mean()) for a, b in zip(*states, strict=True)]
    nearest = []
    for own in states:
        vectors = normalized(np.stack([part.mean(0) for part in own]))
        similarity = vectors @ vectors.T
        np.fill_diagonal(similarity, -np.inf)
        nearest.append(similarity.argmax(1))
    same = nearest[0] == nearest[1]
    found, start = [], 0
    for language, group in texts.items():
        part = slice(start, start + len(group))
        start += len(group)
        if not group:
            continue
        mask = _same_guesses(exact, quantized, list(group))
        found.append(Quality(language, len(group), float(np.mean(cosines[part])), float(same[part].mean()), mask))
    return found


def _same_guesses(exact: Engine, quantized: Engine, texts: list[str]) -> float | None:
    """How often two engines' first guesses agree, every fifth token hidden, each in a row of its own."""
    if "fill-mask" not in exact.tasks:
        return None
    rows, places = [], []
    for row in exact.ids(texts, truncate=True):
        for place in range(1, len(row) - 1, _HIDE_EVERY):
            rows.append([*row[:place], exact.tokenizer.mask_token_id, *row[place + 1 :]])
            places.append([place])
    guesses = [engine.guesses(rows, places) for engine in (exact, quantized)]
    return float(np.mean([a == b for a, b in zip(*guesses, strict=True)])) if rows else None


def misses(quality: Sequence[Quality], bars: Bars) -> list[str]:
    """What lies below the bars, in words; empty if nothing does."""
    found = [
        f"cosine {q.cosine:.4f} in {q.language} (bar {bars.cosine})" for q in quality if not q.cosine >= bars.cosine
    ]
    for name in ("retrieval", "mask"):
        values = [value for q in quality if (value := getattr(q, name)) is not None]
        if values and np.mean(values) < getattr(bars, name):
            found.append(f"{name} agreement {np.mean(values):.3f} (bar {getattr(bars, name)})")
    return found


def quantize(
    path_or_name: str | Path | None,
    out: str | Path,
    texts: Mapping[str, Sequence[str]] | None = None,
    bars: Bars | None = None,
    force: bool = False,
    activations: Kind | None = None,
) -> list[Quality]:
    """Write a folder whose encoder has int8 weights; :func:`xlm.load` opens it as it is.

    Args:
        path_or_name: what :func:`xlm.load` takes.
        out: the folder to write, whole or not at all; it must not be there, or be empty.
        texts: language -> texts to calibrate and measure with; ``None``: the sentences that come with the package.
        bars: the least quality that is written.
        force: write whatever the quality is.
        activations: ``calibrated`` or ``by row``; ``None``: calibrated, if that keeps the bars and a language has two texts.

    Raises:
        QualityError: the quality lies below the bars; nothing is written.
        InputError: ``out`` is the model's own folder, an unknown kind of activations, or too few texts to calibrate with.
        OutputError: ``out`` is there and not empty, or cannot be written.
    """
    folder = Path(resolve(BUNDLED if path_or_name is None else path_or_name))
    out = Path(out)
    if out.resolve() == folder.resolve():
        raise InputError(f"out is {str(out)!r}: the model itself; choose another folder")
    if activations not in (None, "calibrated", "by row"):
        raise InputError(f"activations is {activations!r}: it must be 'calibrated' or 'by row'")
    need_new(out)
    names_beside(folder)  # what may not be copied is told before anything is computed
    samples, asked = halves(texts or bundled_texts())
    kinds: tuple[Kind, ...] = (activations,) if activations else ("calibrated", "by row")
    if not samples:
        if activations == "calibrated":
            raise InputError(
                "texts: 1 a language: calibrating needs 2 of one at least, to measure with text it has not seen"
            )
        kinds = ("by row",)
    exact = load(folder, "float32", "cpu")
    for kind in kinds:
        rows = exact.ids(samples, truncate=True) if kind == "calibrated" else []
        try:
            with new_folder(out) as beside:
                write(folder, beside, rows)
                quality = compare(exact, load(beside, "int8", "cpu"), asked)
                below = misses(quality, bars or Bars())
                if below and not (force and kind == kinds[-1]):
                    raise QualityError(f"int8 would answer too differently: {'; '.join(below)}; nothing was written")
                found = json.dumps([asdict(q) for q in quality], ensure_ascii=False, indent=1)
                write_text(beside / REPORT, found + "\n")
            return quality
        except QualityError:
            if kind == kinds[-1]:
                raise
    raise AssertionError("unreachable")


def halves(texts: Mapping[str, Sequence[str]]) -> tuple[list[str], Mapping[str, Sequence[str]]]:
    """Texts to calibrate with, and others to measure with: every other one of a language; one alone is measured with."""
    samples = [text for group in texts.values() if len(group) > 1 for text in group[::2]]
    return samples, {language: group[1::2] or group for language, group in texts.items()}


@torch.inference_mode()
def calibrate(model: Any, rows: Sequence[Sequence[int]]) -> dict[str, Activations]:
    """Fixed scales for what the encoder's linear layers read, by their names in it.

    Args:
        model: a documented model with its float weights.
        rows: ids of sample texts.
    """
    observer = observe(model)
    for start, end in split_budget([len(row) for row in rows], _TOKENS_AT_ONCE):
        ids, lengths = pack([np.asarray(row) for row in rows[start:end]])
        model.states(Batch.packed(torch.as_tensor(ids), lengths))
    host = model.encoder_host.encoder
    names = {module: name for name, module in host.named_modules()}
    found: dict[str, Activations] = {}
    for layer in host.layer:
        core, first, second = layer.attention.core, layer.intermediate.dense, layer.output.dense
        for group in ((core.query, core.key, core.value), (layer.attention.output.dense,), (first,)):
            fixed = observer.by_channel(group, [module.weight for module in group])
            found |= {names[module]: fixed for module in group}
        found[names[second]] = observer.uniformly(second)
    return found


def write(folder: Path, out: Path, rows: Sequence[Sequence[int]] = ()) -> None:
    """Write a folder's model with int8 matrices in its encoder and bfloat16 tables, its tokenizer, and what
    lies beside it: how vectors are pooled, prompts, further heads.

    Args:
        rows: ids of texts to calibrate with; none: every row of activations gets its own scale.
    """
    config = AutoConfig.from_pretrained(folder)
    if config.is_composition:
        raise InputError(f"{folder} is an encoder-decoder: folders in int8 hold one model; load it with dtype='int8'")
    model = documented_model(folder, config).eval()
    fixed = calibrate(model, rows) if rows else {}
    stored = stored_names(model)
    tensors: list[tuple[str, Any]] = []
    done: set[int] = set()
    for name, module in model.encoder_host.encoder.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        reads = fixed.get(name)
        quantize_linear(module, None if reads is None else reads.scale)
        tensors += [(stored[name], array_of(module.weight)), (stored[name] + SCALE, array_of(module.weight_scale))]  # type: ignore[arg-type]
        if reads is not None:
            tensors.append((stored[name] + INPUT_SCALE, array_of(reads.scale)))
            tensors.append((stored[name] + INPUT_ZERO, np.array([reads.zero], np.int32)))
        done.add(id(module.weight))
    for key, p in model.named_parameters():
        if id(p) not in done:
            name = to_theirs(model.family, key, not hasattr(model, model.base_model_prefix))
            tensors.append((name, array_of(p.bfloat16() if p.ndim > 1 else p)))
    config.architectures = [type(model).__name__]
    config.quantization_config = {
        "quant_method": METHOD,
        "weights": "int8, one scale an output channel",
        "activations": "calibrated" if fixed else "by row",
    }
    save_safetensors(out, tensors, {"format": "pt"}, beside={"config.json": config.to_json_string()})
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    copy_beside(folder, out, skip=os.listdir(out))


def read_texts(files: Sequence[str | Path], limit: int = 200) -> dict[str, list[str]]:
    """Language -> the first lines of its file that are not empty, at most ``limit``.

    Args:
        files: ``en=path``, or a path whose name begins with the language: ``en.txt``, ``en.dev.txt.gz``.

    Raises:
        InputError: two files of one language.
        DataError: a file that cannot be read, or without text.
    """
    found: dict[str, list[str]] = {}
    origin: dict[str, Path] = {}
    for file in files:
        language, equals, name = str(file).partition("=")
        if not equals or Path(file).exists():
            path = Path(file)
            language = path.name.split(".")[0]
        else:
            path = Path(name)
        if language in origin:
            raise InputError(
                f"texts: {origin[language]} and {path} are both of {language!r}: one file a language; "
                f"give one of them another name, as in  NAME={path}"
            )
        origin[language] = path
        lines: list[str] = []
        for _, line in read_lines(path):
            if line.strip():
                lines.append(line)
            if len(lines) == limit:
                break
        if not lines:
            raise DataError(f"{path}: has no text")
        found[language] = lines
    return found
