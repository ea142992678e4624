"""A fine-tuned model on test files of the user's own: the scores, baselines and pages that benchmarks have, by language."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xlm.data.examples import read_examples
from xlm.errors import DataError, InputError
from xlm.evaluation import baselines
from xlm.evaluation.benchmarks import Benchmark
from xlm.evaluation.predict import measure, predict, speaking
from xlm.evaluation.results import LanguageResult, Outcome, average_of, score_of
from xlm.evaluation.run import Loader, Progress, cases, load_engine
from xlm.tasks.examples import TextExample, is_bio
from xlm.tasks.metrics.measured import Measured

TASKS = ("classify", "tag", "answer", "choose")
OWN: Any = "own files"
"""What an outcome says in place of a benchmark's setting."""


def evaluate_files(
    model: str | Path,
    files: str | Path | Sequence[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    train: Sequence[str | Path] | None = None,
    limit: int | None = None,
    load: Loader | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Outcome:
    """Score a model on labelled files, every language by itself; an average of several languages is that of their scores.

    Classes have accuracy and macro-F1, values correlations, spans conlleval's F1, other tags accuracy, answers SQuAD's scores
    (of 2.0 where a question has none), choices accuracy, all in percent.

    Args:
        model: what ``xlm finetune`` wrote; its head says what the files are read as.
        files: as of ``xlm finetune``, ``{language}`` in a name included.
        columns: field -> column, where names are unusual.
        train: what the model learnt from, for the baselines; None: no baselines.
        limit: at most so many examples of each file.

    Raises:
        InputError: the model has no head for such files, or other labels.
        DataError: a file cannot be used, has bad rows, or holds no example.
        MissingExtraError: baselines need scikit-learn.
    """
    started = time.monotonic()
    paths = [str(files)] if isinstance(files, str | Path) else [str(one) for one in files]
    engine = (load or load_engine)(str(model))
    task = next((one for one in TASKS if one in engine.tasks), None)
    if task is None:
        raise InputError(f"{model}: its head is for {', '.join(engine.tasks)}: files are scored for {', '.join(TASKS)}")
    bio: Any = "repair" if task == "tag" else "keep"
    loaded = read_examples(paths, task, columns=columns, format=format, limit=limit, bio=bio)
    by_language: dict[str, list[Any]] = {}
    none = "und" if any(example.language for example in loaded.examples) else "all"
    for example in loaded.examples:  # pages are named by the language
        by_language.setdefault(re.sub(r"[^\w-]+", "_", example.language or none), []).append(example)
    title = ", ".join(Path(path).name for path in paths)
    first = next(iter(by_language))
    spec = Benchmark(title, title, task, _metric(task, loaded.examples), "", (), source_language=first)  # type: ignore[arg-type]
    rivals = _rivals(spec, task, train, columns, format)
    beside: dict[str, dict[str, Measured]] = {kind: {} for kind in rivals}
    found: dict[str, Measured] = {}
    results = []
    for code, examples in by_language.items():
        done = [0]

        def tell(count: int, done: list[int] = done, code: str = code, total: int = len(examples)) -> None:
            done[0] += count
            progress(code, done[0], total)

        with speaking(engine, code):
            said = predict(engine, spec, examples, tell)
        found[code] = measure(spec, examples, said, code)
        for kind, rival in rivals.items():
            beside[kind][code] = measure(spec, examples, rival(examples), code)
        scores = {kind: score_of(of[code]) for kind, of in beside.items()}
        shown = cases(spec, examples, said, found[code])
        results.append(
            LanguageResult(
                code, len(examples), score_of(found[code]), str(model), scores, None, None, found[code].details, shown
            )
        )
    averages = {kind: average_of(list(of.values())) for kind, of in beside.items()}
    notes = (*loaded.notes, *([] if train else ["no baselines: name with train what the model learnt from"]))
    average = average_of(list(found.values()))
    took = time.monotonic() - started
    return Outcome(spec, OWN, "test", (str(model),), tuple(results), average, averages, notes=notes, seconds=took)


def _metric(task: str, examples: Sequence[Any]) -> str:
    if task == "classify":
        if any(isinstance(example.label, tuple) for example in examples):
            raise InputError("the files give several labels a text: xlm finetune scores those, with its eval")
        return "correlations" if any(isinstance(example.label, float) for example in examples) else "classes"
    if task == "tag":
        return (
            "chunk_f1"
            if all(is_bio(example.tags) or set(example.tags) == {"O"} for example in examples)
            else "tag_accuracy"
        )
    if task == "answer":
        return "squad_v2" if any(example.impossible for example in examples) else "squad"
    return "accuracy"


def _rivals(
    spec: Benchmark,
    task: str,
    train: Sequence[str | Path] | None,
    columns: Mapping[str, str] | None,
    format: str | None,
) -> dict[str, Any]:
    if not train:
        return {}
    learnt = read_examples(list(train), task, columns=columns, format=format, bio="repair", max_bad=0.01).examples
    values = any(isinstance(one.label, float) for one in learnt if isinstance(one, TextExample))
    if task == "classify" and values != (spec.metric == "correlations"):
        raise DataError(
            "train has values and the test files classes, or the other way: their labels must be of one kind"
        )
    fitted = baselines.fit(spec, learnt)
    return {kind: one for kind in ("majority", "tfidf") if (one := getattr(fitted, kind)) is not None}
