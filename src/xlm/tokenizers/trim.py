"""Vocabularies cut down: which ids must stay, which ones text needs, and the files of what is left.

Why a text that needs only kept pieces keeps its pieces:

- Unigram: the best segmentation of a text is the best of all; when pieces go, others go with them but none gets better,
  except that an unknown character costs ten more than the worst piece: so one piece of the lowest score always stays.
- Byte-pair encoding: the merges that make a kept piece stay, in their order; a merge that goes is one that such a text never
  came to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import regex
from numpy.typing import NDArray

from xlm import atomic
from xlm.errors import CheckpointError, InputError
from xlm.jsonfile import read_json
from xlm.tokenizers import proto
from xlm.tokenizers.auto import AutoTokenizer
from xlm.tokenizers.bpe import END
from xlm.tokenizers.persist import ADDED_FILE, CONFIG_FILE, FAST_FILE
from xlm.tokenizers.unigram import SPACE

Ids = NDArray[np.int64]
_SCRIPTS = (
    "Adlam Arabic Armenian Bengali Bopomofo Cyrillic Devanagari Ethiopic Georgian Greek Gujarati Gurmukhi Han Hangul Hebrew "
    "Hiragana Kannada Katakana Khmer Lao Latin Malayalam Mongolian Myanmar Oriya Sinhala Syriac Tamil Telugu Thaana Thai "
    "Tibetan Tifinagh Yi"
).split()
SCRIPT_SHARE = 0.005
"""A script is a language's own when at least so many of its letters are in it."""


class Vocabulary(Protocol):
    """A tokenizer's vocabulary, to be cut: every token by id, and the ids that always stay."""

    tokenizer: Any
    tokens: list[str]
    fixed: set[int]

    def plain(self, token: str) -> str:
        """The characters of the text that a token stands for."""
        ...

    def write(self, folder: Path, source: Path, ids: Sequence[int]) -> None:
        """Write the tokenizer's files with ``ids`` alone, renumbered in their order."""
        ...


def open_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a tokenizer's folder.

    Raises ``CheckpointError`` for one that cannot be cut: SentencePiece's byte-pair encoding, or with bytes.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return UnigramVocabulary(tokenizer) if hasattr(tokenizer, "engine") else PairVocabulary(tokenizer)


def renumbered(ids: Sequence[int]) -> dict[int, int]:
    """Old id -> new id."""
    return {old: new for new, old in enumerate(ids)}


class UnigramVocabulary:
    """XLM-R's: ``<s> <pad> </s> <unk>``, pieces, ``<mask>``, added tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.model = tokenizer, tokenizer.engine.model
        if self.model.model_type != proto.UNIGRAM:
            raise CheckpointError(
                f"{tokenizer.engine.name}: model type {self.model.model_type}: only unigram can be cut"
            )

        base = tokenizer.engine.size
        self.tokens = _with_added(["<s>", "<pad>", "</s>", "<unk>", *self.model.pieces()[3:], "<mask>"], tokenizer)
        normal = np.flatnonzero(self.model.kinds == proto.NORMAL)
        worst = int(normal[np.argmin(self.model.scores[normal])])
        odd = [int(index) + 1 for index in np.flatnonzero(self.model.kinds != proto.NORMAL) if index >= 3]
        self.fixed = {0, 1, 2, 3, worst + 1, *odd, *range(base, len(self.tokens))}

    def plain(self, token: str) -> str:
        return token.replace(SPACE, "")

    def write(self, folder: Path, source: Path, ids: Sequence[int]) -> None:
        """Every file that the source has."""
        chosen, base = set(ids), self.tokenizer.engine.size
        keep = np.array([True] * 3 + [index in chosen for index in range(4, base)])
        name = self.tokenizer.vocab_files_names["vocab_file"]
        if (source / name).is_file():
            atomic.write_bytes(folder / name, proto.select(self.model, keep))
        if (source / FAST_FILE).is_file():
            content = read_json(source / FAST_FILE)
            vocab = content["model"]["vocab"]
            if [entry[0] for entry in vocab[4:base]] != self.tokens[4:base]:
                raise CheckpointError(f"{source / FAST_FILE}: its pieces are not those of {name} beside it")
            content["model"]["vocab"] = [vocab[index] for index in ids if index < len(vocab)]
            content["added_tokens"] = _added_list(content.get("added_tokens") or [], ids)
            _renumber_template(content.get("post_processor"), renumbered(ids))
            atomic.write_text(folder / FAST_FILE, json.dumps(content, ensure_ascii=False))
        _write_settings(folder, source, ids)


class PairVocabulary:
    """XLM's: vocab.json and merges.txt."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        by_id = {index: token for token, index in tokenizer.encoder.items()}
        base = self._base = max(by_id, default=-1) + 1
        self.tokens = _with_added([by_id.get(index, "") for index in range(base)], tokenizer)
        marks = {str(token) for token in tokenizer.all_special_tokens} | {f"<special{n}>" for n in range(10)}
        self.fixed = {i for i, token in enumerate(self.tokens) if token in marks} | set(range(base, len(self.tokens)))

    def plain(self, token: str) -> str:
        return token.removesuffix(END) if len(token) > len(END) else token

    def write(self, folder: Path, source: Path, ids: Sequence[int]) -> None:
        """vocab.json in the order of ids, and the merges that kept pieces are made by."""
        kept = [self.tokens[index] for index in ids if index < self._base]
        atomic.write_json(folder / "vocab.json", {token: index for index, token in enumerate(kept)})
        ranks = self.tokenizer.bpe_ranks
        wanted = {pair for token in kept for pair in merges_of(token, ranks)}
        lines = (source / "merges.txt").read_text("utf-8").split("\n")[:-1]
        left = [line for line in lines if line.startswith("#") or tuple(line.split()[:2]) in wanted]
        atomic.write_text(folder / "merges.txt", "".join(line + "\n" for line in left))
        _write_settings(folder, source, ids)


