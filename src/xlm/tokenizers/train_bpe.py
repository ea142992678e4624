"""Train XLM's byte-pair encoding: fastBPE's files, ``vocab.json`` and ``merges.txt``, from one text file a language.

Text goes through the very tokenizer that will use the vocabulary (Moses' rules of its language, lower case, no accents), then
Hugging Face's trainer learns merges over the words. Languages are drawn by p^alpha as in `xlm.tokenizers.train`; the XLM
paper takes alpha 0.5 for the vocabulary.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from xlm import atomic
from xlm.errors import ConfigError, MissingExtraError
from xlm.tokenizers.bpe import BPE, END
from xlm.tokenizers.train import TrainingReport, read_lines_by_language, sample_lines
from xlm.tokenizers.unigram import clean
from xlm.tokenizers.xlm import XLMTokenizer

SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10))]
"""The first ids of every XLM vocabulary; ``<special1>`` is its mask."""


def train_bpe(
    files_by_language: Mapping[str, str | Path],
    vocab_size: int,
    out: str | Path,
    alpha: float = 0.5,
    seed: int = 0,
    lowercase: bool = True,
    min_frequency: int = 2,
    max_characters: int | None = None,
) -> TrainingReport:
    """Write ``out``/vocab.json, merges.txt and tokenizer_config.json: what :class:`XLMTokenizer` opens.

    Args:
        vocab_size: ids in all, the 14 special ones included; fewer where the text gives no more merges.
        lowercase: whether text is lowercased and stripped of accents, as in XLM-15 and XLM-17; XLM-100 keeps both.
        min_frequency: a pair that is rarer is not merged; rarer characters get no id.
        max_characters: of all languages together.

    merges.txt has fastBPE's three columns: a pair, and how often it was merged in the text. Every character and every merged
    piece has an id, so no word of the text's characters is unknown; ids go by frequency.

    Raises ``ConfigError`` for impossible sizes, ``DataError`` for files that cannot be read, ``OutputError`` when ``out``
    cannot be written, ``MissingExtraError`` without the extra ``corpus`` or that of a language's word splitter.
    """
    if not len(SPECIAL) < vocab_size <= 2_000_000:
        raise ConfigError(f"vocab_size is {vocab_size}: it must lie between {len(SPECIAL) + 1} and 2,000,000")
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"alpha is {alpha}: it must lie between 0 (uniform) and 1 (as the data is)")
    if min_frequency < 1:
        raise ConfigError(f"min_frequency is {min_frequency}: it must be at least 1")
    lines = read_lines_by_language(files_by_language)
    chosen = sample_lines(lines, alpha, seed, max_characters)
    words = count_words(chosen, lowercase)
    merges = _merges(words, vocab_size - len(SPECIAL), min_frequency)
    pieces, merged = _counts(words, merges)
    alphabet = _alphabet(words, min_frequency)
    known = dict.fromkeys([*alphabet, *(first + second for first, second in merges)])
    ranked = sorted(known, key=lambda piece: -pieces[piece])  # stable: equally frequent pieces as they were found
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *ranked])}
    folder = atomic.make_folder(out, "out")
    languages = {language: index for index, language in enumerate(sorted(files_by_language))}
    config = {
        "tokenizer_class": "XLMTokenizer",
        "do_lowercase_and_remove_accent": lowercase,
        "lang2id": languages,
        "id2lang": {str(index): language for language, index in languages.items()},
    }
    atomic.write_text(folder / "merges.txt", "".join(f"{a} {b} {merged[a, b]}\n" for a, b in merges))
    atomic.write_json(folder / "vocab.json", vocabulary)
    atomic.write_json(folder / "tokenizer_config.json", config)
    return TrainingReport(
        model=folder / "vocab.json",
        pieces=len(vocabulary),
        read={language: sum(map(len, of)) for language, of in lines.items()},
        used={language: sum(map(len, of)) for language, of in chosen.items()},
    )


def count_words(lines: Mapping[str, list[str]], lowercase: bool) -> Counter[str]:
    """How often the tokenizer finds which word in the lines of all languages."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(SPECIAL)}), "utf-8")
        (folder / "merges.txt").write_text("", "utf-8")
        tokenizer = XLMTokenizer(folder / "vocab.json", folder / "merges.txt", do_lowercase_and_remove_accent=lowercase)
    counts: Counter[str] = Counter()
    for language, of in lines.items():
        for line in map(clean, of):
            lowered = tokenizer._lower(line) if lowercase else line
            counts.update(word for word in tokenizer._words(lowered, language, False) if word)
    return counts


