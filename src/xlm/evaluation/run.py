"""Run a benchmark: files -> examples -> predictions -> scores, with baselines, for one model or several candidates.

Settings say what was fine-tuned on what; the models themselves come from ``xlm finetune``:

- ``zero-shot``: one model, fine-tuned on the source language alone (English); baselines learn from its training file.
- ``translate-train``: a model a language: ``{language}`` in its path; baselines learn from that language's training file.
- ``translate-train-all``: one model, fine-tuned on all languages together; so are the baselines.
- ``translate-test``: the test files hold translations into the source language; one model of that language.

Given several candidates (seeds, checkpoints), the development sets choose among them, by both rules that papers use: the
candidate best in the source language serves all (strictly zero-shot), or each language's own development set chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xlm.data.tables import Row, read_rows
from xlm.errors import DataError, InputError
from xlm.evaluation import baselines as baseline
from xlm.evaluation.benchmarks import SETTINGS, Benchmark, Setting, benchmark
from xlm.evaluation.predict import Predictions, gold, measure, predict
from xlm.evaluation.reading import Corpus, Place, choose, places, read
from xlm.evaluation.results import Case, LanguageResult, Outcome, average_of, score_of
from xlm.tasks.metrics.measured import Measured

Loader = Callable[[str], Any]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of its examples are done, and how many there are."""


