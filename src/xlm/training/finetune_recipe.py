"""A fine-tuning recipe: what is learnt from which files, how, and for how long; the fields and defaults are these classes.

xlm finetune --task classify --train train.jsonl --eval dev.jsonl --set epochs=5
xlm.finetune("classify", train="train.jsonl", eval="dev.jsonl", epochs=5)
xlm finetune recipe.yaml        # input paths are relative to the recipe's folder, the output to the current one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from xlm.data.examples import COLUMNS, Bio
from xlm.data.tables import HUB, SIDES
from xlm.errors import ConfigError
from xlm.tasks.classify import Problem
from xlm.training.recipe import Optimizer, Run, Schedule
from xlm.training.schema import bounded, build, read_recipe

TaskName = Literal["classify", "tag", "answer", "choose", "embed", "rerank", "fill", "generate"]
TASKS: tuple[str, ...] = tuple(COLUMNS)


@dataclass(frozen=True)
class Data:
    """How the files are read. ``{language}`` in a file's name stands for the language of its rows; ``A ||| B`` is two
    files of texts whose lines translate each other (``embed``, ``rerank``)."""

    columns: dict[str, str] = field(default_factory=dict)  # field -> column, where names are unusual
    format: str | None = None  # None: by the file's ending
    languages: list[str] | None = None  # of a pattern; None: all there are
    language: str | None = None  # of files that do not say
    train_where: dict[str, Any] = field(default_factory=dict)  # column -> value of the rows to train on
    eval_where: dict[str, Any] = field(default_factory=dict)
    limit: int | None = bounded(None, low=1)  # first rows of every training file
    max_bad: float = bounded(0.01, low=0.0)  # bad rows put up with: a share below 1, or a number
    bio: Bio = "repair"  # I- without B-: repaired as conlleval reads it, kept, or a bad row
    labels: list[str] | None = None  # None: those of the training files
    problem: Problem | None = None  # of classify; None: by the labels
    max_tokens: int = bounded(256, low=8)  # of a row; the model's limit if that is lower


@dataclass(frozen=True)
class Questions:
    """How contexts are cut and answers chosen (task ``answer``)."""

    stride: int = bounded(64, low=0)
    max_question: int = bounded(64, low=1)
    max_answer: int = bounded(30, low=1)
    unanswerable: bool | None = None  # None: whether a training example has no answer
    threshold: float = 0.0


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters, saved as ``peft`` reads them."""

    rank: int = bounded(8, low=1)
    alpha: float = bounded(16.0, above=0.0)
    dropout: float = bounded(0.0, low=0.0, high=0.9)
    targets: list[str] = field(default_factory=lambda: ["query", "value"])  # ends of the names of linear layers


@dataclass(frozen=True)
class Tuning:
    """Which weights learn: all, the head alone, or adapters and the head."""

    kind: Literal["full", "frozen", "lora"] = "full"
    lora: Lora = field(default_factory=Lora)
    frozen_layers: int = bounded(0, low=0)  # the embeddings and so many layers from below stay as they are
    layer_decay: float = bounded(1.0, above=0.0, high=1.0)  # factor of the learning rate from a layer to the one below
    head_rate: float = bounded(1.0, above=0.0)  # factor of the learning rate of the head


@dataclass(frozen=True)
class Contrast:
    """Bi-encoders (task ``embed``)."""

    pooling: Literal["mean", "cls"] = "mean"
    temperature: float = bounded(0.05, above=0.0)