def _merges(words: Mapping[str, int], size: int, min_frequency: int) -> list[tuple[str, str]]:
    """Merges in order, so many that with the characters they make at most ``size`` pieces."""
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError as error:
        raise MissingExtraError("training byte-pair encoding", "tokenizers", "corpus") from error
    tokenizer: Any = Tokenizer(models.BPE(end_of_word_suffix=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = _alphabet(words, min_frequency)
    if len(alphabet) > size:
        raise ConfigError(
            f"vocab_size is {size + len(SPECIAL):,}: the text has {len(alphabet):,} characters (within and at the end of "
            f"words), which with {len(SPECIAL)} special tokens need {len(alphabet) + len(SPECIAL):,}"
        )
    letters = {piece.removesuffix(END) for piece in alphabet}
    trainer = trainers.BpeTrainer(
        # It counts every character twice, within words and at their ends: more is asked for, and what is too much cut off.
        vocab_size=size + 2 * len(letters),
        min_frequency=min_frequency,
        end_of_word_suffix=END,
        show_progress=False,
        special_tokens=sorted(alphabet),  # with ids fixed before, ties between pairs fall the same way every time
    )
    kept = {word: count for word, count in words.items() if letters.issuperset(word)}
    tokenizer.train_from_iterator(_repeated(kept), trainer)
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in found]
    known, kept_merges = set(alphabet), []
    for first, second in merges:  # two pairs may make the same piece
        if len(known) == size:
            break
        known.add(first + second)
        kept_merges.append((first, second))
    return kept_merges


def _repeated(words: Mapping[str, int], line: int = 10_000) -> Iterator[str]:
    """Every word as often as it was found, in lines of bounded length."""
    held: list[str] = []
    for word, count in sorted(words.items()):
        while count:
            take = min(count, line - len(held))
            held += [word] * take
            count -= take
            if len(held) == line:
                yield " ".join(held)
                held = []
    yield " ".join(held)


def _alphabet(words: Mapping[str, int], min_frequency: int) -> list[str]:
    """Characters within words and at their ends, those that occur often enough, the commonest first."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for char in word[:-1]:
            counts[char] += count
        counts[word[-1] + END] += count
    return [piece for piece, count in counts.most_common() if count >= min_frequency]


def _counts(words: Mapping[str, int], merges: list[tuple[str, str]]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """How often each piece is left in the text, and how often each pair was merged on the way."""
    bpe = BPE(merges)
    pieces: Counter[str] = Counter()
    merged: Counter[tuple[str, str]] = Counter()
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for word, count in words.items():
        for piece in bpe(word):
            pieces[piece] += count
            for pair in _made_by(piece, ranks):
                merged[pair] += count
    return pieces, merged


def _made_by(piece: str, ranks: Mapping[tuple[str, str], int]) -> list[tuple[str, str]]:
    """The pairs that were merged to make a piece: those of encoding the piece alone."""
    ended = piece.endswith(END)
    letters = list(piece.removesuffix(END)) if ended and len(piece) > len(END) else list(piece)
    if ended and letters:
        letters[-1] += END
    found: list[tuple[str, str]] = []
    while len(letters) > 1:
        rank, at = min(((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(letters))))
        if rank == len(ranks):
            break
        found.append((letters[at], letters[at + 1]))
        letters[at : at + 2] = [letters[at] + letters[at + 1]]
    return found
