"""From a recipe's files to a task and its items, with a report of what they are before anything is trained."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from xlm.data.examples import Loaded, read_examples
from xlm.errors import ConfigError, DataError, InputError
from xlm.tasks.answer import Answer
from xlm.tasks.base import Features, Task
from xlm.tasks.choose import Choose
from xlm.tasks.classify import Classify
from xlm.tasks.embed import Embed
from xlm.tasks.language import Fill, Generate
from xlm.tasks.rerank import Rerank
from xlm.tasks.tag import Tag
from xlm.training.finetune_recipe import FineTune

_SHOWN_LABELS = 12


@dataclass(frozen=True)
class Part:
    """What the report says of one file group in one language. Lengths are in tokens, rates are shares."""

    rows: int
    bad: int
    labels: dict[str, int]
    mean_length: float
    p95_length: int
    longest: int
    truncated: float
    unknown: float
    windows: int


@dataclass
class Prepared:
    """Examples of training and evaluation, the task they describe, and the training items."""

    task: Task
    train: Loaded
    held_out: Loaded | None
    features: Features
    held_out_features: Features | None
    report: dict[str, dict[str, Part]]

    def truncated(self) -> float:
        """The share of training examples of which something was cut off."""
        return len(self.features.cut) / max(len(self.train.examples), 1)


def prepare(recipe: FineTune, tokenizer: Any, max_tokens: int, output: Path | None) -> Prepared:
    """Read, check and convert everything. Bad rows go to ``quarantine-….jsonl`` in the output folder.

    Raises:
        DataError: a file cannot be used, has too many bad rows, or holds nothing to train or to evaluate on.
        InputError: labels that do not fit together.
    """
    train = _read(recipe, "train", output)
    held_out = _read(recipe, "eval", output) if recipe.eval else None
    task = make_task(recipe, train.examples)
    size = min(recipe.data.max_tokens, max_tokens)
    features = features_of(task, train.examples, tokenizer, size, training=True)
    if not features.items:
        raise DataError(f"train: {len(train.examples)} examples give nothing to learn from")
    held_out_features = None
    if held_out is not None:
        _check_labels(task, held_out)
        held_out_features = features_of(task, held_out.examples, tokenizer, size)
    prepared = Prepared(task, train, held_out, features, held_out_features, {})
    prepared.report["train"] = _parts(task, train, features, tokenizer)
    if held_out is not None and held_out_features is not None:
        prepared.report["eval"] = _parts(task, held_out, held_out_features, tokenizer)
    return prepared


def features_of(
    task: Task, examples: Sequence[Any], tokenizer: Any, max_tokens: int, training: bool = False
) -> Features:
    """A task's features, each language's examples by its own rules where the tokenizer has such."""
    known = (tokenizer.lang2id or ()) if "lang" in tokenizer.TEXT_OPTIONS else ()
    groups: dict[str | None, list[int]] = {}
    for number, example in enumerate(examples):
        groups.setdefault(example.language if example.language in known else None, []).append(number)
    if set(groups) <= {None}:
        return task.features(examples, tokenizer, max_tokens, training)
    merged = Features(lengths=[0] * len(examples), details=[None] * len(examples))
    try:
        for tokenizer.lang, members in groups.items():
            made = task.features([examples[number] for number in members], tokenizer, max_tokens, training)
            merged.items += [dataclasses.replace(item, example=members[item.example]) for item in made.items]
            merged.cut |= {members[number] for number in made.cut}
            for place, number in enumerate(members):
                merged.lengths[number] = made.lengths[place]
                merged.details[number] = made.details[place] if made.details else None
    finally:
        tokenizer.lang = None
    merged.items.sort(key=lambda item: item.example)  # stable: windows stay in their order
    return merged


def _read(recipe: FineTune, name: Any, output: Path | None) -> Loaded:
    data = recipe.data
    try:
        return read_examples(
            recipe.paths(name),
            recipe.task,
            columns=data.columns,
            format=data.format,
            language=data.language,
            languages=data.languages,
            where=data.train_where if name == "train" else data.eval_where,
            limit=data.limit if name == "train" else None,
            max_bad=data.max_bad,
            quarantine=None if output is None else output / f"quarantine-{name}.jsonl",
            bio=data.bio,
        )
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def make_task(recipe: FineTune, examples: Sequence[Any]) -> Task:
    """The task that a recipe names and its training examples describe."""
    data = recipe.data
    if recipe.task == "classify":
        return Classify.of(examples, data.labels, data.problem)
    if recipe.task == "tag":
        return Tag.of(examples, data.labels)
    if recipe.task == "answer":
        asked = recipe.questions
        known = asked.unanswerable
        return Answer(
            stride=asked.stride,
            max_question=asked.max_question,
            max_answer=asked.max_answer,
            unanswerable=any(example.impossible for example in examples) if known is None else known,
            threshold=asked.threshold,
        )
    if recipe.task == "embed":
        return Embed(recipe.contrast.pooling, recipe.contrast.temperature)
    if recipe.task == "fill":
        return Fill(recipe.mask_rate)
    return {"choose": Choose, "rerank": Rerank, "generate": Generate}[recipe.task]()


def _check_labels(task: Task, held_out: Loaded) -> None:
    """Every label of the evaluation set must be known. Raises DataError naming the first that is not."""
    if isinstance(task, Classify):
        try:
            for example, where in zip(held_out.examples, held_out.where, strict=True):
                task.target(example, f"eval: {where}")
        except InputError as error:
            raise DataError(f"{error} (the labels of train)") from error
    if isinstance(task, Tag):
        unseen: Counter[str] = Counter()
        for example, where in zip(held_out.examples, held_out.where, strict=True):
            for tag in set(example.tags or ()) - set(task.labels):
                # A type of span that training never saw scores as an error of the tagger, as conlleval counts it.
                if tag[:2] not in ("B-", "I-"):
                    raise DataError(f"eval: {where}: tag is {tag!r}: train has {', '.join(task.labels)}")
                unseen[tag] += sum(tag == one for one in example.tags)
        if unseen:
            shown = ", ".join(f"{tag} ({count:,} words)" for tag, count in unseen.most_common(_SHOWN_LABELS))
            held_out.notes.append(f"tags that no training example has, which can only be missed: {shown}")


def class_weights(recipe: FineTune, task: Task, examples: Sequence[Any]) -> list[float] | None:
    """A factor of the loss a label: ``balanced`` makes every class count the same in all.

    Raises:
        ConfigError: weights of labels that do not exist.
    """
    if recipe.class_weights == "none" or not task.labels:
        return None
    if isinstance(recipe.class_weights, dict):
        for label in recipe.class_weights:
            if label not in task.labels:
                raise ConfigError(f"class_weights: {label!r} is no label: there are {', '.join(task.labels)}")
        return [recipe.class_weights.get(label, 1.0) for label in task.labels]
    counts = np.asarray([max(task.counts(examples)[label], 1) for label in task.labels], np.float64)
    return (counts.sum() / (len(counts) * counts)).tolist()


# -- the report -------------------------------------------------------------------------------------------------------


def _parts(task: Task, loaded: Loaded, features: Features, tokenizer: Any) -> dict[str, Part]:
    """The figures of every language, and of all together under ``all`` where there are several."""
    languages = [example.language or "" for example in loaded.examples]
    unknown_id = tokenizer.unk_token_id
    tokens: Counter[int] = Counter()
    unknown: Counter[int] = Counter()
    windows: Counter[int] = Counter()
    for item in features.items:
        windows[item.example] += 1
        tokens[item.example] += item.tokens
        unknown[item.example] += sum(int((row == unknown_id).sum()) for row in item.rows)
    names = sorted(set(languages))
    groups = {name or "?": [i for i, of in enumerate(languages) if of == name] for name in names}
    if len(names) > 1:
        groups["all"] = list(range(len(languages)))
    found = {}
    for name, members in groups.items():
        chosen = set(members)
        lengths = np.asarray([features.lengths[i] for i in members])
        total = sum(tokens[i] for i in members)
        counts = task.counts([loaded.examples[i] for i in members])
        found[name] = Part(
            rows=len(members),
            bad=len(loaded.bad) if len(names) == 1 or name == "all" else 0,
            labels=dict(counts),
            mean_length=float(lengths.mean()),
            p95_length=int(np.percentile(lengths, 95)),
            longest=int(lengths.max()),
            truncated=len(features.cut & chosen) / len(members),
            unknown=sum(unknown[i] for i in members) / max(total, 1),
            windows=sum(windows[i] for i in members),
        )
    return found


def report_table(prepared: Prepared) -> Group:
    """The report: a row a file group and language, and the labels below."""
    columns = ["", "language", "rows", "bad", "items", "mean", "95 %", "longest", "cut %", "unknown %"]
    table = Table(*columns, box=None, padding=(0, 1, 0, 0), header_style="dim", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    lines = []
    for name, parts in prepared.report.items():
        most = sorted(list(parts.values())[-1].labels.items(), key=lambda pair: -pair[1])
        if most:
            shown = "  ".join(f"{label} {count:,}" for label, count in most[:_SHOWN_LABELS])
            more = f"  … {len(most)} in all" if len(most) > _SHOWN_LABELS else ""
            lines.append(f"labels of {name}: {shown}{more}")
        for language, part in parts.items():
            lengths = [f"{part.mean_length:.0f}", str(part.p95_length), str(part.longest)]
            rates = [f"{100 * part.truncated:.1f}", f"{100 * part.unknown:.2f}"]
            table.add_row(name, language, f"{part.rows:,}", str(part.bad), f"{part.windows:,}", *lengths, *rates)
            name = ""
    return Group(table, *lines, "[dim]mean, 95 %, longest: tokens of a row[/]")


def report_record(prepared: Prepared) -> dict[str, Any]:
    """The report as plain values, with where the bad rows stand."""
    bad = {"train": prepared.train.bad, "eval": [] if prepared.held_out is None else prepared.held_out.bad}
    return {
        name: {
            "languages": {language: dataclasses.asdict(part) for language, part in parts.items()},
            "bad": [{"where": row.where, "reason": row.reason} for row in bad[name][:100]],
        }
        for name, parts in prepared.report.items()
    }
