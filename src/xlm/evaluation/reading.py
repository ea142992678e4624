"""A folder of files -> the examples of a benchmark by language, whatever of the known layouts the folder has."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xlm.data.examples import read_examples
from xlm.data.readers import read_lines, read_pairs
from xlm.data.tables import Row, read_rows
from xlm.errors import DataError, InputError
from xlm.evaluation.benchmarks import Benchmark, Source
from xlm.tasks.examples import ChoiceExample, PairExample, TaggedExample, TextExample

_CODE = r"[A-Za-z]+(?:_[A-Za-z]+)*"


@dataclass(frozen=True)
class Place:
    """The file of one language: ``language`` is that of the texts, ``other`` of the questions where it may differ; ``more``
    are further files of the same kind, as of a language with several treebanks."""

    path: str
    source: Source
    language: str
    other: str
    more: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All files."""
        return (self.path, *self.more)

    @property
    def name(self) -> str:
        """``de``, or ``de-en`` for German contexts with English questions."""
        return self.language if self.language == self.other else f"{self.language}-{self.other}"


@dataclass(frozen=True)
class Corpus:
    """Two sides of BUCC: ids and sentences, and the pairs of ids that are translations."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    other_ids: tuple[str, ...]
    others: tuple[str, ...]
    gold: tuple[tuple[str, str], ...]


def places(benchmark: Benchmark, folder: str | Path, split: str = "test") -> dict[str, Place]:
    """The files of a split by language: those of the first layout that fits ``folder``, or ``folder`` and the name.

    Raises:
        DataError: no such folder, or nothing in it fits; names what was looked for.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"data={str(folder)!r}: no such folder")
    names = (benchmark.name, *benchmark.folders)
    bases = [base for name in names for base in [*sorted(folder.glob(f"*/{name}")), folder / name] if base.is_dir()]
    bases.append(folder)
    for layout in benchmark.files:
        for base in bases:
            if split in layout and (found := _found(base, layout[split], benchmark)):
                return found
    looked = ", ".join(f"{layout[split].path}[.gz]" for layout in benchmark.files if split in layout)
    if not looked:
        raise DataError(f"split is {split!r}: {benchmark.name} has {', '.join(splits(benchmark))}")
    raise DataError(
        f"{folder}: no file of {benchmark.name}'s split {split!r}: looked for {looked}, here and in folders {', '.join(names)}"
    )


def splits(benchmark: Benchmark) -> list[str]:
    """The splits that any layout of the benchmark has."""
    return sorted({split for layout in benchmark.files for split in layout}, key=["test", "dev", "train"].index)


def choose(found: Mapping[str, Place], benchmark: Benchmark, languages: Sequence[str] | None) -> dict[str, Place]:
    """The languages that are asked for; without any: the benchmark's own, in its order, or whatever is there.

    Raises:
        DataError: a language has no file; names those that have.
    """
    if languages:
        missing = [name for name in languages if name not in found]
        if missing:
            raise DataError(f"languages: no file for {', '.join(missing)}: there are {', '.join(found)}")
        return {name: found[name] for name in languages}
    own = [name for name in benchmark.languages if name in found] or [
        n for n, p in found.items() if p.name == p.language
    ]
    first = benchmark.source_language
    if benchmark.task == "retrieve":  # English among English sentences asks nothing
        own = [name for name in own if name != first]
    return {name: found[name] for name in sorted(own, key=lambda name: name != first)}


def read(place: Place, benchmark: Benchmark, limit: int | None = None, max_bad: float = 0.0) -> Any:
    """The examples of one language: a list, or a :class:`Corpus` for mining. ``max_bad``: the share of rows that may be bad.

    Raises:
        DataError: a missing column or file, damaged records, labels that the benchmark does not have, no example at all.
    """
    examples = _READERS[benchmark.task](place, benchmark, max_bad)
    if isinstance(examples, list):
        if not examples:
            raise DataError(f"{place.path}: the evaluation set is empty: at least 1 example is needed")
        return examples[:limit]
    return examples


