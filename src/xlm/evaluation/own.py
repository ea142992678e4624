"""A fine-tuned model on test files of the user's own: the scores, baselines and pages that benchmarks have, by language."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xlm.data.examples import read_examples
from xlm.errors import DataError, InputError
from xlm.evaluation import baselines
from xlm.evaluation.benchmarks import Benchmark
from xlm.evaluation.predict import measure, predict, speaking
from xlm.evaluation.results import LanguageResult, Outcome, average_of, cut_notes, score_of
from xlm.evaluation.run import Loader, Progress, cases, load_engine
from xlm.tasks.classify import Classify
from xlm.tasks.examples import TextExample, is_bio
from xlm.tasks.metrics.measured import Measured
from xlm.tasks.metrics.ranking import judged
from xlm.tasks.rerank import lists_of

TASKS = ("classify", "tag", "answer", "choose", "rerank", "embed")
OWN: Any = "own files"
"""What an outcome says in place of a benchmark's setting."""


def evaluate_files(
    model: str | Path,
    files: str | Path | Sequence[str | Path],
    *,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    train: Sequence[str | Path] | None = None,
    limit: int | None = None,
    lang: str | None = None,
    load: Loader | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Outcome:
    """Score a model on labelled files, every language by itself; an average of several languages is that of their scores.

    Classes have accuracy and macro-F1, sets of classes micro-F1, macro-F1 and the share that is wholly right, values
    correlations, spans conlleval's F1, other tags accuracy, answers SQuAD's scores (of 2.0 where a question has none), choices
    accuracy. Vectors of pairs with scores have the correlations of their cosines, those of pairs without the accuracy with
    which each text finds its partner among all, documents ranked for queries MRR and nDCG. All are in percent.

    Args:
        model: what ``xlm finetune`` wrote; its head says what the files are read as.
        files: as of ``xlm finetune``, ``{language}`` in a name included; scores of pairs may be of any scale for ``embed``.
        task: one of `TASKS`, where the head leaves it open. None: a head with one output and no word of what it is ranks
            documents, one of a regression gives values; a model without a head gives vectors.
        columns: field -> column, where names are unusual.
        train: what the model learnt from, for the baselines that learn; None: none of these.
        limit: at most so many examples of each file.
        lang: what a model of XLM takes texts to be in where it does not know the language of their examples.

    Raises:
        InputError: an unknown task, or a model that has no head for such files, or other labels.
        DataError: a file cannot be used, has bad rows, or holds no example.
        MissingExtraError: baselines need scikit-learn.
    """
    started = time.monotonic()
    paths = [str(files)] if isinstance(files, str | Path) else [str(one) for one in files]
    engine = (load or load_engine)(str(model))
    task = task_of(engine, str(model), task)
    bio: Any = "repair" if task == "tag" else "keep"
    loaded = read_examples(
        paths, task, columns=columns, format=format, limit=limit, bio=bio, unit_scores=task != "embed"
    )
    title = ", ".join(Path(path).name for path in paths)
    asks, metric = _asked(engine, task, loaded.examples)
    by_language, left_out = _by_language(loaded.examples, asks, metric)
    first = next(iter(by_language))
    spec = Benchmark(title, title, asks, metric, "", (), source_language=first)  # type: ignore[arg-type]
    rivals, without = _rivals(spec, task, train, columns, format)
    beside: dict[str, dict[str, Measured]] = {kind: {} for kind in rivals}
    found: dict[str, Measured] = {}
    results = []
    for code, examples in by_language.items():
        done = [0]

        def tell(count: int, done: list[int] = done, code: str = code, total: int = len(examples)) -> None:
            done[0] += count
            progress(code, done[0], total)

        with speaking(engine, code, lang):
            said = predict(engine, spec, examples, tell)
        found[code] = measure(spec, examples, said, code)
        for kind, rival in rivals.items():
            beside[kind][code] = measure(spec, examples, rival(examples), code)
        scores = {kind: score_of(of[code]) for kind, of in beside.items()}
        shown, details = cases(spec, examples, said, found[code]), found[code].details
        score, name = score_of(found[code]), str(model)
        results.append(LanguageResult(code, len(examples), score, name, scores, None, None, details, shown, said.cut))
    averages = {kind: average_of(list(of.values())) for kind, of in beside.items()}
    notes = (*loaded.notes, *left_out, *without, *cut_notes(results))
    average = average_of(list(found.values()))
    took = time.monotonic() - started
    return Outcome(spec, OWN, "test", (str(model),), tuple(results), average, averages, notes=notes, seconds=took)


def task_of(engine: Any, model: str, asked: str | None) -> str:
    """What files are read as: what was asked for, else what the model's head is for.

    Raises:
        InputError: an unknown task, or one that the model cannot be asked.
    """
    if asked is not None and asked not in TASKS:
        raise InputError(f"task is {asked!r}: it must be one of {', '.join(TASKS)}")
    can = [one for one in TASKS if one in engine.tasks]
    if asked is not None and asked not in can:
        raise InputError(f"{model}: its head is for {', '.join(engine.tasks)}: it cannot be asked to {asked}")
    if not can:
        raise InputError(f"{model}: its head is for {', '.join(engine.tasks)}: files are scored for {', '.join(TASKS)}")
    if asked is None and "rerank" in can:
        config = engine.model.config
        return "rerank" if config.num_labels == 1 and config.problem_type is None else "classify"
    return asked or can[0]


def _asked(engine: Any, task: str, examples: Sequence[Any]) -> tuple[str, str]:
    """What a benchmark of such examples asks, and its metric."""
    if task == "classify":
        problem = Classify.from_config(engine.model.config).problem
        if problem != "multi" and any(isinstance(example.label, tuple) for example in examples):
            raise InputError("the files give several labels a text: the model gives one (its problem_type says so)")
        if problem == "multi":
            return task, "multilabel"
        return task, "correlations" if any(isinstance(example.label, float) for example in examples) else "classes"
    if task == "tag":
        spans = all(is_bio(example.tags) or set(example.tags) == {"O"} for example in examples)
        return task, "chunk_f1" if spans else "tag_accuracy"
    if task == "answer":
        return task, "squad_v2" if any(example.impossible for example in examples) else "squad"
    if task == "rerank":
        return task, "ranked_lists"
    if task == "embed":
        scored = [example.score is not None for example in examples]
        if all(example.score in (None, 1.0) for example in examples):
            return "retrieve", "ranking"
        if not all(scored):
            raise DataError(
                f"{scored.count(False):,} of {len(scored):,} pairs have no score: give all of them one, or none"
            )
        return "similar", "correlations"
    return task, "accuracy"


def _by_language(examples: Sequence[Any], asks: str, metric: str) -> tuple[dict[str, list[Any]], list[str]]:
    """Examples by language, as they are scored, and a note of those that cannot be."""
    found: dict[str, list[Any]] = {}
    none = "und" if any(example.language for example in examples) else "all"
    for example in examples:  # pages are named by the language
        found.setdefault(re.sub(r"[^\w-]+", "_", example.language or none), []).append(example)
    if metric == "ranking":
        return {code: [replace(one, score=None) for one in of] for code, of in found.items()}, []
    if asks != "rerank":
        return found, []
    lists = {code: lists_of(of) for code, of in found.items()}
    kept = {code: [one for one in of if judged(one.gains)] for code, of in lists.items()}
    total, left = sum(map(len, lists.values())), sum(map(len, kept.values()))
    if not left:
        raise DataError(f"none of {total:,} queries has both right documents and others: there is no order to score")
    notes = [f"{total - left:,} of {total:,} queries have no right document, or no other: they are not counted"]
    return {code: of for code, of in kept.items() if of}, notes if left < total else []


def _rivals(
    spec: Benchmark,
    task: str,
    train: Sequence[str | Path] | None,
    columns: Mapping[str, str] | None,
    format: str | None,
) -> tuple[dict[str, Any], list[str]]:
    """Baselines by kind, and a note where there are none."""
    learns = task not in ("embed", "rerank")
    if not train and learns:
        return {}, ["no baselines: name with train what the model learnt from"]
    if not learns and find_spec("sklearn") is None:
        return {}, ["no baselines: they need scikit-learn (pip install 'xlm[eval]')"]
    learnt = []
    if learns and train:
        learnt = read_examples(list(train), task, columns=columns, format=format, bio="repair", max_bad=0.01).examples
    values = any(isinstance(one.label, float) for one in learnt if isinstance(one, TextExample))
    if task == "classify" and values != (spec.metric == "correlations"):
        raise DataError(
            "train has values and the test files classes, or the other way: their labels must be of one kind"
        )
    fitted = baselines.fit(spec, learnt)
    found = {kind: one for kind in ("majority", "tfidf") if (one := getattr(fitted, kind)) is not None}
    return found, []