def merges_of(piece: str, ranks: Mapping[tuple[str, ...], int]) -> list[tuple[str, ...]]:
    """The merges that make a piece out of its characters."""
    ended = piece.endswith(END) and len(piece) > len(END)
    letters = list(piece.removesuffix(END)) if ended else list(piece)
    if ended:
        letters[-1] += END
    found: list[tuple[str, ...]] = []
    while len(letters) > 1:
        pairs = list(pairwise(letters))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        at = pairs.index(best)
        found.append(best)
        letters[at : at + 2] = [letters[at] + letters[at + 1]]
    return found


# ---- what text needs -------------------------------------------------------------------------------------------------
def count(vocabulary: Vocabulary, lines: list[str], language: str | None) -> Ids:
    """(tokens,) how often each id stands for the lines."""
    tokenizer = vocabulary.tokenizer
    options = {"lang": language} if _knows(tokenizer, language) else {}
    rows = tokenizer(lines, add_special_tokens=False, **options)["input_ids"]
    flat = np.fromiter((index for row in rows for index in row), np.int64)
    return np.bincount(flat, minlength=len(vocabulary.tokens)).astype(np.int64)


def _knows(tokenizer: Any, language: str | None) -> bool:
    return (
        "lang" in tokenizer.TEXT_OPTIONS and bool(language) and (not tokenizer.lang2id or language in tokenizer.lang2id)
    )


def needed(counts: Ids, coverage: float) -> Ids:
    """The fewest ids, commonest first, that make up ``coverage`` of the counted tokens; all that occur for 1."""
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    reached = np.cumsum(counts[order])
    enough = int(np.searchsorted(reached, coverage * reached[-1] - 1e-9)) + 1 if len(order) else 0
    return order[:enough]


def scripts_of(vocabulary: Vocabulary, counts: Ids) -> set[str]:
    """Scripts in which at least ``SCRIPT_SHARE`` of the counted letters are."""
    letters: dict[str, int] = {}
    for index in np.flatnonzero(counts).tolist():
        for char in vocabulary.plain(vocabulary.tokens[index]):
            if char.isalpha():
                letters[char] = letters.get(char, 0) + int(counts[index])
    total, joined = sum(letters.values()), "".join(letters)
    shares = {
        name: sum(letters[char] for char in found) for name in _SCRIPTS if (found := _in_script(name).findall(joined))
    }
    return {name for name, share in shares.items() if share >= SCRIPT_SHARE * total}


def single_characters(vocabulary: Vocabulary, scripts: set[str]) -> set[int]:
    """Ids of tokens that are one character of the scripts, or of none (digits, punctuation, marks), or white space."""
    patterns = [_in_script(name) for name in (*sorted(scripts), "Common", "Inherited")]
    found: set[int] = set()
    for index, token in enumerate(vocabulary.tokens):
        text = vocabulary.plain(token)
        if len(text) <= 1 and (not text or any(pattern.match(text) for pattern in patterns)):
            found.add(index)
    return found


def _in_script(name: str) -> regex.Pattern[str]:
    return regex.compile(rf"\p{{Script={name}}}")


# ---- files -----------------------------------------------------------------------------------------------------------
def _with_added(tokens: list[str], tokenizer: Any) -> list[str]:
    extra = {index: token for token, index in tokenizer.added_tokens_encoder.items() if index >= len(tokens)}
    if extra and sorted(extra) != list(range(len(tokens), len(tokens) + len(extra))):
        raise CheckpointError(f"added tokens have the ids {sorted(extra)[:10]}: they must follow on {len(tokens) - 1}")
    return [*tokens, *(extra[index] for index in sorted(extra))]


def _added_list(tokens: list[dict[str, Any]], ids: Sequence[int]) -> list[dict[str, Any]]:
    new = renumbered(ids)
    return [{**token, "id": new[int(token["id"])]} for token in tokens if int(token["id"]) in new]


def _renumber_template(processor: Any, new: Mapping[int, int]) -> None:
    """The special tokens' ids inside a post-processor, whatever kind it is."""
    if isinstance(processor, dict):
        for key, value in processor.items():
            if key == "ids" and isinstance(value, list):
                processor[key] = [new[index] for index in value]
            elif key in ("sep", "cls") and isinstance(value, list):
                processor[key] = [value[0], new[value[1]]]
            else:
                _renumber_template(value, new)
    elif isinstance(processor, list):
        for value in processor:
            _renumber_template(value, new)


def _write_settings(folder: Path, source: Path, ids: Sequence[int]) -> None:
    new = renumbered(ids)
    if (source / CONFIG_FILE).is_file():
        config = read_json(source / CONFIG_FILE)
        decoder = config.get("added_tokens_decoder")
        if decoder is not None:
            config["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in decoder.items() if int(i) in new}
        atomic.write_json(folder / CONFIG_FILE, config)
    if (source / ADDED_FILE).is_file():
        added = read_json(source / ADDED_FILE)
        atomic.write_json(folder / ADDED_FILE, {token: new[int(i)] for token, i in added.items() if int(i) in new})


def check_coverage(coverage: float) -> None:
    """Raises ``InputError`` unless 0 < coverage <= 1."""
    if not 0.0 < coverage <= 1.0:
        raise InputError(f"coverage is {coverage}: it must lie above 0 and not above 1")
