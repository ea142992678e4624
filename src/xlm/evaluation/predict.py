"""Examples -> what a model says of them, through the engine, and how that compares with what is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from xlm.data.corpora.languages import canonical
from xlm.errors import InputError
from xlm.evaluation.benchmarks import Benchmark
from xlm.evaluation.reading import Corpus
from xlm.tasks.classify import chosen_labels, labels_of
from xlm.tasks.examples import (
    ChoiceExample,
    PairExample,
    QuestionExample,
    RankedExample,
    TaggedExample,
    TextExample,
)
from xlm.tasks.metrics import answers, chunks, classes, mining, ranking
from xlm.tasks.metrics.measured import Measured

BATCH = 256
"""Examples that go to the engine at once: enough to sort by length, few enough to show progress."""
_SPANS = 20
"""Spans that an engine lets share a question's probability with "no answer"."""

Progress = Callable[[int], None]
_OTHERS: WeakKeyDictionary[Any, tuple[tuple[str, tuple[str, ...]], Any]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Predictions:
    """One prediction an example (a label, tags, a text, an index, a number), how sure the model was, if it says, and how many
    texts (of examples: how many of these) were longer than the model and cut."""

    values: list[Any]
    certainty: list[float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    cut: int = 0


def predict(engine: Any, benchmark: Benchmark, examples: Any, progress: Progress = lambda count: None) -> Predictions:
    """What the engine's model says.

    Raises:
        InputError: the model's labels are not the benchmark's.
    """
    return _PREDICTORS[benchmark.task](engine, benchmark, examples, progress)


@contextmanager
def speaking(engine: Any, language: str, otherwise: str | None = None) -> Iterator[None]:
    """The engine takes texts to be in ``language`` while this lasts; where it does not know that one, in ``otherwise``."""
    known = getattr(engine, "languages", ())
    if not known:
        yield
        return
    spelled = (language, canonical(language))  # deu_Latn is de
    before, engine.lang = engine.lang, next((one for one in spelled if one in known), otherwise)
    try:
        yield
    finally:
        engine.lang = before


def gold(benchmark: Benchmark, examples: Any) -> list[Any]:
    """What is right, in the form of a prediction; answers are lists of texts."""
    if benchmark.metric == "multilabel":
        return [sorted(labels_of(example, "multi")) for example in examples]
    return [_gold(example) for example in examples] if not isinstance(examples, Corpus) else list(examples.gold)


def _gold(example: Any) -> Any:
    if isinstance(example, TextExample | ChoiceExample):
        return example.label
    if isinstance(example, TaggedExample):
        return list(example.tags or ())
    if isinstance(example, QuestionExample):
        return [] if example.impossible else [answer.text for answer in example.answers]
    if isinstance(example, RankedExample):
        return list(example.gains)
    assert isinstance(example, PairExample)
    return example.score


def measure(benchmark: Benchmark, examples: Any, said: Predictions, language: str = "en") -> Measured:
    """The benchmark's metric of predictions; ``language`` is the texts' own, which MLQA's rules go by.

    Raises:
        InputError: predictions that do not stand beside the examples, or labels that are unknown.
    """
    right, values = gold(benchmark, examples), said.values
    if benchmark.metric == "mlqa":
        return answers.mlqa(right, values, language)
    if benchmark.metric == "squad_v2":
        # The share of certainty that there is no answer; the official threshold of 1 changes no answer.
        return answers.squad_v2(right, values, said.extra.get("no_answer"))
    if benchmark.metric in ("classes", "matthews"):
        labels = list(benchmark.labels) or sorted({*map(str, right), *map(str, values)})
        return getattr(classes, benchmark.metric)(right, values, labels)
    if benchmark.metric == "binary_f1":
        return classes.binary_f1([str(a) for a in right], [str(b) for b in values], "1")
    if benchmark.metric == "correlations":
        return classes.correlations([_number(a) for a in right], [float(b) for b in values])
    if benchmark.metric == "translation_accuracy":
        return classes.accuracy(list(range(len(values))), values)
    if benchmark.metric == "ranking":
        return ranking.ranking(said.extra["ranks"])
    if benchmark.metric == "mining_f1":
        return mining.mining_f1(set(examples.gold), set(values))
    functions: dict[str, Callable[[Any, Any], Measured]] = {
        "accuracy": classes.accuracy,
        "chunk_f1": chunks.chunk_f1,
        "tag_accuracy": chunks.tag_accuracy,
        "squad": answers.squad,
        "multilabel": classes.multilabel,
        "ranked_lists": ranking.ranked_lists,
    }
    return functions[benchmark.metric](right, values)


def _number(label: Any) -> float:
    try:
        return float(label)
    except (TypeError, ValueError) as error:
        raise InputError(f"gold: {label!r} is not a number, which correlations need") from error


def _batches(examples: Sequence[Any], progress: Progress) -> Any:
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        yield batch
        progress(len(batch))


def _classify(engine: Any, benchmark: Benchmark, examples: Sequence[TextExample], progress: Progress) -> Predictions:
    values: list[Any] = []
    certainty: list[float] = []
    cut = 0
    for batch in _batches(examples, progress):
        inputs = [(e.text, e.pair) if e.pair is not None else e.text for e in batch]
        for found in engine.classify(inputs, truncate=True):
            cut += found["truncated"]
            if benchmark.metric == "multilabel":
                values.append(sorted(chosen_labels(found["labels"])))
            elif "value" in found:
                values.append(float(found["value"]))
            else:
                values.append(found["labels"][0]["label"])
                certainty.append(found["labels"][0]["probability"])
    if benchmark.metric == "correlations":
        if certainty:
            raise InputError(
                f"the model gives classes, not a value: {benchmark.name} needs a model fine-tuned on values"
            )
        return Predictions(values, cut=cut)
    several = benchmark.metric == "multilabel"
    if not certainty and not several:
        raise InputError(f"the model gives a value, not a class: {benchmark.name} needs a model fine-tuned on classes")
    problem = "multi" if several else "single"
    wanted = list(benchmark.labels) or sorted({label for one in examples for label in labels_of(one, problem)})
    spelled = {label.casefold(): label for label in wanted} | {a.casefold(): b for a, b in benchmark.aliases.items()}
    own = [found["label"] for found in engine.classify([_probe(examples[0])], truncate=True)[0]["labels"]]
    missing = set(wanted) - {spelled.get(str(label).casefold(), label) for label in own}
    if missing:
        raise InputError(
            f"the model's labels are {', '.join(map(str, own))}: {benchmark.name} has {', '.join(wanted)}; it needs a model "
            "fine-tuned on these"
        )
    if several:
        return Predictions(values, cut=cut)
    return Predictions([spelled.get(str(value).casefold(), value) for value in values], certainty, cut=cut)


def _probe(example: TextExample) -> Any:
    return (example.text, example.pair) if example.pair is not None else example.text


def _tag(engine: Any, benchmark: Benchmark, examples: Sequence[TaggedExample], progress: Progress) -> Predictions:
    values = [
        list(tags)
        for batch in _batches(examples, progress)
        for tags in engine.tag_words([list(example.words) for example in batch])
    ]
    return Predictions(values)


def _answer(engine: Any, benchmark: Benchmark, examples: Sequence[QuestionExample], progress: Progress) -> Predictions:
    unanswerable = benchmark.metric == "squad_v2"
    values, certainty, doubt = [], [], []
    for batch in _batches(examples, progress):
        questions, contexts = [e.question for e in batch], [e.context for e in batch]
        for found in engine.answer(questions, contexts, unanswerable=unanswerable, top_k=_SPANS if unanswerable else 1):
            best = found["answers"][0] if found["answers"] else {"text": "", "probability": 0.0}
            values.append(best["text"])
            certainty.append(best["probability"])
            none = [one["probability"] for one in found["answers"] if not one["text"]]
            # "No answer" behind all the spans has what these leave.
            doubt.append(none[0] if none else max(1 - sum(one["probability"] for one in found["answers"]), 0.0))
    return Predictions(values, certainty, {"no_answer": doubt} if unanswerable else {})


def _choose(engine: Any, benchmark: Benchmark, examples: Sequence[ChoiceExample], progress: Progress) -> Predictions:
    values, certainty, cut = [], [], 0
    for batch in _batches(examples, progress):
        prompts, choices = [e.prompt for e in batch], [list(e.choices) for e in batch]
        questions = [e.question for e in batch] if all(e.question is not None for e in batch) else None
        for found in engine.choose(prompts, choices, questions=questions, truncate=True):
            cut += found["truncated"]
            values.append(found["best"])
            certainty.append(max(found["probabilities"]))
    return Predictions(values, certainty, cut=cut)


def _embed(engine: Any, texts: Sequence[str], progress: Progress = lambda count: None) -> tuple[Any, set[int]]:
    """Vectors, and the indices of the texts that were cut for them."""
    parts, cut = [], set[int]()
    for number, batch in enumerate(_batches(texts, progress)):
        parts.append(engine.embed(list(batch), truncate=True))
        cut |= {number * BATCH + index for index in engine.truncated(list(batch))}
    return np.concatenate(parts), cut


def _retrieve(engine: Any, benchmark: Benchmark, examples: Sequence[PairExample], progress: Progress) -> Predictions:
    here, cut = _embed(engine, [example.text for example in examples], progress)
    there, cut_there = _others(engine, benchmark.source_language, tuple(example.other for example in examples))
    cut |= cut_there
    if benchmark.metric == "ranking":
        return near_partners(lambda start, end: here[start:end] @ there.T, examples, len(cut))
    found = mining.nearest(here, there)
    sure = (here * there[found]).sum(1)
    return Predictions(found.tolist(), sure.tolist(), cut=len(cut))


def near_partners(similar: Callable[[int, int], Any], examples: Sequence[PairExample], cut: int = 0) -> Predictions:
    """The nearest partner of every text, and where its own stands; ``similar(start, end)`` are rows of similarities."""
    ranks, found = ranking.partner_ranks(similar, [example.other for example in examples])
    return Predictions(found.tolist(), None, {"ranks": ranks.tolist()}, cut)


def _others(engine: Any, language: str, texts: tuple[str, ...]) -> tuple[Any, set[int]]:
    """What :func:`_embed` gives for the other side (English) in its own language, kept while the engine lives and the next
    languages have the same sentences."""
    kept = _OTHERS.get(engine)
    if kept is None or kept[0] != (language, texts):
        with speaking(engine, language):
            kept = _OTHERS[engine] = ((language, texts), _embed(engine, texts))
    return kept[1]


def _mine(engine: Any, benchmark: Benchmark, corpus: Corpus, progress: Progress) -> Predictions:
    here, cut = _embed(engine, corpus.texts, progress)
    with speaking(engine, benchmark.source_language):
        there, cut_there = _embed(engine, corpus.others)
    return replace(mined(corpus, mining.mine(here, there)), cut=len(cut) + len(cut_there))


def mined(corpus: Corpus, pairs: Sequence[tuple[int, int, float]]) -> Predictions:
    """Candidates -> the pairs above the threshold that is best for the gold pairs, as BUCC's training part is scored."""
    scored = {(corpus.ids[i], corpus.other_ids[j]): score for i, j, score in pairs if score > 0}
    threshold = mining.best_threshold(scored, corpus.gold)
    kept = [pair for pair, score in scored.items() if score >= threshold]
    return Predictions(kept, [scored[pair] for pair in kept], {"threshold": threshold})


def _similar(engine: Any, benchmark: Benchmark, examples: Sequence[PairExample], progress: Progress) -> Predictions:
    here, cut = _embed(engine, [example.text for example in examples], progress)
    there, cut_there = _embed(engine, [example.other for example in examples])
    return Predictions((here * there).sum(1).tolist(), cut=len(cut | cut_there))


def _rerank(engine: Any, benchmark: Benchmark, examples: Sequence[RankedExample], progress: Progress) -> Predictions:
    values, cut = [], 0
    for example in examples:
        found = engine.rerank(example.query, list(example.documents), truncate=True)
        cut += any(one["truncated"] for one in found)
        values.append([one["score"] for one in sorted(found, key=lambda one: one["index"])])
        progress(1)
    return Predictions(values, cut=cut)


_PREDICTORS: dict[str, Callable[[Any, Benchmark, Any, Progress], Predictions]] = {
    "classify": _classify,
    "tag": _tag,
    "answer": _answer,
    "choose": _choose,
    "retrieve": _retrieve,
    "mine": _mine,
    "similar": _similar,
    "rerank": _rerank,
}
