"""Cut a checkpoint's vocabulary to chosen languages: tokenizer, word table, output bias and config, nothing else.

Most of a multilingual model is its table of words (of XLM-R base 69 %). A model for three languages needs a tenth of it, and
for texts of kept pieces it computes what it did before, bit by bit, since every other weight is the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from xlm import folders
from xlm.checkpoints.beside import copy_beside, names_beside
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.io import Opened, open_model, save_model, untied
from xlm.checkpoints.published import PREFIX
from xlm.errors import CheckpointError, InputError
from xlm.tokenizers.trim import (
    Ids,
    Vocabulary,
    check_coverage,
    count,
    needed,
    open_vocabulary,
    renumbered,
    scripts_of,
    single_characters,
)

ROWS = (PREFIX + "embeddings.word_embeddings.weight", "lm_head.bias", "lm_head.decoder.weight", "lm_head.decoder.bias")
"""The tensors with a row for every id."""
_BATCH = 2048


@dataclass(frozen=True)
class LanguageCut:
    """What the cut means for a language: tokens of its texts, pieces it needs, share of its tokens that stay."""

    tokens: int
    pieces: int
    kept_tokens: float


@dataclass(frozen=True)
class TrimReport:
    """Before and after: ids, parameters, bytes of weights; ``ids[new]`` is the old id of every new one."""

    source: str
    out: str
    vocabulary: tuple[int, int]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    languages: dict[str, LanguageCut]
    scripts: list[str]
    ids: list[int] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the ids."""
        names = ("source", "out", "vocabulary", "parameters", "bytes", "scripts")
        found = {name: getattr(self, name) for name in names}
        return found | {"languages": {name: vars(cut) for name, cut in self.languages.items()}}


def trim(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    texts: Mapping[str, Iterable[str]] | None = None,
    counts: Mapping[str, Ids] | None = None,
    keep_pieces: Iterable[str] = (),
    coverage: float = 0.9999,
    max_shard_size: int | str = "5GB",
) -> TrimReport:
    """Write the checkpoint ``source`` with a smaller vocabulary to the new folder ``out``.

    What stays: special and added tokens; of every language the pieces that make up ``coverage`` of the tokens of its texts,
    the commonest first; single characters of the scripts that these texts are written in, digits and punctuation;
    ``keep_pieces``. Ids keep their order.

    Args:
        source: a folder with weights and tokenizer, of XLM, XLM-R or XLM-R XL, with any head.
        texts: lines of text by language; read once, a few at a time.
        counts: (ids,) how often each id occurs, by language, instead of texts: ``TokenStore.counts`` of a built corpus.
        keep_pieces: pieces as the vocabulary spells them (``▁word``, ``word</w>``).
        coverage: share of each language's tokens, above 0, up to 1.
        max_shard_size: of the safetensors files; one tensor is in memory at a time.

    Raises:
        InputError: nothing says what to keep, or a piece is not in the vocabulary.
        CheckpointError: the checkpoint lacks tensors, or its vocabulary cannot be cut (adaptive softmax).
        OutputError: ``out`` is there and not empty, or cannot be written; then nothing is left of it.
    """
    check_coverage(coverage)
    keep_pieces = list(keep_pieces)
    if not texts and not counts and not keep_pieces:
        raise InputError("texts, counts and keep_pieces are all empty: nothing says what to keep")
    folders.need_new(out)
    opened = open_model(source)
    names_beside(opened.folder)  # what may not be copied is told before anything is computed
    _check(opened)
    vocabulary = open_vocabulary(opened.folder)
    tokens = vocabulary.tokens
    if len(tokens) > opened.config.vocab_size:
        raise CheckpointError(
            f"{opened.folder}: the tokenizer has {len(tokens):,} tokens, the word table {opened.config.vocab_size:,} rows"
        )
    by_language = {name: _checked(of, len(tokens), name) for name, of in (counts or {}).items()}
    for language, lines in (texts or {}).items():
        by_language[language] = by_language.get(language, 0) + _count(vocabulary, lines, language)
    ids, needs, scripts = choose(vocabulary, by_language, keep_pieces, coverage)
    tensors = untied(opened, None)
    before = {name: stored.shape for name, stored in tensors.items()}, sum(s.nbytes for s in tensors.values())
    index = np.asarray(ids, np.int64)
    cut = {name: _rows(stored, index) if name in ROWS else stored for name, stored in tensors.items()}
    _write(opened, vocabulary, cut, ids, Path(out), max_shard_size)
    kept = np.isin(np.arange(len(tokens)), index)
    return TrimReport(
        source=str(source),
        out=str(out),
        vocabulary=(opened_size(before[0]), len(ids)),
        parameters=(_total(before[0].values()), _total(stored.shape for stored in cut.values())),
        bytes=(before[1], sum(stored.nbytes for stored in cut.values())),
        languages={
            name: LanguageCut(int(of.sum()), needs[name], float(of[kept].sum() / max(of.sum(), 1)))
            for name, of in by_language.items()
        },
        scripts=sorted(scripts),
        ids=ids,
    )


