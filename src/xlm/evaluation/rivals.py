"""The baselines' scores beside a model's: which training files they learn from in each setting, and why there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xlm.data.tables import Row, read_rows
from xlm.errors import DataError, InputError
from xlm.evaluation import baselines
from xlm.evaluation.benchmarks import Benchmark, Setting
from xlm.evaluation.predict import measure
from xlm.evaluation.reading import Place, places, read
from xlm.tasks.metrics.measured import Measured

MAX_BAD = 0.05
"""The share of a training file's rows that baselines do without: a model may have learnt from the rest as well."""


class Rivals:
    """Baselines of one evaluation. Files are looked for at once, so that what is missing is said before models run.

    Raises:
        DataError: a file of ``train`` does not exist.
        MissingExtraError: scikit-learn is not installed.
    """

    def __init__(
        self,
        spec: Benchmark,
        data: str | Path,
        found: Mapping[str, Place],
        setting: Setting,
        train: Sequence[str | Path] | None,
    ) -> None:
        baselines.check()
        self._spec, self._found, self._setting = spec, found, setting
        self._learns = spec.task in ("classify", "tag", "choose", "answer")
        self._files: dict[str, list[Place]] = {}
        self._missing = ""
        if self._learns and train:
            self._files = {spec.source_language: [_training(spec, found, Path(one)) for one in train]}
        elif self._learns:
            try:
                self._files = {code: [place] for code, place in places(spec, data, "train").items()}
            except DataError as error:
                known = any("train" in layout for layout in spec.files)
                why = (
                    str(error)
                    if known
                    else f"{spec.name} has no training files: name with train what the model learnt from"
                )
                self._missing = f"no baselines: {why}"

    def scores(
        self, examples: Mapping[str, Any], notes: list[str], progress: Callable[[str, int, int], None]
    ) -> dict[str, dict[str, Measured]]:
        """Both baselines' scores by language, fitted on what the setting lets a model see; why there are none is noted."""
        if self._missing:
            notes.append(self._missing)
            return {}
        scored: dict[str, dict[str, Measured]] = {"majority": {}, "tfidf": {}}
        fitted: dict[str, baselines.Baselines] = {}
        for code, place in self._found.items():
            key = {"translate-train": code, "translate-train-all": "all"}.get(self._setting, self._spec.source_language)
            if self._learns and key != "all" and key not in self._files:
                notes.append(f"no baselines for {code}: there is no training file of {key}")
                continue
            try:
                if key not in fitted:
                    progress(f"baselines ({key})", 0, 0)
                    fitted[key] = baselines.Baselines(None, None)  # where they cannot be fitted, that is said once
                    fitted[key] = self._fit(key)
                for kind, by_language in scored.items():
                    answer = getattr(fitted[key], kind)
                    if answer is not None:
                        language = self._spec.source_language if self._setting == "translate-test" else place.language
                        by_language[code] = measure(self._spec, examples[code], answer(examples[code]), language)
            except (DataError, InputError) as error:
                notes.append(f"no baselines for {code}: {error}")
        return {kind: one for kind, one in scored.items() if one}

    def _fit(self, key: str) -> baselines.Baselines:
        files = (
            [file for one in self._files if key in ("all", one) for file in self._files[one]] if self._learns else []
        )
        return baselines.fit(self._spec, [one for file in files for one in read(file, self._spec, max_bad=MAX_BAD)])


def _training(spec: Benchmark, found: Mapping[str, Place], path: Path) -> Place:
    """A training file that the caller names, read as the layout in use reads its own: of its rows those for training,
    where it has such a column."""
    if not path.is_file():
        raise DataError(f"train={str(path)!r}: no such file")
    used = next(iter(found.values())).source
    own = next((layout["train"] for layout in spec.files if "train" in layout), None)
    first = next((row for row in read_rows(str(path), used.format) if isinstance(row, Row)), None)
    named = first is not None and own is not None and set(own.where) <= set(first.values)
    source = replace(used, where=own.where if own is not None and named else {}, strip="", names={})
    return Place(str(path), source, spec.source_language, spec.source_language)