@dataclass(frozen=True)
class FineTune(Run):
    """Everything a fine-tuning needs."""

    FREE: ClassVar = Run.FREE | {"on_alarm"}

    task: TaskName
    train: str | list[str]
    model: str | None = None  # a folder (see model_path) or a name on the hub; None: the bundled model
    eval: str | list[str] | None = None
    output: str = "runs/finetune"
    epochs: float = bounded(3.0, above=0.0)
    batch: int = bounded(32, low=1)  # examples a step, over all processes
    micro_tokens: int = bounded(16384, low=64)  # tokens of a forward pass: memory, not results
    learning_rate: float | None = bounded(None, above=0.0)  # None: by the model's width and the tuning
    weight_decay: float = bounded(0.01, low=0.0)
    warmup: float = bounded(0.1, low=0.0)  # a share of the run, or steps
    decay: Literal["linear", "cosine", "constant"] = "linear"
    clip: float | None = bounded(1.0, above=0.0)
    mask_rate: float = bounded(0.15, above=0.0, high=0.9)  # task fill
    class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
    evaluations: float = bounded(1.0, above=0.0)  # an epoch
    data: Data = field(default_factory=Data)
    questions: Questions = field(default_factory=Questions)
    tuning: Tuning = field(default_factory=Tuning)
    contrast: Contrast = field(default_factory=Contrast)
    max_truncated: float = bounded(0.1, low=0.0, high=1.0)  # alarm when more of the examples are cut
    on_alarm: Literal["warn", "stop"] = "warn"

    def paths(self, name: Literal["train", "eval"]) -> list[str]:
        """The files of ``train`` or ``eval`` as they are on this machine."""
        given = getattr(self, name)
        listed = [given] if isinstance(given, str) else list(given or ())
        return [one if one.startswith(HUB) else _under(self.base, one) for one in listed]

    def optimizer(self, rate: float) -> Optimizer:
        """The optimizer's constants at a learning rate."""
        return Optimizer(
            learning_rate=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=self.weight_decay, clip=self.clip
        )

    def schedule(self, steps: int) -> Schedule:
        """The learning rate's course over ``steps``."""
        return Schedule(steps=steps, warmup=min(self.warmup, float(steps)), decay=self.decay)


def default_rate(hidden_size: int, tuning: Tuning) -> float:
    """2e-5 for models 768 wide, as XLM-R base is fine-tuned, falling with the square of the width (1e-5 for large); ten
    times as much for adapters, and at least 1e-3 where only a head learns."""
    rate = 2e-5 * (768 / hidden_size) ** 2
    if tuning.kind == "frozen":
        return max(10 * rate, 1e-3)
    return 10 * rate if tuning.kind == "lora" else rate


def load_finetune(path: str | Path) -> dict[str, Any]:
    """The values of a recipe file, with ``base`` set to its folder.

    Raises:
        ConfigError: it cannot be read, or is no mapping.
    """
    values = read_recipe(path)
    values.setdefault("base", str(Path(path).resolve().parent))
    return values


def model_path(base: str, name: str) -> str:
    """Where a recipe's model is: names that begin with ``.`` or ``~`` and folders that are there are relative to the
    recipe's folder; others are what they are, names on the hub or folders from the current one."""
    folder = Path(base) / Path(name).expanduser()
    return str(folder) if name.startswith((".", "~")) or folder.is_dir() else name


def make_recipe(values: Mapping[str, Any]) -> FineTune:
    """A checked recipe from plain values.

    Raises:
        ConfigError: an unknown, missing, mistyped or impossible field.
    """
    values = dict(values)
    if values.get("task") not in TASKS:
        said = f"is {values['task']!r}" if "task" in values else "is missing"
        raise ConfigError(f"task {said}: it must be one of {', '.join(TASKS)}, translate")
    for name in ("train", "eval", "model"):
        if isinstance(values.get(name), Path):
            values[name] = str(values[name])
    if isinstance(values.get("output"), Path):
        values["output"] = str(values["output"])
    recipe = build(FineTune, values)
    if not recipe.paths("train"):
        raise ConfigError("train is empty: at least one file is needed")
    if recipe.patience is not None and recipe.eval is None:
        raise ConfigError(f"patience is {recipe.patience}: stopping early needs eval, a file to score on")
    if recipe.class_weights != "none" and recipe.task not in ("classify", "tag"):
        raise ConfigError(f"class_weights: {recipe.task} has no classes: it must be none")
    if recipe.tuning.kind == "frozen" and recipe.task in ("embed", "fill", "generate"):
        raise ConfigError(f"tuning.kind is frozen: {recipe.task} has no head of its own that could learn")
    return recipe


def _under(base: str, path: str) -> str:
    """A path, or the two of ``A ||| B``, relative to the recipe's folder."""
    sides = [Path(side.strip()).expanduser() for side in path.split(SIDES)]
    return f" {SIDES} ".join(str(side if side.is_absolute() else Path(base) / side) for side in sides)
