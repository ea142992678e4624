"""Alarms of a fine-tuning that goes wrong in one of the known ways: it says so while there is still time.

- ``stuck``: past the warm-up the loss is still that of guessing by the labels' frequencies (log of the classes at most).
- ``labels``: the answers on the evaluation set are right once labels are renamed, or once tags are moved by a word: the
  two files number their labels differently, or words and tags are shifted against each other.
- ``truncated``: of too many examples a part is cut off.
- ``alike``, ``rare``: labels that differ in case alone; more labels than any column of classes has.
- ``overlap``: examples of the evaluation set stand in the training files too.
- ``unknown``: too many tokens of a language are unknown to the vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xlm.tasks.base import Task
from xlm.tasks.choose import Choose
from xlm.tasks.classify import Classify
from xlm.tasks.tag import Tag

_CLOSE = 0.985  # of the guesser's loss
_GAIN, _LEAST = 0.2, 30  # how much better, on how many examples, other labels must fit
_MOST_CLASSES = 6  # whose every renaming is tried
_MANY = 10  # labels, of which most have one example: no classes
_UNKNOWN = 0.1  # of a language's tokens
_OVERLAP = 0.05  # of the evaluation set
_ASKED = (
    "text",
    "pair",
    "other",
    "words",
    "question",
    "context",
    "prompt",
    "choices",
)  # all of an example but its answer


def guessing_loss(task: Task, examples: Sequence[Any]) -> float | None:
    """The loss (nats) of always answering by the labels' frequencies; None where that says nothing."""
    if isinstance(task, Choose):
        return float(np.mean([math.log(len(example.choices)) for example in examples]))
    if isinstance(task, Tag) or (isinstance(task, Classify) and task.problem == "single"):
        counts = np.asarray([count for count in task.counts(examples).values() if count], np.float64)
        shares = counts / counts.sum()
        return float(-(shares * np.log(shares)).sum()) if len(shares) > 1 else None
    return None


def stuck(loss: float, guess: float | None, done: float, warmup: float, classes: int) -> str | None:
    """The alarm when ``loss``, the mean of the latest steps, has learnt nothing at ``done`` of the run."""
    if guess is None or done < max(0.4, 2 * warmup) or loss < _CLOSE * guess:
        return None
    return (
        f"stuck: the loss is {loss:.3f} after {done:.0%} of the run, guessing by the labels' frequencies has {guess:.3f} "
        f"(log {classes} = {math.log(max(classes, 1)):.3f}): lower the learning rate, warm up longer, or try another seed"
    )


def truncated(share: float, limit: float, max_tokens: int) -> str | None:
    """The alarm when of more than ``limit`` of the examples a part is cut off."""
    if share <= limit:
        return None
    return (
        f"truncated: {share:.0%} of the training examples are longer than {max_tokens} tokens and were cut "
        f"(the alarm is set to {limit:.0%}): raise data.max_tokens, or shorten the texts"
    )


def alike(labels: Sequence[str]) -> str | None:
    """The alarm when labels differ in case or spaces alone: to a classifier they are different classes."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(" ".join(label.casefold().split()), []).append(label)
    same = [" and ".join(map(repr, sorted(group))) for group in groups.values() if len(group) > 1]
    if not same:
        return None
    return (
        f"alike: the labels {', '.join(same)} differ in case or spaces alone and are learnt apart: are they the same?"
    )


def rare(task: Task, examples: Sequence[Any]) -> str | None:
    """The alarm when most labels have one example, as in a column of names, numbers or texts."""
    if not isinstance(task, Classify) or task.problem != "single":
        return None
    once = sum(count == 1 for count in task.counts(examples).values())
    if len(task.labels) <= _MANY or 2 * once <= len(task.labels):
        return None
    return (
        f"rare: {len(task.labels):,} labels in {len(examples):,} training examples, {once:,} of them once: is that the column "
        "of the labels? Numbers are learnt as such with data.problem=regression"
    )


def overlap(train: Sequence[Any], held_out: Sequence[Any]) -> str | None:
    """The alarm when examples of the evaluation set were learnt, whatever their labels."""
    known = {_asked(example) for example in train}
    count = sum(_asked(example) in known for example in held_out)
    if count <= _OVERLAP * len(held_out):
        return None
    return (
        f"overlap: {count:,} of {len(held_out):,} examples of the evaluation set stand in the training files too: "
        "the scores are those of text that was learnt"
    )


def _asked(example: Any) -> tuple[Any, ...]:
    return tuple(getattr(example, name, None) for name in _ASKED)


def unknown(rates: Mapping[str, float]) -> str | None:
    """The alarm when much of a language's text is unknown to the vocabulary; ``rates`` are shares by language."""
    worst = {language: rate for language, rate in rates.items() if rate > _UNKNOWN and language != "all"}
    if not worst:
        return None
    shown = ", ".join(f"{rate:.0%}{'' if name == '?' else f' in {name}'}" for name, rate in worst.items())
    return f"unknown: of the training tokens {shown} are unknown to the model's vocabulary: it cannot read them"


def relabelled(task: Task, examples: Sequence[Any], answers: Sequence[Any]) -> str | None:
    """The alarm when the answers would be much better with other labels, or with tags one word further."""
    if isinstance(task, Classify) and task.problem == "single" and len(examples) >= _LEAST:
        gold = np.asarray([task.labels.index(example.label) for example in examples])
        best = np.asarray([task.labels.index(answer[0]["label"]) for answer in answers])
        return _renamed(task.labels, gold, best)
    if isinstance(task, Tag):
        return _moved(examples, answers)
    return None


def _renamed(labels: Sequence[str], gold: Any, best: Any) -> str | None:
    count = len(labels)
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (best, gold), 1)
    right = np.trace(table) / len(gold)
    if count <= _MOST_CLASSES:
        ways: Any = itertools.permutations(range(count))
    else:
        ways = [tuple((np.arange(count) + step) % count) for step in range(1, count)]
    names = max(ways, key=lambda way: sum(table[i, j] for i, j in enumerate(way)))
    renamed = sum(table[i, j] for i, j in enumerate(names)) / len(gold)
    # Chance finds a renaming that is a little better, never one that is this much better.
    if renamed < right + _GAIN or renamed < 0.5:
        return None
    moved = ", ".join(f"{labels[i]} for {labels[j]}" for i, j in enumerate(names) if i != j)
    return (
        f"labels: {right:.0%} of the answers on the evaluation set are right, {renamed:.0%} would be with {moved}: "
        "do both files mean the same by their labels?"
    )


def _moved(examples: Sequence[Any], answers: Sequence[Any]) -> str | None:
    """Tags against words: compare each prediction with the tag of its word, and of the words beside it."""
    hits: Mapping[int, list[int]] = {-1: [0, 0], 0: [0, 0], 1: [0, 0]}
    for example, answer in zip(examples, answers, strict=True):
        gold, best = example.tags or (), [tag for tag, _ in answer]
        for step, counts in hits.items():
            for place, tag in enumerate(best):
                if 0 <= place + step < len(gold) and (tag != "O" or gold[place + step] != "O"):
                    counts[0] += tag == gold[place + step]
                    counts[1] += 1
    shares = {step: right / max(count, 1) for step, (right, count) in hits.items()}
    step = max(shares, key=lambda one: shares[one])
    if step == 0 or hits[step][1] < _LEAST or shares[step] < shares[0] + _GAIN:
        return None
    return (
        f"labels: {shares[0]:.0%} of the tags on the evaluation set are right, {shares[step]:.0%} would be those of the "
        f"word {'before' if step < 0 else 'after'}: words and tags of one of the files are shifted"
    )
