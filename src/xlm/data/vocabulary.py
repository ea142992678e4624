"""What pretraining needs of a tokenizer: plain lines to ids, the special ids, and a fingerprint of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from xlm.errors import CheckpointError
from xlm.hub import TOKENIZER_FILES


class LineEncoder(Protocol):
    """Lines to ids without special tokens."""

    def __call__(self, lines: list[str]) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True)
class Vocabulary:
    """``size`` counts every id the embedding needs; ``special_ids`` are never masked, predicted or drawn as replacements."""

    encode_lines: LineEncoder
    size: int
    bos_id: int
    eos_id: int
    pad_id: int
    mask_id: int
    special_ids: tuple[int, ...]
    fingerprint: str
    folder: Path | None = None
    unk_id: int | None = None
    language_encoder: Callable[[str], LineEncoder] | None = None

    def encoder(self, language: str) -> LineEncoder:
        """What encodes lines of a language: tokenizers that split words go by the rules of each."""
        return self.encode_lines if self.language_encoder is None else self.language_encoder(language)

    def encode(self, lines: list[str], languages: Sequence[str]) -> list[Sequence[int]]:
        """The ids of lines that take turns in ``languages``."""
        if self.language_encoder is None:
            return list(self.encode_lines(lines))
        turns = len(languages)
        by_turn = [self.encoder(language)(lines[turn::turns]) for turn, language in enumerate(languages)]
        return [by_turn[index % turns][index // turns] for index in range(len(lines))]


def folder_fingerprint(folder: Path) -> str:
    """sha256 over the tokenizer files of a folder, by name and content."""
    digest = hashlib.sha256()
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        raise CheckpointError(f"{folder}: no tokenizer files there: one of {', '.join(TOKENIZER_FILES)} is needed")
    for name in present:
        digest.update(name.encode())
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def load_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a tokenizer folder (as ``save_pretrained`` or ``xlm tokenizer train`` writes it)."""
    from xlm.tokenizers import AutoTokenizer

    fingerprint = folder_fingerprint(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode_lines(lines: list[str]) -> Sequence[Sequence[int]]:
        # A SentencePiece model encodes a corpus many times faster alone than with the offsets that a tokenizer keeps.
        if hasattr(tokenizer, "sp_model"):
            return _pieces(tokenizer, lines)
        return tokenizer(lines, add_special_tokens=False)["input_ids"]

    def language_encoder(language: str) -> LineEncoder:
        known = tokenizer.lang2id
        lang = language if not known or language in known else None
        return lambda lines: tokenizer(lines, add_special_tokens=False, lang=lang)["input_ids"]

    return Vocabulary(
        encode_lines=encode_lines,
        size=len(tokenizer),
        bos_id=tokenizer.bos_token_id,
        # XLM's tokenizer has its end of a sentence under the name of the separator alone.
        eos_id=tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        mask_id=tokenizer.mask_token_id,
        special_ids=tuple(sorted(set(tokenizer.all_special_ids))),
        fingerprint=fingerprint,
        folder=folder,
        unk_id=tokenizer.unk_token_id,
        language_encoder=language_encoder if "lang" in tokenizer.TEXT_OPTIONS else None,
    )


def _pieces(tokenizer: Any, lines: list[str]) -> list[list[int]]:
    """SentencePiece on all cores, without offsets; a literal ``<mask>`` in a corpus is text like any other."""
    unknown = tokenizer.unk_token_id
    return [
        [piece + 1 if piece else unknown for piece in ids] for ids in tokenizer.sp_model.encode(lines, num_threads=-1)
    ]
