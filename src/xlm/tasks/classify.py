"""Classes or values of texts and pairs of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from xlm.errors import InputError
from xlm.tasks.base import Features, Item, Scores, Task, bare, joined, need_finite, sigmoid, softmax
from xlm.tasks.examples import TextExample

Problem = Literal["single", "multi", "regression"]
# What configs call them.
PROBLEM_TYPES: dict[Problem, str] = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
_MULTI_THRESHOLD = 0.5
_SCORES: Mapping[Problem, tuple[str, ...]] = {
    "single": ("accuracy", "macro_f1", "mcc"),
    "multi": ("micro_f1", "macro_f1", "exact"),
    "regression": ("spearman", "pearson", "mse"),
}


@dataclass(frozen=True)
class Classify(Task):
    """``single``: one of ``labels``; ``multi``: any number of them; ``regression``: a value, no labels."""

    labels: tuple[str, ...] = ()
    problem: Problem = "single"

    name: ClassVar[str] = "classify"
    head: ClassVar[str] = "ForSequenceClassification"

    @property
    def metric(self) -> str:  # type: ignore[override]
        return self.scores[0]

    @property
    def scores(self) -> tuple[str, ...]:  # type: ignore[override]
        return _SCORES[self.problem]

    @classmethod
    def of(
        cls, examples: Sequence[TextExample], labels: Sequence[str] | None = None, problem: Problem | None = None
    ) -> Classify:
        """The task that labelled examples describe: floats are values, tuples several classes, texts one class.

        Raises:
            InputError: examples without labels, of mixed kinds, or with fewer than two classes.
        """
        kinds: set[Problem | None] = {problem_of(example.label) for example in examples}
        if problem is None:
            if len(kinds) != 1 or None in kinds:
                found = ", ".join(sorted(str(kind or "no label") for kind in kinds))
                raise InputError(f"labels of the examples are of mixed kinds ({found}): say problem=...")
            problem = next(iter(kinds))
        assert problem is not None
        if problem == "regression":
            return cls((), problem)
        found = sorted({label for example in examples for label in labels_of(example, problem)}, key=_natural)
        chosen = tuple(labels) if labels else tuple(found)
        if len(chosen) < 2:
            raise InputError(f"labels are {list(chosen)}: a classifier needs at least two classes")
        return cls(chosen, problem)

    @classmethod
    def from_config(cls, config: Any) -> Classify:
        """The task of a trained classifier, as its config describes it."""
        kinds: dict[str, Problem] = {theirs: ours for ours, theirs in PROBLEM_TYPES.items()}
        problem: Problem = "regression" if config.num_labels == 1 else "single"
        problem = kinds.get(config.problem_type or "", problem)
        labels = tuple(config.id2label[index] for index in range(config.num_labels))
        return cls(() if problem == "regression" else labels, problem)

    def features(
        self, examples: Sequence[TextExample], tokenizer: Any, max_tokens: int, training: bool = False
    ) -> Features:
        """An item of one row an example; targets are indices, multi-hot rows or values.

        Raises:
            InputError: a label that is not among the task's.
        """
        texts = bare(tokenizer, [example.text for example in examples])
        pairs = iter(bare(tokenizer, [example.pair for example in examples if example.pair is not None]))
        found = Features()
        for number, (example, ids) in enumerate(zip(examples, texts, strict=True)):
            row, whole, cut = joined(tokenizer, ids, None if example.pair is None else next(pairs), max_tokens)
            target = self.target(example, f"example {example.id or number}") if training else None
            found.items.append(Item(number, (row,), target))
            found.lengths.append(whole)
            found.cut |= {number} if cut else set()
        return found

    def target(self, example: TextExample, where: str) -> Any:
        """An index, a multi-hot array, or a float."""
        if self.problem == "regression":
            try:
                return float(example.label)  # type: ignore[arg-type]
            except (TypeError, ValueError) as error:
                raise InputError(f"{where}: label is {example.label!r}: a number is needed") from error
        wanted = labels_of(example, self.problem)
        for label in wanted:
            if label not in self.labels:
                known = ", ".join(self.labels[:20]) + (", …" if len(self.labels) > 20 else "")
                raise InputError(f"{where}: label is {label!r}: it must be one of {known}")
        if self.problem == "single":
            if len(wanted) != 1:
                raise InputError(f"{where}: label is {example.label!r}: exactly one is needed")
            return self.labels.index(wanted[0])
        return np.isin(self.labels, wanted).astype(np.float32)

    def answers(
        self, examples: Sequence[TextExample], features: Features, scores: Sequence[Scores], raw: bool = False
    ) -> list[Any]:
        """``[{"label", "probability"}, ...]``, best first, ``raw``: with ``logit``; for a regression the value."""
        need_finite(scores)
        if self.problem == "regression":
            return [float(score[0]) if len(score) == 1 else [float(value) for value in score] for score in scores]
        squash = softmax if self.problem == "single" else sigmoid
        found = []
        for score in scores:
            shown = score if raw else squash(score)
            name = "logit" if raw else "probability"
            order = np.argsort(-shown, kind="stable")
            found.append([{"label": self.labels[i], name: float(shown[i])} for i in order.tolist()])
        return found

    def evaluate(self, examples: Sequence[TextExample], answers: Sequence[Any]) -> dict[str, float]:
        """Accuracy and macro-F1, micro- and macro-F1, or correlations: by the problem."""
        from xlm.tasks import metrics

        if self.problem == "regression":
            return metrics.regression_scores([float(example.label) for example in examples], answers)  # type: ignore[arg-type]
        if self.problem == "multi":
            chosen = [{*chosen_labels(answer)} for answer in answers]
            return metrics.multilabel_scores([set(labels_of(example, "multi")) for example in examples], chosen)
        best = [answer[0]["label"] for answer in answers]
        return metrics.classification_scores([str(example.label) for example in examples], best)

    def counts(self, examples: Sequence[TextExample]) -> Mapping[str, int]:
        if self.problem == "regression":
            return {}
        found = Counter(label for example in examples for label in labels_of(example, self.problem))
        return {label: found[label] for label in self.labels}


def chosen_labels(answer: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the labels of a text, any number of which may be right, those that the model holds for likelier than not."""
    return [one["label"] for one in answer if one["probability"] >= _MULTI_THRESHOLD]


def problem_of(label: object) -> Problem | None:
    """What kind of problem a label belongs to; None for no label."""
    if label is None:
        return None
    if isinstance(label, tuple | list):
        return "multi"
    return "regression" if isinstance(label, float) else "single"


def labels_of(example: TextExample, problem: Problem) -> tuple[str, ...]:
    """The classes of an example; of several in a table's cell: ``a|b``."""
    if example.label is None:
        return ()
    if isinstance(example.label, tuple):
        return example.label
    if problem == "multi":  # in files without lists: a|b
        return tuple(part for part in str(example.label).split("|") if part)
    return (str(example.label),)


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers in the order of numbers, before words."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