def _found(base: Path, source: Source, benchmark: Benchmark) -> dict[str, Place]:
    if source.language_column or source.only:
        paths = [str(base / source.path) + end for end in ("", ".gz") if Path(str(base / source.path) + end).is_file()]
        if not paths:
            return {}
        if source.only:
            return {source.only: Place(paths[0], source, source.only, source.only)}
        column = source.language_column
        codes = {str(row.values.get(column)): None for row in read_rows(paths[0]) if isinstance(row, Row)}
        narrowed = {code: replace(source, where={**source.where, column: code}) for code in codes}
        return {code: Place(paths[0], narrowed[code], code, code) for code in codes}
    whole = str(base / source.path)
    shape = re.escape(whole).replace(re.escape("*"), "[^/]*")
    for name in ("language", "other"):
        shape = shape.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>{_CODE})", 1)
        shape = shape.replace(re.escape(f"{{{name}}}"), f"(?P={name})")
    found: dict[str, Place] = {}
    wild = glob.escape(whole).replace("{language}", "*").replace("{other}", "*").replace("[*]", "*")
    for path in sorted([*glob.glob(wild), *glob.glob(wild + ".gz")]):
        fits = re.fullmatch(shape + r"(?:\.gz)?", path)
        if fits:
            codes = [source.names.get(code, code) for code in fits.groupdict().values()]
            place = Place(path, source, codes[0], codes[-1])
            first = found.setdefault(place.name, place)
            if "*" in source.path and path.removesuffix(".gz") not in first.paths and path != first.path:
                found[place.name] = replace(first, more=(*first.more, path))
    return found


def _classify(place: Place, benchmark: Benchmark, max_bad: float) -> list[TextExample]:
    source = place.source
    if source.header:
        examples = [
            _headless(place.path, number, line, source) for number, line in read_lines(Path(place.path)) if line
        ]
    else:
        columns = source.columns
        examples = read_examples(
            place.path, "classify", columns=columns, where=source.where or None, max_bad=max_bad
        ).examples
    known = set(benchmark.labels)
    labelled: list[TextExample] = []
    for example in examples:
        label = example.label
        if known:
            label = benchmark.aliases.get(str(label), str(label))
            if label not in known:
                raise DataError(
                    f"{place.path}: unknown label {label!r}: {benchmark.name} has {', '.join(benchmark.labels)}"
                )
        labelled.append(replace(example, label=label, language=place.language))
    return labelled


def _headless(path: str, number: int, line: str, source: Source) -> TextExample:
    """An example of a table whose columns have no names."""
    cells = line.split("\t")
    if len(cells) < len(source.header):
        named = ", ".join(source.header)
        raise DataError(f"{path}:{number}: {len(cells)} columns where {len(source.header)} are needed: {named}")
    row = dict(zip(source.header, cells, strict=False))
    return TextExample(row["text"], row.get("pair"), row["label"].strip())


def _similar(place: Place, benchmark: Benchmark, max_bad: float) -> list[PairExample]:
    found = read_examples(
        place.path, "classify", columns={"label": "score"}, where=place.source.where or None, max_bad=max_bad
    ).examples
    pairs = []
    for example in found:
        try:
            score = float(example.label)
        except (TypeError, ValueError) as error:
            raise DataError(f"{place.path}: score {example.label!r} is not a number") from error
        if example.pair is None:
            raise DataError(f"{place.path}: {example.text[:60]!r} has no second text")
        pairs.append(PairExample(example.text, example.pair, score=score, language=place.language, id=example.id))
    return pairs


