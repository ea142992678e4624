"""What a result must beat: the majority, and TF-IDF with logistic regression, both from the same training examples.

A baseline is fitted on what the model was fine-tuned on, so that zero-shot stands beside zero-shot. Each task's features:

- classify: character n-grams (1 to 4) of the text; for a pair of both sides, with what they share and how alike they are.
- tag: character n-grams of the word, of its neighbours, and its shape.
- choose: every choice beside its prompt as a pair; the likeliest choice wins.
- answer: every run of up to six words of the context, by how much its surroundings share with the question, its length and
  shape; the likeliest run wins. The "majority" is the first words of the context, as many as answers usually have.
- retrieve, mine, similar, rerank: nothing is learnt: the cosine of TF-IDF vectors of character n-grams; chance is one in n.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from xlm.errors import DataError, MissingExtraError
from xlm.evaluation.benchmarks import Benchmark
from xlm.evaluation.predict import Predictions, mined, near_partners
from xlm.tasks.classify import labels_of
from xlm.tasks.examples import (
    ChoiceExample,
    PairExample,
    QuestionExample,
    RankedExample,
    TaggedExample,
    TextExample,
)
from xlm.tasks.metrics import mining

MOST = 4000
"""Training examples (sentences, questions) that a baseline learns from, at most: evenly taken from all files."""


@dataclass(frozen=True)
class Baselines:
    """``majority`` and ``tfidf``: examples to predictions, or None where the benchmark has no such thing."""

    majority: Callable[[Any], Predictions] | None
    tfidf: Callable[[Any], Predictions] | None


def check() -> None:
    """Raise MissingExtraError where scikit-learn is not installed."""
    if find_spec("sklearn") is None:
        raise MissingExtraError("baselines", "scikit-learn", "eval")


def fit(benchmark: Benchmark, train: Sequence[Any]) -> Baselines:
    """Baselines that learnt from ``train``; where that is empty, those that need no learning.

    Raises:
        DataError: a label that is no number where the benchmark asks for numbers.
        MissingExtraError: scikit-learn is not installed.
    """
    check()
    if benchmark.metric == "ranking":
        return Baselines(None, _partners)
    if benchmark.task in _ALIKE:
        return Baselines(None, _ALIKE[benchmark.task])
    if not train:
        return Baselines(None, None)
    kept = evenly(train, MOST)
    if benchmark.metric == "correlations":
        return Baselines(None, _regress(kept))
    if benchmark.metric == "multilabel":
        return _fit_sets(kept)
    return _FIT[benchmark.task](kept)


def evenly(train: Sequence[Any], most: int) -> list[Any]:
    """At most so many examples, from the whole of ``train``, so that no language at its end is left out."""
    if len(train) <= most:
        return list(train)
    return [train[at * len(train) // most] for at in range(most)]


# -- classes ---------------------------------------------------------------------------------------------------------------


def _grams(analyzer: str = "char_wb", most: int = 4) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer=analyzer, ngram_range=(1, most), sublinear_tf=True, max_features=20_000)  # type: ignore[arg-type]


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=100, tol=1e-3)


class _Pairs:
    """Features of texts and pairs of texts."""

    def __init__(self, texts: Sequence[tuple[str, str | None]]) -> None:
        self.grams = _grams()
        self.grams.fit([side for pair in texts for side in pair if side is not None])

    def __call__(self, texts: Sequence[tuple[str, str | None]]) -> Any:
        from scipy.sparse import csr_matrix, hstack

        left = self.grams.transform([text for text, _ in texts])
        if all(pair is None for _, pair in texts):
            return left
        right = self.grams.transform([pair or "" for _, pair in texts])
        both = left.multiply(right)
        alike = np.asarray(both.sum(1)).reshape(-1, 1)
        words = [(set(a.split()), set((b or "").split())) for a, b in texts]
        overlap = [[len(a & b) / max(len(a), 1), len(a & b) / max(len(b), 1), len(a) - len(b)] for a, b in words]
        return hstack([left, right, both, abs(left - right), csr_matrix(alike), csr_matrix(np.array(overlap))]).tocsr()


def _fit_classes(train: Sequence[TextExample]) -> Baselines:
    labels = [example.label for example in train]
    most = Counter(labels).most_common(1)[0][0]
    majority = lambda examples: Predictions([most] * len(examples))  # noqa: E731
    if len(set(labels)) < 2:
        return Baselines(majority, None)
    features = _Pairs([(e.text, e.pair) for e in train])
    model = _quietly(_regression(), features([(e.text, e.pair) for e in train]), labels)
    return Baselines(
        majority, lambda examples: Predictions(list(model.predict(features([(e.text, e.pair) for e in examples]))))
    )


def _fit_sets(train: Sequence[TextExample]) -> Baselines:
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    sets = [tuple(sorted(labels_of(example, "multi"))) for example in train]
    most = list(Counter(sets).most_common(1)[0][0])
    features, binary = _Pairs([(e.text, e.pair) for e in train]), MultiLabelBinarizer()
    model = _quietly(
        OneVsRestClassifier(_regression()), features([(e.text, e.pair) for e in train]), binary.fit_transform(sets)
    )

    def tfidf(examples: Sequence[TextExample]) -> Predictions:
        found: Any = binary.inverse_transform(model.predict(features([(e.text, e.pair) for e in examples])))
        return Predictions([list(one) for one in found])

    return Baselines(lambda examples: Predictions([most] * len(examples)), tfidf)


def _regress(train: Sequence[TextExample]) -> Callable[[Any], Predictions]:
    from sklearn.linear_model import Ridge

    try:
        values = [float(str(e.label)) for e in train]
    except ValueError as error:
        raise DataError(f"a training label is no number: {error}") from error
    features = _Pairs([(e.text, e.pair) for e in train])
    model = Ridge().fit(features([(e.text, e.pair) for e in train]), values)
    return lambda examples: Predictions(model.predict(features([(e.text, e.pair) for e in examples])).tolist())


def _quietly(model: Any, features: Any, labels: Any) -> Any:
    """Fit without the warning that more iterations would change the last digits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(features, labels)


