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
from pathlib import Path
from typing import Any

from xlm.errors import InputError
from xlm.evaluation.benchmarks import SETTINGS, Benchmark, Setting, benchmark
from xlm.evaluation.predict import Predictions, gold, measure, predict, speaking
from xlm.evaluation.reading import Corpus, Place, read
from xlm.evaluation.results import Case, LanguageResult, Outcome, average_of, cut_notes, score_of
from xlm.evaluation.rivals import Rivals
from xlm.evaluation.selection import check, judges, leaks, scored
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
    lang: str | None = None,
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
        split: ``test``, or ``dev`` where there is one. Where there is no test file, ``dev`` is scored and a note says so.
        train: files that the baselines learn from instead of the benchmark's training file: what the model learnt from.
        limit: at most so many examples a language (the first ones); not for mining.
        lang: what a model of XLM takes texts to be in where it does not know the language of their file.
        load: from a model's name to an engine; None: :func:`xlm.load`.

    Raises:
        InputError: an unknown benchmark, setting or split, or a model whose labels are others.
        DataError: files that are missing, damaged, empty or carry unknown labels.
        MissingExtraError: baselines need scikit-learn.
    """
    started = time.monotonic()
    spec = benchmark(name)
    if setting not in SETTINGS:
        raise InputError(f"setting is {setting!r}: it must be one of {', '.join(SETTINGS)}")
    candidates = [str(models)] if isinstance(models, str | Path) else [str(one) for one in models]
    check(spec, candidates, setting, limit)
    found, split, notes = scored(spec, data, split, languages)
    several = len(candidates) > 1
    if several and split == "dev":
        raise InputError("several models: the dev split chooses among them, so it cannot be what is scored")
    judging, said_of = judges(spec, data, found) if several else ({}, [])
    notes += said_of + [note for one in candidates for note in leaks(one, found)]
    rivals = Rivals(spec, data, found, setting, train) if with_baselines else None
    examples = {code: read(place, spec, limit) for code, place in found.items()}
    dev_examples = {code: read(place, spec, limit) for code, place in judging.items()}
    engines = _Engines(load or load_engine)

    overall, own = candidates[0], dict[str, str]()
    if several:
        dev = {
            one: _scores(spec, one, engines, judging, dev_examples, setting, lang, progress, "dev ")
            for one in candidates
        }
        best = {code: max(candidates, key=lambda one: _main(dev[one][code][1])) for code in judging}
        overall = best[spec.source_language]
        own = {code: best.get(code, overall) for code in found}
    tested: dict[str, dict[str, tuple[Predictions, Measured]]] = {}
    for candidate in candidates:
        asked = {code: place for code, place in found.items() if candidate in (overall, own.get(code))}
        tested[candidate] = _scores(spec, candidate, engines, asked, examples, setting, lang, progress)
    beside = rivals.scores(examples, notes, progress) if rivals else {}

    results = []
    for code in found:
        said, measured = tested[overall][code]
        results.append(
            LanguageResult(
                code,
                measured.items,
                score_of(measured),
                overall.replace("{language}", code),
                {kind: score_of(one[code]) for kind, one in beside.items() if code in one},
                score_of(tested[own[code]][code][1]) if own else None,
                own.get(code),
                measured.details | said.extra,
                cases(spec, examples[code], said, measured),
                said.cut,
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
        {kind: average_of([one[code] for code in counted]) for kind, one in beside.items() if set(counted) <= set(one)},
        average_of([tested[own[code]][code][1] for code in counted]) if own else None,
        {f"by {spec.source_language} dev": overall, "by each language's dev": own} if own else {},
        (*notes, *cut_notes(results)),
        time.monotonic() - started,
    )


def load_engine(name: str) -> Any:
    """The engine of a folder or a name; ``bundled`` is the model in the package."""
    from xlm.inference.engine import load

    return load(name)


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
    lang: str | None,
    progress: Progress,
    prefix: str = "",
) -> dict[str, tuple[Predictions, Measured]]:
    results = {}
    for code, place in found.items():
        total = len(examples[code]) if not isinstance(examples[code], Corpus) else len(examples[code].texts)
        done = [0]

        def tell(count: int, done: list[int] = done, code: str = code, total: int = total) -> None:
            done[0] += count
            progress(f"{prefix}{code}", done[0], total)

        tell(0)
        engine = engines(candidate.replace("{language}", code))
        language = spec.source_language if setting == "translate-test" else place.language
        with speaking(engine, language, lang):
            said = predict(engine, spec, examples[code], tell)
        results[code] = said, measure(spec, examples[code], said, language)
    return results


def _main(found: Measured) -> float:
    return next(iter(found.scores.values()))


def cases(spec: Benchmark, examples: Any, said: Predictions, found: Measured) -> list[Case]:
    """Every example beside its prediction, for the pages of errors."""
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