def _tagged(place: Place, benchmark: Benchmark, max_bad: float) -> list[TaggedExample]:
    source = place.source
    loaded = read_examples(
        list(place.paths), "tag", format=source.format, bio="keep", language=place.language, max_bad=max_bad
    )
    if not source.strip:
        return loaded.examples
    codes = [code for code, name in source.names.items() if name == place.language] or [place.language]
    prefix = source.strip.replace("{language}", codes[0])
    return [replace(e, words=tuple(word.removeprefix(prefix) for word in e.words)) for e in loaded.examples]


def _questions(place: Place, benchmark: Benchmark, max_bad: float) -> list[Any]:
    where = place.source.where or None
    return read_examples(place.path, "answer", language=place.language, where=where, max_bad=max_bad).examples


def _choices(place: Place, benchmark: Benchmark, max_bad: float) -> list[ChoiceExample]:
    names = place.source.columns
    if not names:
        return read_examples(place.path, "choose", language=place.language, max_bad=max_bad).examples
    found = []
    wanted = [names["prompt"], *names["choices"], names["label"]]
    for row in read_rows(place.path):
        if not isinstance(row, Row) or any(column not in row.values for column in wanted):
            raise DataError(f"{row.where}: the columns {', '.join(wanted)} are needed")
        values = row.values
        choices = tuple(str(values[column]) for column in names["choices"])
        label = str(values[names["label"]])
        if not label.isdecimal() or int(label) >= len(choices):
            raise DataError(f"{row.where}: label is {label!r}: it must be from 0 to {len(choices) - 1}, a choice")
        question = values.get(names.get("question", ""))
        found.append(ChoiceExample(str(values[names["prompt"]]), choices, int(label), question, place.language))
    return found


def _parallel(place: Place, benchmark: Benchmark, max_bad: float) -> list[PairExample]:
    if not place.source.english:
        return [PairExample(text, english, language=place.language) for text, english in read_pairs(Path(place.path))]
    here, there = _lines(Path(place.path)), _lines(_beside(place, place.source.english))
    if len(here) != len(there):
        raise InputError(
            f"{place.path}: {len(here):,} lines, its English side has {len(there):,}: line n translates line n"
        )
    return [PairExample(a, b, language=place.language) for a, b in zip(here, there, strict=True)]


def _corpus(place: Place, benchmark: Benchmark, max_bad: float) -> Corpus:
    source = place.source
    here, there = (dict(read_pairs(path)) for path in (Path(place.path), _beside(place, source.english)))
    gold = tuple(read_pairs(_beside(place, source.gold)))
    for a, b in gold:
        if a not in here or b not in there:
            raise DataError(f"{_beside(place, source.gold)}: the pair {a} {b} names a sentence that is not there")
    # A sentence that occurs twice has no id of its own: LASER's script leaves it out.
    left, right = _once(here), _once(there)
    return Corpus(tuple(left.values()), tuple(left), tuple(right.values()), tuple(right), gold)


def _once(sentences: Mapping[str, str]) -> dict[str, str]:
    seen: dict[str, list[str]] = {}
    for name, text in sentences.items():
        seen.setdefault(text, []).append(name)
    return {text: names[0] for text, names in seen.items() if len(names) == 1}


def _beside(place: Place, pattern: str) -> Path:
    """The file of the same layout that ``pattern`` names, for the language as the place's own file spells it."""
    code = next((code for code, name in place.source.names.items() if name == place.language), place.language)
    depth = place.source.path.count("/")
    base = Path(place.path)
    for _ in range(depth + 1):
        base = base.parent
    path = base / pattern.replace("{language}", code)
    for candidate in (path, Path(f"{path}.gz")):
        if candidate.is_file():
            return candidate
    raise DataError(f"{path}: no such file, and none that ends in .gz")


def _lines(path: Path) -> list[str]:
    return [line for _, line in read_lines(path)]


_READERS: dict[str, Callable[[Place, Benchmark, float], Any]] = {
    "classify": _classify,
    "similar": _similar,
    "tag": _tagged,
    "answer": _questions,
    "choose": _choices,
    "retrieve": _parallel,
    "mine": _corpus,
}
