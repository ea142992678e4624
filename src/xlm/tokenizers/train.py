"""Train a SentencePiece unigram vocabulary on text files, one a language, sampled by p^alpha.

With ``n_l`` characters of language l and ``q_l = n_l / sum(n)``, language l gets the share ``q_l^alpha / sum(q^alpha)`` of
the characters that the trainer sees (alpha 0.3 in the XLM-R paper), so small languages keep pieces of their own. A language
is never repeated: the budget is what the languages can give without repetition when their shares allow, else they give all.
"""

from __future__ import annotations

import gzip
import os
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from xlm import atomic
from xlm.errors import ConfigError, DataError, OutputError

MODEL_FILE = "sentencepiece.bpe.model"
# The trainer's own limit on a line is 4,192 bytes and it drops longer ones silently: longer lines are cut at spaces here.
_LINE_CHARACTERS = 1024


@dataclass(frozen=True)
class TrainingReport:
    """What was trained: the file, its number of pieces, and of every language the characters read and used."""

    model: Path
    pieces: int
    read: dict[str, int]
    used: dict[str, int]


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        number = 0
        try:
            for number, raw in enumerate(stream, 1):
                yield from cut_line(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8") from error
        except (OSError, EOFError) as error:
            raise DataError(f"{path}:{number + 1}: the file cannot be read on: {error}") from error


def cut_line(line: str) -> Iterator[str]:
    """A line in parts that the trainer does not drop, cut at spaces."""
    line = line.strip()
    while len(line) > _LINE_CHARACTERS:
        cut = line.rfind(" ", 1, _LINE_CHARACTERS)
        cut = cut if cut > 0 else _LINE_CHARACTERS
        yield line[:cut]
        line = line[cut:].lstrip()
    if line:
        yield line


def check_size(vocab_size: int) -> None:
    """Refuse impossible numbers of ids."""
    if not 8 <= vocab_size <= 2_000_000:
        raise ConfigError(f"vocab_size is {vocab_size}: it must lie between 8 and 2,000,000")


def train_pieces(
    lines: Iterable[str],
    vocab_size: int,
    folder: Path,
    character_coverage: float = 0.9995,
    num_threads: int | None = None,
) -> Path:
    """Train on lines as they come; returns the path of the model in ``folder``. See :func:`train_sentencepiece`."""
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(folder / "model"),
            model_type="unigram",
            vocab_size=vocab_size - 2,
            character_coverage=character_coverage,
            num_threads=num_threads or os.cpu_count() or 1,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(f"vocab_size {vocab_size} does not fit the text: {error}") from error
    return folder / "model.model"


def read_lines_by_language(files_by_language: Mapping[str, str | Path]) -> dict[str, list[str]]:
    """The lines of every language's file, cut at spaces where they are long.

    Raises ``ConfigError`` when there is no file, ``DataError`` for one that is absent, empty or not UTF-8.
    """
    if not files_by_language:
        raise ConfigError("files_by_language is empty: at least one language is needed")
    lines: dict[str, list[str]] = {}
    for language, name in files_by_language.items():
        path = Path(name)
        if not path.is_file():
            raise DataError(f"{path}: no such file (language {language!r})")
        lines[language] = list(_lines(path))
        if not lines[language]:
            raise DataError(f"{path}: holds no text (language {language!r})")
    return lines


def sample_lines(
    lines: Mapping[str, list[str]], alpha: float, seed: int = 0, max_characters: int | None = None
) -> dict[str, list[str]]:
    """Whole lines of every language in p^alpha shares of characters, drawn without repetition, as ``seed`` says."""
    sizes = {language: sum(map(len, of)) for language, of in lines.items()}
    total = sum(sizes.values())
    weights = {language: (size / total) ** alpha for language, size in sizes.items()}
    shares = {language: weight / sum(weights.values()) for language, weight in weights.items()}
    # Every language would give all it has at its own budget; the median keeps one tiny language from starving the rest.
    exhausted = sorted(sizes[language] / shares[language] for language in sizes)
    budget = exhausted[len(exhausted) // 2]
    if max_characters is not None:
        budget = min(budget, max_characters)
    chosen: dict[str, list[str]] = {}
    for language, of in lines.items():
        order = list(of)
        random.Random(f"{seed} {language}").shuffle(order)
        room, kept = shares[language] * budget, []
        for line in order:
            if room <= 0:
                break
            kept.append(line)
            room -= len(line)
        chosen[language] = kept
    return chosen


def train_sentencepiece(
    files_by_language: Mapping[str, str | Path],
    vocab_size: int,
    out: str | Path,
    alpha: float = 0.3,
    seed: int = 0,
    character_coverage: float = 0.9995,
    num_threads: int | None = None,
    max_characters: int | None = None,
) -> TrainingReport:
    """Write ``out``/sentencepiece.bpe.model: ``vocab_size`` ids in all, ``<pad>`` and ``<mask>`` (no pieces) included.

    ``files_by_language`` maps a language code to one UTF-8 text file, plain or .gz. ``max_characters`` bounds what the
    trainer sees in all languages together. Raises ``ConfigError`` for impossible sizes, ``DataError`` for files that cannot
    be read, ``OutputError`` when ``out`` cannot be written; nothing half-written is left.
    """
    check_size(vocab_size)
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"alpha is {alpha}: it must lie between 0 (uniform) and 1 (as the data is)")
    if not 0.0 < character_coverage <= 1.0:
        raise ConfigError(f"character_coverage is {character_coverage}: it must lie above 0 and not above 1")
    lines = read_lines_by_language(files_by_language)
    chosen = sample_lines(lines, alpha, seed, max_characters)
    mixed = [line for of in chosen.values() for line in of]
    random.Random(seed).shuffle(mixed)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".tokenizer-") as scratch:
            trained = train_pieces(mixed, vocab_size, Path(scratch), character_coverage, num_threads)
            model = out / MODEL_FILE
            with trained.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(trained, model)
        # Without it a folder of an XLM model would be taken for one with XLM's own byte-pair files.
        atomic.write_json(out / "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"})
    except OSError as error:
        raise OutputError(f"out {out}: cannot be written: {error}") from error
    return TrainingReport(
        model=model,
        pieces=vocab_size,
        read={language: sum(map(len, of)) for language, of in lines.items()},
        used={language: sum(map(len, of)) for language, of in chosen.items()},
    )