def same_weights(report: TrimReport) -> bool:
    """Whether what was written is what was read: all tensors, of those in ``ROWS`` the kept rows, in every bit."""
    before, after = open_model(report.source), open_model(report.out)
    old, new = untied(before, None), untied(after, None)
    index = np.asarray(report.ids, np.int64)
    if old.keys() != new.keys():
        return False
    for name, stored in old.items():
        wanted = _rows(stored, index) if name in ROWS else stored
        one, two = (np.ascontiguousarray(of.read()).reshape(-1).view(np.uint8) for of in (wanted, new[name]))
        if not np.array_equal(one, two):
            return False
        stored.release()
        new[name].release()
    return True


def choose(
    vocabulary: Vocabulary, counts: Mapping[str, Ids], keep_pieces: Sequence[str], coverage: float
) -> tuple[list[int], dict[str, int], set[str]]:
    """``(ids that stay, pieces that each language needs, scripts whose characters stay)``."""
    chosen, needs, scripts = set(vocabulary.fixed), {}, set()
    for language, of in counts.items():
        found = needed(of, coverage)
        needs[language] = len(found)
        chosen |= set(found.tolist())
        scripts |= scripts_of(vocabulary, of)
    if keep_pieces:
        known = {token: index for index, token in enumerate(vocabulary.tokens)}
        if absent := [piece for piece in keep_pieces if piece not in known]:
            shown = ", ".join(map(repr, absent[:10]))
            raise InputError(f"keep_pieces: {len(absent)} of {len(keep_pieces)} are not in the vocabulary: {shown}")
        chosen |= {known[piece] for piece in keep_pieces}
    if counts:
        chosen |= single_characters(vocabulary, scripts)
    return sorted(chosen), needs, scripts


def _check(opened: Opened) -> None:
    if opened.config.is_composition:
        raise CheckpointError(f"{opened.folder}: an encoder-decoder: trim its sides before they are joined")
    missing = [name for name in opened.report.missing if not name.startswith(PREFIX + "pooler.")]
    if missing or opened.report.mismatched:
        raise CheckpointError(str(opened.report))
    if getattr(opened.config, "asm", False):
        raise CheckpointError(
            f"{opened.folder}: asm=True: an adaptive softmax is laid out by its cutoffs and cannot be cut"
        )


def _checked(counts: Ids, size: int, language: str) -> Ids:
    if len(counts) > size and counts[size:].any():
        raise InputError(f"counts of {language!r} are of {len(counts):,} ids, the vocabulary has {size:,}")
    return np.pad(np.asarray(counts, np.int64)[:size], (0, max(size - len(counts), 0)))


def _count(vocabulary: Vocabulary, lines: Iterable[str], language: str) -> Ids:
    total: Ids = np.zeros(len(vocabulary.tokens), np.int64)
    for batch in _batches(lines):
        total += count(vocabulary, batch, language)
    if not total.any():
        raise InputError(f"texts of {language!r} are empty: its pieces cannot be counted")
    return total


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    source = iter(lines)
    while batch := list(islice(source, _BATCH)):
        yield batch


def _rows(stored: Stored, index: Ids) -> Stored:
    """The chosen rows, gathered when they are read; the pages of the whole are given back."""

    def read() -> np.ndarray:
        rows = stored.read()[index]
        stored.release()
        return rows

    return Stored((len(index), *stored.shape[1:]), stored.dtype, read)


def opened_size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Rows of the word table."""
    return shapes[ROWS[0]][0]


def _total(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)


def _write(
    opened: Opened, vocabulary: Vocabulary, tensors: dict[str, Stored], ids: list[int], out: Path, limit: int | str
) -> None:
    with folders.new_folder(out) as folder:
        _config(opened, ids)
        save_model(opened, tensors, folder, None, limit)
        vocabulary.write(folder, opened.folder, ids)
        copy_beside(opened.folder, folder, skip=os.listdir(folder))


def _config(opened: Opened, ids: list[int]) -> None:
    """The new size, and the ids that the config names."""
    config, new = opened.config, renumbered(ids)
    config.vocab_size = len(ids)
    for key in opened.family.special_ids:
        old = getattr(config, key, None)
        if isinstance(old, int) and old in new:
            setattr(config, key, new[old])
