"""How fairly a vocabulary treats languages: tokens a character and a word, and the share of what it cannot read."""

from __future__ import annotations

import gzip
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xlm import atomic
from xlm.errors import DataError, MissingExtraError

_BATCH = 1 << 20


@dataclass(slots=True)
class Fairness:
    """Counts of one language; the rates follow from them."""

    lines: int = 0
    characters: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0
    unread: int = 0  # characters that unknown tokens stand for: what the model does not see
    replaced: int = 0  # lines with bytes that are not UTF-8, where errors="replace" lets them pass

    @property
    def tokens_per_character(self) -> float:
        return self.tokens / max(1, self.characters)

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / max(1, self.words)

    @property
    def unknown_rate(self) -> float:
        return self.unknown / max(1, self.tokens)

    @property
    def unread_rate(self) -> float:
        return self.unread / max(1, self.characters)

    def record(self) -> dict[str, Any]:
        rates = ("tokens_per_character", "tokens_per_word", "unknown_rate", "unread_rate")
        return {**asdict(self), **{name: round(getattr(self, name), 6) for name in rates}}


def read_lines(path: Path, errors: str = "strict", counts: Fairness | None = None) -> Iterator[str]:
    """The lines of a UTF-8 file, plain or .gz, that are not empty. ``DataError`` names file, line and byte.

    Lines end at a newline alone (a carriage return before it goes too); a byte-order mark is no part of the first. With
    ``errors="replace"`` bytes that are not UTF-8 become U+FFFD, and ``counts`` says in how many lines.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        number = 0
        try:
            for number, raw in enumerate(stream, 1):
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                try:
                    line = raw.decode(encoding).strip()
                except UnicodeDecodeError:
                    if errors == "strict":
                        raise
                    line = raw.decode(encoding, errors).strip()
                    if counts is not None:
                        counts.replaced += 1
                if line:
                    yield line
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8") from error
        except (OSError, EOFError) as error:
            raise DataError(f"{path}:{number + 1}: the file cannot be read on: {error}") from error


def fairness(tokenizer: Any, files: Mapping[str, Path], errors: str = "strict") -> dict[str, Fairness]:
    """Counts for every language; memory stays bounded whatever the files hold.

    A word is what white space separates, so a Chinese sentence is one: compare such languages by characters.
    """
    found: dict[str, Fairness] = {}
    for language, path in files.items():
        counts = found[language] = Fairness()
        batch: list[str] = []
        size = 0
        for line in read_lines(Path(path), errors, counts):
            batch.append(line)
            size += len(line)
            if size > _BATCH:
                _count(tokenizer, batch, counts)
                batch, size = [], 0
        _count(tokenizer, batch, counts)
    return found


def _count(tokenizer: Any, lines: list[str], counts: Fairness) -> None:
    if not lines:
        return
    unknown = tokenizer.unk_token_id
    rows = tokenizer(lines, add_special_tokens=False, verbose=False)["input_ids"]
    counts.lines += len(lines)
    counts.characters += sum(map(len, lines))
    counts.words += sum(len(line.split()) for line in lines)
    counts.tokens += sum(map(len, rows))
    counts.unknown += sum(row.count(unknown) for row in rows)
    partly = [line for line, row in zip(lines, rows, strict=True) if unknown in row]
    if partly:
        found = tokenizer(partly, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        for row, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True):
            counts.unread += sum(
                end - start for index, (start, end) in zip(row, offsets, strict=True) if index == unknown
            )


def plot(found: Mapping[str, Fairness], path: Path) -> None:
    """Bars of tokens a character, the costliest language first, and of the characters that no token stands for.

    A language whose characters are unknown looks cheap, since one unknown token may stand for a whole word.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise MissingExtraError("a plot", "matplotlib", "train") from error
    order = sorted(found, key=lambda language: -found[language].tokens_per_character)
    figure = figures.Figure(figsize=(8, max(2.5, 0.28 * len(order) + 1)), layout="constrained")
    panes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    panes[0].barh(order, [found[language].tokens_per_character for language in order], color="#4477aa")
    panes[0].set_xlabel("tokens a character")
    panes[1].barh(order, [100 * found[language].unread_rate for language in order], color="#cc6677")
    panes[1].set_xlabel("unread characters, %")
    panes[0].invert_yaxis()
    with atomic.replacing(path) as stream:
        figure.savefig(stream, format=path.suffix.lstrip(".") or "png", dpi=150)
