"""What is scored and what chooses: the test set, or the development set where that is all there is, and what must be said
of it; the development sets that choose among several models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from xlm.errors import DataError, InputError
from xlm.evaluation.benchmarks import Benchmark
from xlm.evaluation.reading import Place, choose, places, splits

_LEAK = "where it also chose the epoch or the settings of the model, the score is too high"


def scored(
    spec: Benchmark, data: str | Path, split: str, languages: Sequence[str] | None
) -> tuple[dict[str, Place], str, list[str]]:
    """The files to score by language, the split that they are of, and notes.

    Where ``test`` is asked for and there is none, it is ``dev``, and a note says so.

    Raises:
        DataError: no file of the split, or none of a language.
    """
    try:
        return choose(places(spec, data, split), spec, languages), split, []
    except DataError:
        known = splits(spec)
        if split != "test" or "dev" not in known or _there(spec, data, split):
            raise
        if "test" in known and not _there(spec, data, "dev"):
            raise
    why = "no test file is here" if "test" in known else "the test answers are not public"
    found = choose(places(spec, data, "dev"), spec, languages)
    return found, "dev", [f"the dev set of {spec.name} is scored: {why}; {_LEAK}"]


def _there(spec: Benchmark, data: str | Path, split: str) -> bool:
    try:
        return bool(places(spec, data, split))
    except DataError:
        return False


def judges(spec: Benchmark, data: str | Path, scored: Mapping[str, Place]) -> tuple[dict[str, Place], list[str]]:
    """The development files that choose among several models, the source language's among them, and notes.

    Raises:
        DataError: the source language has none.
    """
    there = places(spec, data, "dev")
    first = spec.source_language
    if first not in there:
        raise DataError(
            f"several models: no dev file of {first}, which chooses among them: there are {', '.join(there)}"
        )
    without = [code for code in scored if code not in there]
    notes = (
        [f"no dev file of {', '.join(without)}: the model that {first}'s chose stands for their own"] if without else []
    )
    return {first: there[first]} | {code: there[code] for code in scored if code in there}, notes


def leaks(candidate: str, found: Mapping[str, Place]) -> list[str]:
    """A note for scored files on which the model's epoch was chosen, as far as the recipe beside a model says."""
    notes = []
    for name in {candidate.replace("{language}", code): None for code in found}:
        chosen_on = _eval_files(Path(name).parent / "recipe.json")
        own = [
            code
            for code, place in found.items()
            for path, where in chosen_on
            if where == _plain(place.source.where)
            and Path(path.replace("{language}", place.language)).resolve()
            in [Path(one).resolve() for one in place.paths]
        ]
        if own:
            files = ", ".join(dict.fromkeys(own))
            notes.append(f"{name}: its epoch was chosen on what is scored ({files}): the score is too high")
    return notes


def _eval_files(recipe: Path) -> list[tuple[str, str]]:
    """The evaluation files of a fine-tuning, with the rows that were taken; none where nothing says so."""
    try:
        said = json.loads(recipe.read_text("utf-8"))
        given, base = said.get("eval") or [], said.get("base") or "."
        where = _plain((said.get("data") or {}).get("eval_where") or {})
        return [
            (str(Path(base) / Path(path).expanduser()), where)
            for path in ([given] if isinstance(given, str) else given)
        ]
    except (OSError, ValueError, AttributeError, TypeError):  # no run of this library: nothing is known
        return []


def _plain(where: Mapping[str, object]) -> str:
    return json.dumps({name: str(value) for name, value in where.items()}, sort_keys=True)


def check(spec: Benchmark, candidates: Sequence[str], setting: str, limit: int | None) -> None:
    """Raise InputError for models that do not go with the setting, or a limit that the benchmark cannot have."""
    if not candidates:
        raise InputError("models: none given: at least 1 is needed")
    for one in candidates:
        if ("{language}" in one) != (setting == "translate-train"):
            raise InputError(
                "setting is 'translate-train': it needs a model a language: write {language} in the model's path"
                if setting == "translate-train"
                else f"models: {one!r} is a model a language, setting is {setting!r}: that is what 'translate-train' is for"
            )
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: at least 1 example a language is needed")
    if limit is not None and spec.task == "mine":
        raise InputError(f"limit is {limit}: {spec.name} mines whole corpora: leave limit out")