# -- tags ------------------------------------------------------------------------------------------------------------------


def _shape(word: str) -> str:
    return re.sub(
        r"(.)\1+",
        r"\1",
        "".join("0" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in word),
    )


def _cues(words: Sequence[str], at: int) -> dict[str, float]:
    word = words[at]
    found = {f"w={word.lower()}": 1.0, f"s={_shape(word)}": 1.0, "first": float(at == 0)}
    for size in range(1, 5):
        found[f"p={word[:size]}"] = found[f"e={word[-size:]}"] = 1.0
    for step, name in ((-1, "before"), (1, "after")):
        near = words[at + step] if 0 <= at + step < len(words) else "<>"
        found |= {f"{name}={near.lower()}": 1.0, f"{name} s={_shape(near)}": 1.0, f"{name} e={near[-3:]}": 1.0}
    return found


def _fit_tags(train: Sequence[TaggedExample]) -> Baselines:
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import SGDClassifier

    known: dict[str, Counter[str]] = {}
    for example in train:
        for word, tag in zip(example.words, example.tags or (), strict=True):
            known.setdefault(word, Counter())[tag] += 1
    usual = Counter(tag for counts in known.values() for tag in counts.elements()).most_common(1)[0][0]
    table = {word: counts.most_common(1)[0][0] for word, counts in known.items()}

    def majority(examples: Sequence[TaggedExample]) -> Predictions:
        return Predictions([[table.get(word, usual) for word in e.words] for e in examples])

    hasher = FeatureHasher(2**18)

    def features(examples: Sequence[TaggedExample]) -> Any:
        return hasher.transform(_cues(e.words, at) for e in examples for at in range(len(e.words)))

    # Logistic regression by stochastic steps: the same model, in seconds where the exact solver takes minutes.
    model: Any = SGDClassifier(loss="log_loss", alpha=1e-6, max_iter=10, tol=None, average=True, random_state=0)  # type: ignore[arg-type]
    model.fit(features(train), [tag for e in train for tag in e.tags or ()])

    def tfidf(examples: Sequence[TaggedExample]) -> Predictions:
        flat = iter(model.predict(features(examples)).tolist())
        return Predictions([[next(flat) for _ in e.words] for e in examples])

    return Baselines(majority, tfidf)


# -- choices ---------------------------------------------------------------------------------------------------------------


def _fit_choices(train: Sequence[ChoiceExample]) -> Baselines:
    most = Counter(example.label for example in train).most_common(1)[0][0]
    pairs = [(f"{e.prompt} {e.question or ''}", choice) for e in train for choice in e.choices]
    labels = [at == e.label for e in train for at in range(len(e.choices))]
    features = _Pairs(pairs)
    model = _quietly(_regression(), features(pairs), labels)

    def tfidf(examples: Sequence[ChoiceExample]) -> Predictions:
        flat = [(f"{e.prompt} {e.question or ''}", choice) for e in examples for choice in e.choices]
        scores = iter(model.decision_function(features(flat)).tolist())
        return Predictions([int(np.argmax([next(scores) for _ in e.choices])) for e in examples])

    return Baselines(lambda examples: Predictions([most] * len(examples)), tfidf)


# -- answers ---------------------------------------------------------------------------------------------------------------

_WORDS = re.compile(r"[\u4e00-\u9fff\u3040-\u30ff]|[\w’'-]+")
_LONGEST, _AROUND = 6, 8