def evaluate(
    models: str | Path | Sequence[str | Path],
    name: str,
    data: str | Path,
    *,
    languages: Sequence[str] | None = None,
    setting: Setting = "zero-shot",
    split: str = "test",
    train: Sequence[str | Path] | None = None,
    limit: int | None = None,
    with_baselines: bool = True,
    load: Loader | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Outcome:
    """Score models on a benchmark.

    Args:
        models: a folder or a name on the hub; with ``{language}`` in it, one a language; several: candidates.
        name: of the benchmark.
        data: the folder with its files, or one above.
        languages: as the files' names call them; None: the benchmark's own that are there.
        setting: what the models were fine-tuned on.
        split: ``test``, or ``dev`` where there is one.
        train: files that the baselines learn from instead of the benchmark's training file: what the model learnt from.
        limit: at most so many examples a language (the first ones).
        load: from a model's name to an engine; None: :func:`xlm.load`.

    Raises:
        InputError: an unknown benchmark, setting or split, or a model whose labels are others.
        DataError: files that are missing, damaged, empty or carry unknown labels.
    """
    started = time.monotonic()
    spec = benchmark(name)
    if setting not in SETTINGS:
        raise InputError(f"setting is {setting!r}: it must be one of {', '.join(SETTINGS)}")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: at least 1 example a language is needed")
    candidates = [str(models)] if isinstance(models, str | Path) else [str(one) for one in models]
    if not candidates:
        raise InputError("models: none given: at least 1 is needed")
    each = ["{language}" in one for one in candidates]
    if setting == "translate-train" and not all(each):
        raise InputError(
            "setting is 'translate-train': it needs a model a language: write {language} in the model's path"
        )
    found = choose(places(spec, data, split), spec, languages)
    examples = {code: read(place, spec, limit) for code, place in found.items()}
    engines = _Engines(load or _load)

    dev: dict[str, dict[str, Measured]] = {}
    if len(candidates) > 1:
        if split == "dev":
            raise InputError("several models: the dev split chooses among them, so it cannot be what is scored")
        dev_places = choose(places(spec, data, "dev"), spec, languages)
        if spec.source_language not in dev_places:
            dev_places |= choose(places(spec, data, "dev"), spec, [spec.source_language])
        dev_examples = {code: read(place, spec, limit) for code, place in dev_places.items()}
    tested: dict[str, dict[str, tuple[Predictions, Measured]]] = {}
    for candidate in candidates:
        tested[candidate] = _scores(spec, candidate, engines, found, examples, setting, progress)
        if len(candidates) > 1:
            scored = _scores(spec, candidate, engines, dev_places, dev_examples, setting, progress, "dev ")
            dev[candidate] = {code: one for code, (_, one) in scored.items()}

    overall = candidates[0] if not dev else max(candidates, key=lambda one: _main(dev[one][spec.source_language]))
    own = {code: max(candidates, key=lambda one: _main(dev[one][code])) for code in found} if dev else {}
    notes: list[str] = []
    rivals = _baselines(spec, data, found, examples, setting, train, notes, progress) if with_baselines else {}

    results = []
    for code in found:
        said, measured = tested[overall][code]
        results.append(
            LanguageResult(
                code,
                measured.items,
                score_of(measured),
                overall.replace("{language}", code),
                {kind: score_of(one[code]) for kind, one in rivals.items() if code in one},
                score_of(tested[own[code]][code][1]) if own else None,
                own.get(code),
                measured.details | said.extra,
                _cases(spec, examples[code], said, measured),
            )
        )
    counted = [code for code in found if code not in spec.average_without] or list(found)
    return Outcome(
        spec,
        setting,
        split,
        tuple(candidates),
        tuple(results),
        average_of([tested[overall][code][1] for code in counted]),
        {kind: average_of([one[code] for code in counted]) for kind, one in rivals.items() if set(counted) <= set(one)},
        average_of([tested[own[code]][code][1] for code in counted]) if own else None,
        {f"by {spec.source_language} dev": overall, "by each language's dev": own} if own else {},
        tuple(notes),
        time.monotonic() - started,
    )


def _load(name: str) -> Any:
    from xlm.inference.engine import load

    return load(None if name == "bundled" else name)


class _Engines:
    """Engines by name; the last one is kept."""

    def __init__(self, load: Loader) -> None:
        self._load, self._name, self._engine = load, "", None

    def __call__(self, name: str) -> Any:
        if name != self._name:
            self._engine = None  # let the old one's memory go first
            self._engine, self._name = self._load(name), name
        return self._engine


def _scores(
    spec: Benchmark,
    candidate: str,
    engines: _Engines,
    found: dict[str, Place],
    examples: dict[str, Any],
    setting: Setting,
    progress: Progress,
    prefix: str = "",
) -> dict[str, tuple[Predictions, Measured]]:
    scored = {}
    for code, place in found.items():
        total = len(examples[code]) if not isinstance(examples[code], Corpus) else len(examples[code].texts)
        done = [0]

        def tell(count: int, done: list[int] = done, code: str = code, total: int = total) -> None:
            done[0] += count
            progress(f"{prefix}{code}", done[0], total)

        tell(0)
        engine = engines(candidate.replace("{language}", code))
        language = spec.source_language if setting == "translate-test" else place.language
        if known := getattr(engine, "languages", ()):
            engine.lang = language if language in known else None
        said = predict(engine, spec, examples[code], tell)
        scored[code] = said, measure(spec, examples[code], said, language)
    return scored


def _main(found: Measured) -> float:
    return next(iter(found.scores.values()))


def _baselines(
    spec: Benchmark,
    data: str | Path,
    found: dict[str, Place],
    examples: dict[str, Any],
    setting: Setting,
    train: Sequence[str | Path] | None,
    notes: list[str],
    progress: Progress,
) -> dict[str, dict[str, Measured]]:
    """Both baselines' scores by language, fitted on what the setting lets a model see."""
    needed = spec.task in ("classify", "tag", "choose", "answer")
    files: dict[str, list[Place]] = {}
    if needed and train:
        files = {spec.source_language: [_training(spec, found, Path(one)) for one in train]}
    elif needed:
        try:
            files = {code: [place] for code, place in places(spec, data, "train").items()}
        except DataError as error:
            notes.append(f"no baselines: {error}")
            return {}
    scored: dict[str, dict[str, Measured]] = {"majority": {}, "tfidf": {}}
    fitted: dict[str, baseline.Baselines] = {}
    for code, place in found.items():
        key = (
            code
            if setting == "translate-train"
            else "all"
            if setting == "translate-train-all"
            else spec.source_language
        )
        if needed and key != "all" and key not in files:
            note = f"no baselines for {code}: there is no training file of {key}"
            notes.append(note)
            continue
        if key not in fitted:
            progress(f"baselines ({key})", 0, 0)
            chosen = [file for one in files if key in ("all", one) for file in files[one]] if needed else []
            fitted[key] = baseline.fit(spec, [one for file in chosen for one in read(file, spec)])
        for kind in scored:
            answer = getattr(fitted[key], kind)
            if answer is not None:
                language = spec.source_language if setting == "translate-test" else place.language
                scored[kind][code] = measure(spec, examples[code], answer(examples[code]), language)
    return {kind: one for kind, one in scored.items() if one}


def _training(spec: Benchmark, found: dict[str, Place], path: Path) -> Place:
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


def _cases(spec: Benchmark, examples: Any, said: Predictions, found: Measured) -> list[Case]:
    if isinstance(examples, Corpus):
        return _pairs(examples, said)
    sure = said.certainty or [None] * len(said.values)
    right = gold(spec, examples)
    if spec.task == "retrieve":
        right = list(range(len(examples)))
    together = zip(examples, right, said.values, found.correct.tolist(), sure, strict=True)
    return [Case(*one) for one in together]


def _pairs(corpus: Corpus, said: Predictions) -> list[Case]:
    """Mined pairs, and gold pairs that were not: the example is the two sentences."""
    texts = dict(zip(corpus.ids, corpus.texts, strict=True)) | dict(zip(corpus.other_ids, corpus.others, strict=True))
    wanted, scores = set(corpus.gold), dict(zip(said.values, said.certainty or [], strict=True))
    every = sorted(wanted | set(scores), key=lambda pair: -scores.get(pair, 0.0))
    return [
        Case(
            tuple(texts.get(one, one) for one in pair),
            "pair" if pair in wanted else "no pair",
            "pair" if pair in scores else "no pair",
            float((pair in wanted) == (pair in scores)),
            scores.get(pair),
        )
        for pair in every
    ]
