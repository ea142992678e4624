"""What an evaluation found: scores with intervals, by language, of a model and of what it must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xlm.evaluation.benchmarks import Benchmark, Setting
from xlm.tasks.metrics.measured import Measured

DRAWS = 1000
"""Bootstrap resamples behind every interval."""
LEVEL = 0.95


@dataclass(frozen=True)
class Score:
    """Percentages by name, the main one first, and their 95 % intervals."""

    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    @property
    def main(self) -> float:
        """The main score."""
        return next(iter(self.scores.values()))

    @property
    def interval(self) -> tuple[float, float]:
        """The main score's interval."""
        return next(iter(self.intervals.values()))


def score_of(found: Measured) -> Score:
    """The scores of a measured set, with intervals."""
    return Score(found.scores, found.intervals(DRAWS, level=LEVEL))


def average_of(found: Sequence[Measured]) -> Score:
    """The mean over languages; its interval comes from the mean of every resample."""
    names = list(found[0].scores)
    edges = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    resampled = [one.replicates(DRAWS) for one in found]
    scores = {name: float(np.mean([one.scores[name] for one in found])) for name in names}
    draws = {name: np.mean([one[name] for one in resampled], axis=0) for name in names}
    return Score(scores, {name: tuple(np.percentile(draws[name], edges).tolist()) for name in names})


@dataclass(frozen=True)
class Case:
    """One example of the report: what was asked, what is right, what was said, and how right that is (0 to 1)."""

    example: Any
    gold: Any
    predicted: Any
    correct: float
    certainty: float | None = None


@dataclass(frozen=True)
class LanguageResult:
    """One language: the model's score, the baselines', and every case. ``per_language``: of the model that this language's
    own development set chose, where there were several. ``truncated``: texts that were longer than the model and cut."""

    language: str
    items: int
    score: Score
    model: str
    baselines: Mapping[str, Score] = field(default_factory=dict)
    per_language: Score | None = None
    per_language_model: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    cases: Sequence[Case] = ()
    truncated: int = 0


@dataclass(frozen=True)
class Outcome:
    """A benchmark's results in one setting."""

    benchmark: Benchmark
    setting: Setting
    split: str
    models: tuple[str, ...]
    languages: tuple[LanguageResult, ...]
    average: Score
    baselines: Mapping[str, Score]
    per_language: Score | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def metric(self) -> str:
        """The main score's name."""
        return next(iter(self.average.scores))

    @property
    def average_name(self) -> str:
        """``average``, with the languages that are no part of it."""
        left_out = [one.language for one in self.languages if one.language in self.benchmark.average_without]
        return (
            f"average without {', '.join(left_out)}" if left_out and len(left_out) < len(self.languages) else "average"
        )

    def published(self) -> list[Any]:
        """The papers' numbers of the same setting."""
        return [one for one in self.benchmark.published if one.setting == self.setting]

    def record(self) -> dict[str, Any]:
        """Everything but the cases, ready for JSON."""
        languages = {}
        for one in self.languages:
            entry = {"items": one.items, "truncated": one.truncated, "model": one.model, **_plain(one.score)}
            entry["baselines"] = {name: _plain(score) for name, score in one.baselines.items()}
            if one.per_language is not None:
                entry["per_language"] = {"model": one.per_language_model, **_plain(one.per_language)}
            languages[one.language] = entry | {"details": dict(one.details)}
        record: dict[str, Any] = {
            "benchmark": self.benchmark.name,
            "setting": self.setting,
            "split": self.split,
            "models": list(self.models),
            "metric": self.metric,
            "languages": languages,
            "average": _plain(self.average),
            "baselines": {name: _plain(score) for name, score in self.baselines.items()},
            "chosen": dict(self.chosen),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 1),
        }
        if self.per_language is not None:
            record["average_per_language"] = _plain(self.per_language)
        record["published"] = [
            {"model": one.model, "average": one.average, "scores": dict(one.scores), "source": one.source}
            for one in self.published()
        ]
        return record


def cut_notes(found: Sequence[LanguageResult]) -> list[str]:
    """A note of the texts that were cut, by language; none if none was."""
    cut = {one.language: one.truncated for one in found if one.truncated}
    if not cut:
        return []
    count = sum(cut.values())
    shown = ", ".join(f"{language} {number:,}" for language, number in cut.items())
    return [f"{count:,} {'input was' if count == 1 else 'inputs were'} longer than the model and cut: {shown}"]


def _plain(score: Score) -> dict[str, Any]:
    return {"scores": dict(score.scores), "intervals": {name: list(edges) for name, edges in score.intervals.items()}}