def _runs(example: QuestionExample) -> tuple[list[tuple[int, int]], Any]:
    """The runs of words (start, end in characters) and what speaks for each."""
    spans = [found.span() for found in _WORDS.finditer(example.context)][:400]
    words = [example.context[a:b].lower() for a, b in spans]
    asked = set(_WORDS.findall(example.question.lower()))
    # Rarer words of the context say more about where the answer stands.
    weight = {word: 1 / np.sqrt(count) for word, count in Counter(words).items()}
    hits = np.array([weight[word] if word in asked else 0.0 for word in words])
    total = np.concatenate([[0.0], np.cumsum(hits)])
    runs, rows = [], []
    for first in range(len(spans)):
        for last in range(first + 1, min(first + _LONGEST, len(spans)) + 1):
            if any(char in "。.!?؟।\n" for char in example.context[spans[first][0] : spans[last - 1][1]]):
                break
            text = example.context[spans[first][0] : spans[last - 1][1]]
            near = total[min(last + _AROUND, len(spans))] - total[max(first - _AROUND, 0)]
            size = [float(last - first == n) for n in range(1, _LONGEST + 1)]
            rows.append(
                [
                    near - (total[last] - total[first]),
                    total[last] - total[first],
                    float(any(c.isdigit() for c in text)),
                    float(text[:1].isupper()),
                    float(first == 0),
                    len(text) / 20,
                    *size,
                ]
            )
            runs.append((spans[first][0], spans[last - 1][1]))
    return runs, np.array(rows).reshape(len(rows), 6 + _LONGEST)


def _fit_answers(train: Sequence[QuestionExample]) -> Baselines:
    rng = np.random.default_rng(0)
    rows, labels, sizes = [], [], []
    for example in evenly(train, 800):
        if not example.answers:
            continue
        gold = example.answers[0]
        sizes.append(len(_WORDS.findall(gold.text)))
        runs, found = _runs(example)
        right = [at for at, (a, b) in enumerate(runs) if a == gold.start and b == gold.start + len(gold.text)]
        others = rng.choice(len(runs), size=min(40, len(runs)), replace=False).tolist() if runs else []
        for at in [*right, *(one for one in others if one not in right)]:
            rows.append(found[at])
            labels.append(at in right)
    count = int(np.median(sizes)) if sizes else 3

    def majority(examples: Sequence[QuestionExample]) -> Predictions:
        firsts = [[found.span() for found in _WORDS.finditer(e.context)][:count] for e in examples]
        return Predictions([e.context[f[0][0] : f[-1][1]] if f else "" for e, f in zip(examples, firsts, strict=True)])

    if len(set(labels)) < 2:
        return Baselines(majority, None)
    model = _quietly(_regression(), np.array(rows), labels)

    def tfidf(examples: Sequence[QuestionExample]) -> Predictions:
        values = []
        for example in examples:
            runs, found = _runs(example)
            start, end = runs[int(model.decision_function(found).argmax())] if runs else (0, 0)
            values.append(example.context[start:end])
        return Predictions(values)

    return Baselines(majority, tfidf)


# -- likeness --------------------------------------------------------------------------------------------------------------


def _vectors(texts: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
    grams = _grams().fit([*texts, *others])
    return grams.transform(texts), grams.transform(others)


def _retrieve(examples: Sequence[Any]) -> Predictions:
    here, there = _vectors([e.text for e in examples], [e.other for e in examples])
    return Predictions([int(np.asarray(row.todense()).argmax()) for row in here @ there.T])


def _similar(examples: Sequence[Any]) -> Predictions:
    here, there = _vectors([e.text for e in examples], [e.other for e in examples])
    return Predictions(np.asarray(here.multiply(there).sum(1)).ravel().tolist())


def _partners(examples: Sequence[PairExample]) -> Predictions:
    here, there = _vectors([e.text for e in examples], [e.other for e in examples])
    return near_partners(lambda start, end: (here[start:end] @ there.T).toarray(), examples)


def _rerank(examples: Sequence[RankedExample]) -> Predictions:
    grams = _grams().fit([text for e in examples for text in (e.query, *e.documents)])
    queries = grams.transform([e.query for e in examples])
    return Predictions(
        [(grams.transform(e.documents) @ queries[at].T).toarray()[:, 0].tolist() for at, e in enumerate(examples)]
    )


def _mine(corpus: Any) -> Predictions:
    from sklearn.decomposition import TruncatedSVD

    here, there = _vectors(corpus.texts, corpus.others)
    size = min(256, here.shape[1] - 1, here.shape[0] - 1)
    flat = TruncatedSVD(size, random_state=0).fit(here)
    return mined(corpus, mining.mine(flat.transform(here).astype(np.float32), flat.transform(there).astype(np.float32)))


_ALIKE: dict[str, Callable[[Any], Predictions]] = {
    "retrieve": _retrieve,
    "similar": _similar,
    "mine": _mine,
    "rerank": _rerank,
}
_FIT: dict[str, Callable[[Any], Baselines]] = {
    "classify": _fit_classes,
    "tag": _fit_tags,
    "choose": _fit_choices,
    "answer": _fit_answers,
}
