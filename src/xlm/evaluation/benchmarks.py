"""Benchmarks as data: what each asks, how it is scored, where its files may lie, what papers reached (``benchmarks.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from xlm.errors import InputError

Task = Literal["classify", "tag", "answer", "choose", "retrieve", "mine", "similar", "rerank"]
Setting = Literal["zero-shot", "translate-train", "translate-train-all", "translate-test"]
SETTINGS: tuple[str, ...] = get_args(Setting)


@dataclass(frozen=True)
class Source:
    """Where one split lies in a layout: a pattern, and what is unusual about its records."""

    path: str
    where: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    strip: str = ""
    language_column: str = ""
    only: str = ""
    english: str = ""
    gold: str = ""


@dataclass(frozen=True)
class Published:
    """What a paper reached: percentages by language, or their average alone, and who says so."""

    model: str
    setting: str
    source: str
    average: float | None = None
    average_exact: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """One entry of the table."""

    name: str
    title: str
    task: Task
    metric: str
    paper: str
    files: tuple[Mapping[str, Source], ...]
    labels: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    source_language: str = "en"
    average_without: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()


@cache
def benchmarks() -> Mapping[str, Benchmark]:
    """All benchmarks by name, in the order of the table."""
    import yaml

    table = yaml.safe_load(files("xlm.evaluation").joinpath("benchmarks.yaml").read_text("utf-8"))
    return {name: _benchmark(name, entry) for name, entry in table.items()}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        InputError: there is none; names those there are.
    """
    table = benchmarks()
    if name not in table:
        raise InputError(f"benchmark is {name!r}: it must be one of {', '.join(table)}")
    return table[name]


def _benchmark(name: str, entry: dict[str, Any]) -> Benchmark:
    layouts = tuple(
        {split: _source(value) for split, value in layout.items() if split != "about"} for layout in entry.pop("files")
    )
    published = tuple(Published(**one) for one in entry.pop("published", ()))
    lists = {key: tuple(entry.pop(key, ())) for key in ("labels", "languages", "folders", "average_without")}
    return Benchmark(name=name, files=layouts, published=published, **lists, **entry)


def _source(entry: dict[str, Any]) -> Source:
    return Source(**{**entry, "header": tuple(entry.get("header", ()))})
