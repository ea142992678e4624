"""From a translation recipe's files to ids: sentences by language, pairs by direction, and what is held out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from xlm.data.parallel import read_pairs, read_sentences
from xlm.errors import DataError, InputError
from xlm.tasks.translate import Ids, Sentences
from xlm.training.translate_recipe import Translate

Way = tuple[str, str]


@dataclass
class Count:
    """What became of a file's rows."""

    name: str
    kept: int = 0
    empty: int = 0
    long: int = 0
    bad: int = 0
    tokens: int = 0


@dataclass
class Corpora:
    """Ids without special tokens.

    Attributes:
        pairs: both sides of the parallel text, by the languages as the files name them.
        texts: sentences by language.
        eval_pairs: (source, target) texts by languages; ``eval_texts``: texts by language.
        counts: for the report.
    """

    pairs: dict[Way, list[tuple[Ids, Ids]]] = field(default_factory=dict)
    texts: dict[str, list[Ids]] = field(default_factory=dict)
    eval_pairs: dict[Way, list[tuple[str, str]]] = field(default_factory=dict)
    eval_texts: dict[str, list[str]] = field(default_factory=dict)
    counts: list[Count] = field(default_factory=list)

    def report(self) -> Table:
        """A table of the files for people."""
        table = Table("file", "rows", "tokens", "empty", "too long", "bad", title="text")
        for column in table.columns[1:]:
            column.justify = "right"
        for one in self.counts:
            table.add_row(one.name, *(f"{n:,}" for n in (one.kept, one.tokens, one.empty, one.long, one.bad)))
        return table


def read_corpora(recipe: Translate, sentences: Sentences, output: Path | None) -> Corpora:
    """Read and tokenize everything. Bad rows go to ``quarantine-….jsonl`` in the output folder.

    Raises:
        DataError: a file cannot be used, its two sides have other numbers of lines, or nothing is left of it.
        InputError: a language that the model does not have.
    """
    found = Corpora()
    for name in ("train", "text", "eval", "eval_text"):
        for languages, _ in recipe.files(name):
            for language in languages:
                _known(sentences, language, name)
    for languages, path in recipe.files("train"):
        a, b = languages
        count = Count(f"train {a}-{b}")
        rows = _pairs(recipe, languages, path, recipe.data.limit, output, count)
        sides = [sentences.encode([row[side] for row in rows], (a, b)[side]) for side in (0, 1)]
        kept = [pair for pair in zip(*sides, strict=True) if _counted(count, sentences, *pair)]
        _need(count, path, recipe)
        found.pairs.setdefault((a, b), []).extend(kept)
        found.counts.append(count)
    for (language,), path in recipe.files("text"):
        count = Count(f"text {language}")
        lines = read_sentences(path, recipe.data.limit)
        kept_lines = [ids for ids in sentences.encode(lines, language) if _counted(count, sentences, ids)]
        _need(count, path, recipe)
        found.texts.setdefault(language, []).extend(kept_lines)
        found.counts.append(count)
    for languages, path in recipe.files("eval"):
        a, b = languages
        count = Count(f"eval {a}-{b}")
        rows = _pairs(recipe, languages, path, recipe.data.eval_limit, output, count)
        _hold_out(
            count, sentences, [sentences.encode([row[side] for row in rows], (a, b)[side]) for side in (0, 1)], path
        )
        found.eval_pairs.setdefault((a, b), []).extend(rows)
        found.counts.append(count)
    for (language,), path in recipe.files("eval_text"):
        count = Count(f"eval_text {language}")
        lines = read_sentences(path, recipe.data.eval_limit)
        _hold_out(count, sentences, [sentences.encode(lines, language)], path)
        found.eval_texts.setdefault(language, []).extend(lines)
        found.counts.append(count)
    return found


def _pairs(
    recipe: Translate, languages: tuple[str, ...], path: str, limit: int | None, output: Path | None, count: Count
) -> list[tuple[str, str]]:
    quarantine = None if output is None else output / f"quarantine-{count.name.replace(' ', '-')}.jsonl"
    data = recipe.data
    try:
        rows, bad = read_pairs(
            path,
            languages,
            columns=data.columns,
            format=data.format,
            limit=limit,
            max_bad=data.max_bad,
            quarantine=quarantine,
        )
    except DataError as error:
        raise DataError(f"{count.name}: {error}") from error
    count.bad = len(bad)
    return rows


def _known(sentences: Sentences, language: str, name: str) -> None:
    try:
        sentences.config.source_side(language)
        sentences.config.target_side(language)
    except InputError as error:
        raise InputError(f"{name}: language {language!r}: {error}") from error


def _counted(count: Count, sentences: Sentences, *sides: Ids) -> bool:
    """Whether all sides can be used; counts them."""
    if not all(len(side) for side in sides):
        count.empty += 1
    elif not all(sentences.fits(side) for side in sides):
        count.long += 1
    else:
        count.kept += 1
        count.tokens += sum(len(side) for side in sides)
        return True
    return False


def _hold_out(count: Count, sentences: Sentences, sides: list[list[Ids]], path: str) -> None:
    """Held-out sentences are all scored, so all must fit."""
    for number, pair in enumerate(zip(*sides, strict=True), 1):
        if not _counted(count, sentences, *pair):
            longest = max(len(side) for side in pair) + 2
            raise DataError(
                f"{count.name}: {path}: row {number} has {longest} tokens with the special ones (limit "
                f"{sentences.max_tokens}) or an empty side: leave it out, or raise data.max_tokens"
            )


def _need(count: Count, path: str, recipe: Translate) -> None:
    if not count.kept:
        raise DataError(
            f"{count.name}: {path}: no row is left: {count.empty:,} are empty, {count.long:,} longer than data.max_tokens "
            f"= {recipe.data.max_tokens}"
        )
