"""A pretraining recipe: one YAML file that says everything a run needs; the fields and their defaults are the classes below.

Input paths are relative to the recipe's folder, the output folder to the current directory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from xlm.errors import ConfigError
from xlm.training.schema import bounded, build, read_recipe, set_value


@dataclass(frozen=True)
class Model:
    """A new model (``family`` and ``config`` fields; the vocabulary's size and special ids are filled in) or ``path``
    to continue.
    """

    family: str = "xlm-roberta"
    config: dict[str, Any] = field(default_factory=dict)
    path: str | None = None


@dataclass(frozen=True)
class Data:
    """Files by pattern: ``{language}`` stands for the language in the file's name, for example ``text/{language}.txt.gz``."""

    corpus: str | None = None  # a folder of xlm corpus build, instead of text, pairs and valid
    text: str | None = None
    pairs: str | None = None  # TSV, two columns: the language's text and its translation into ``pivot``
    valid: str | None = None  # held-out text; without it nothing is evaluated
    languages: list[str] | None = None  # None: every language that has a file
    pivot: str = "en"
    alpha: float = bounded(
        0.3, low=0.0
    )  # language l with probability n_l^alpha / sum(n^alpha): 1 as the text is, 0 uniform
    alpha_by: Literal["tokens", "sentences"] = "tokens"  # what n_l counts: XLM-R's tokens, XLM's sentences
    pairs_alpha: float | None = bounded(None, low=0.0)  # None: as alpha
    blocks: Literal["complete", "stream"] = "stream"
    first_token: Literal["bos", "eos", "none"] = (
        "bos"  # of every row: <s> (XLM-R), </s>, or the text itself (XLM's streams)
    )
    held_out: float = bounded(
        0.0, low=0.0, high=0.5
    )  # share of the pairs, by a hash of the pivot's side, kept for the retrieval measure
    limit: int | None = bounded(None, low=1)  # first lines of every file
    cache: str | None = None  # token stores; None: in the output folder


@dataclass(frozen=True)
class Masking:
    """How many tokens are masked, what stands in their place, and how they are chosen."""

    rate: float = bounded(0.15, above=0.0, high=0.9)
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)  # mask, keep, random
    selection: Literal["roberta", "xlm"] = "roberta"
    frequency_alpha: float = bounded(0.5, low=0.0)  # selection xlm: weight count^-alpha; 0: each token by itself
    boundaries: bool = False  # <s> and </s> may be chosen too, as in fairseq's XLM-R


@dataclass(frozen=True)
class Mlm:
    """Masked language modelling on monolingual blocks. ``share`` of the step's tokens, ``weight`` of the step's loss."""

    share: float = bounded(1.0, above=0.0)
    weight: float = bounded(1.0, above=0.0)


@dataclass(frozen=True)
class Tlm:
    """Masked language modelling on translation pairs set side by side in one sequence."""

    share: float = bounded(0.5, above=0.0)
    weight: float = bounded(1.0, above=0.0)
    reset_positions: bool = False  # the translation's positions begin anew, as in XLM
    swap: bool = True  # half of the pairs with the pivot's side first


@dataclass(frozen=True)
class Clm:
    """Causal language modelling: every token from those before it. Alone it makes a causal model; together with others,
    as in XLM, one model sees both sides in their batches and the past only in these."""

    share: float = bounded(1.0, above=0.0)
    weight: float = bounded(1.0, above=0.0)


@dataclass(frozen=True)
class Contrastive:
    """InfoNCE over mean-pooled states: each text must find its translation among those of the batch, both ways.

    The same forward pass can also predict masked tokens (``mask_rate`` > 0, ``mlm_weight``).
    """

    pairs: int = bounded(64, low=2)
    weight: float = bounded(1.0, above=0.0)
    temperature: float = bounded(0.05, above=0.0)
    max_tokens: int = bounded(64, low=4)  # of each side, ``<s>`` and ``</s>`` included
    same_language: bool = True  # all pairs of a step in one language: harder candidates
    pool: int = bounded(16, low=1)  # pairs of similar length together, sorted inside a pool of this many batches
    mask_rate: float = bounded(0.0, low=0.0, high=0.9)
    mlm_weight: float = bounded(0.5, low=0.0)
    every: int = bounded(1, low=1)  # in every n-th step
    alone: bool = False  # those steps have no other objective
    start: float = bounded(0.0, low=0.0, high=1.0)  # progress at which this objective begins


@dataclass(frozen=True)
class Objectives:
    """What is trained at once; None leaves an objective out."""

    mlm: Mlm | None = None
    tlm: Tlm | None = None
    contrastive: Contrastive | None = None
    clm: Clm | None = None

    @property
    def only_causal(self) -> bool:
        """Whether the model never sees what comes after a token."""
        return self.clm is not None and not (self.mlm or self.tlm or self.contrastive)


@dataclass(frozen=True)
class Phase:
    """Sequence length up to ``until``, a fraction of the run."""

    length: int = bounded(low=8)
    until: float = bounded(1.0, above=0.0, high=1.0)


@dataclass(frozen=True)
class Batch:
    """``tokens`` a step for MLM, CLM and TLM together, in forward passes of at most ``micro_tokens``."""

    tokens: int = bounded(8192, low=32)
    micro_tokens: int | None = bounded(None, low=32)
    phases: list[Phase] = field(default_factory=lambda: [Phase(length=128)])


@dataclass(frozen=True)
class Optimizer:
    """The optimizer and its constants."""

    kind: Literal["adamw", "muon"] = "adamw"  # muon: for the encoder's matrices; AdamW for all else
    learning_rate: float = bounded(1e-3, above=0.0)
    matrix_rate: float = bounded(0.02, above=0.0)  # of muon
    betas: tuple[float, float] = bounded((0.9, 0.98), low=0.0, high=0.99999)
    eps: float = bounded(1e-6, above=0.0)
    weight_decay: float = bounded(0.01, low=0.0)
    clip: float | None = bounded(1.0, above=0.0)


@dataclass(frozen=True)
class Schedule:
    """A run of ``steps``, or of ``minutes`` of training (kept in the checkpoints; such a run ends on time on a busy
    machine, but how far its rate has fallen at a step depends on the clock, so it resumes exactly only in its data).

    ``warmup`` and ``hold`` are fractions of the run when below 1, steps otherwise; ``final`` is a fraction of the peak rate.
    """

    steps: int | None = bounded(None, low=1)
    minutes: float | None = bounded(None, above=0.0)
    warmup: float = bounded(0.06, low=0.0)
    hold: float = bounded(0.0, low=0.0)
    decay: Literal["linear", "cosine", "inverse_sqrt", "constant"] = "linear"
    final: float = bounded(0.0, low=0.0, high=1.0)


@dataclass(frozen=True)
class Every:
    """How often, in steps or in minutes; 0 is only at the end."""

    log: int = bounded(10, low=1)
    evaluate: int = bounded(0, low=0)
    evaluate_minutes: float = bounded(0.0, low=0.0)
    checkpoint: int = bounded(0, low=0)
    checkpoint_minutes: float = bounded(10.0, low=0.0)
    keep: int = bounded(2, low=1)  # checkpoints
    stall_seconds: float = bounded(30.0, low=0.0)  # without progress before the run says where it stands; 0: never
    valid_rows: int = bounded(16, low=1)  # of every language
    valid_length: int = bounded(64, low=8)


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs."""

    tokenizer: str
    data: Data
    objectives: Objectives
    model: Model = field(default_factory=Model)
    masking: Masking = field(default_factory=Masking)
    batch: Batch = field(default_factory=Batch)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    every: Every = field(default_factory=Every)
    output: str = "runs/pretrain"
    seed: int = bounded(1, low=0)
    init: dict[str, Any] = field(default_factory=dict)  # how new weights begin, see ``xlm.training.init``
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the machine computes in it, else fp32
    device: str = "auto"
    parallel: Literal["replicate", "shard"] = "replicate"  # over processes: each a whole model, or each a part (FSDP2)
    gradient_checkpointing: bool = False  # states of the layers are computed again for backward: less memory, more time
    threads: int | None = bounded(None, low=1)
    max_minutes: float | None = bounded(
        None, above=0.0
    )  # stop and save after that long, to be resumed; the schedule stays
    base: str = "."  # the recipe's folder: what input paths are relative to

    def path(self, text: str) -> Path:
        """An input path of the recipe as it is on this machine."""
        path = Path(text).expanduser()
        return path if path.is_absolute() else Path(self.base) / path


# Where, how long and how loudly a run computes: what may change when it is resumed.
FREE_FIELDS = ("output", "device", "threads", "max_minutes", "base", "every", "data.cache")
FREE_FIELDS += ("gradient_checkpointing", "parallel")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the recipes of fine-tuning and of translation have in common: how a run goes, whatever it learns.

    ``FREE`` are the fields that may change when it is resumed.
    """

    FREE: ClassVar = frozenset("output device threads max_minutes base log checkpoint_minutes keep metric".split())

    dropout: float | None = bounded(None, low=0.0, high=0.9)  # None: the model's own
    patience: int | None = bounded(None, low=1)  # stop after so many evaluations without a better score
    metric: str | None = None  # the score that chooses the best model; None: the task's own
    seed: int = bounded(1, low=0)
    log: int = bounded(10, low=1)  # steps, of translation rounds
    checkpoint_minutes: float = bounded(10.0, low=0.0)
    keep: int = bounded(1, low=1)  # checkpoints
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the machine computes in it, else fp32
    device: str = "auto"
    threads: int | None = bounded(None, low=1)
    max_minutes: float | None = bounded(None, above=0.0)  # stop and save after that long, to be resumed
    base: str = "."  # the recipe's folder: what input paths are relative to


def changed_values(before: Mapping[str, Any], recipe: Any) -> list[str]:
    """``field was X, is Y`` for every field that decides the weights and differs from those of an earlier recipe."""
    current = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in current.items()
        if name not in recipe.FREE and name in before and before[name] != value
    ]


def changed_fields(before: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """``field was X, is Y`` for every field that decides the weights and differs from the values of an earlier ``Recipe``."""
    changes: list[str] = []

    def compare(old: Any, new: Any, path: str) -> None:
        if path in FREE_FIELDS:
            return
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for name in {**new, **old}:
                compare(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))
        elif old != new:
            changes.append(f"{path} was {old}, is {new}")

    current = json.loads(json.dumps(dataclasses.asdict(recipe)))
    compare(_with_defaults(before, current), current, "")
    return changes


def _with_defaults(before: Mapping[str, Any], current: Mapping[str, Any]) -> Mapping[str, Any]:
    """Earlier values, completed: a field that did not exist when they were written had its default's effect."""
    defaults = json.loads(json.dumps(dataclasses.asdict(Recipe("", Data(), Objectives()))))
    filled = {name: before.get(name, defaults.get(name)) for name in current}
    for name, value in filled.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping):
            filled[name] = {**defaults[name], **value}
    return filled


def load_recipe(path: str | Path, assignments: Sequence[str] = (), output: str | None = None) -> Recipe:
    """Read, override and check a recipe. ``assignments`` are ``field.field=value`` texts, values in YAML."""
    import yaml

    values = read_recipe(path)
    for assignment in assignments:
        set_value(values, assignment, yaml.safe_load)
    values.setdefault("base", str(Path(path).resolve().parent))
    if output is not None:
        values["output"] = output
    recipe = build(Recipe, values)
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """The rules between fields."""
    objectives, data = recipe.objectives, recipe.data
    if not (objectives.mlm or objectives.tlm or objectives.contrastive or objectives.clm):
        raise ConfigError("objectives is empty: at least one of mlm, tlm, contrastive, clm must be given")
    if (objectives.mlm or objectives.clm) and not (data.text or data.corpus):
        raise ConfigError("data.text is missing: the objectives mlm and clm need monolingual text")
    if (objectives.tlm or objectives.contrastive) and not (data.pairs or data.corpus):
        raise ConfigError("data.pairs is missing: the objectives tlm and contrastive need translation pairs")
    if abs(sum(recipe.masking.shares) - 1.0) > 1e-6 or min(recipe.masking.shares) < 0:
        raise ConfigError(
            f"masking.shares = {list(recipe.masking.shares)}: the three must not be negative and must sum to 1"
        )
    ends = [phase.until for phase in recipe.batch.phases]
    if not ends or ends != sorted(set(ends)) or ends[-1] != 1.0:
        raise ConfigError(f"batch.phases: until = {ends}: the fractions must rise and the last must be 1.0")
    longest = max(phase.length for phase in recipe.batch.phases)
    if longest > recipe.batch.tokens:
        raise ConfigError(
            f"batch.tokens = {recipe.batch.tokens}: it must hold at least one sequence of {longest} tokens"
        )
    if recipe.batch.micro_tokens is not None and recipe.batch.micro_tokens < longest:
        raise ConfigError(
            f"batch.micro_tokens = {recipe.batch.micro_tokens}: it must hold one sequence of {longest} tokens"
        )
    contrastive = objectives.contrastive
    if recipe.parallel == "shard" and (contrastive or recipe.optimizer.kind != "adamw"):
        raise ConfigError(
            "parallel = 'shard': it trains mlm, tlm and clm with adamw; contrastive and muon need what they compare whole"
        )
    if contrastive and contrastive.every == 1 and contrastive.alone and (objectives.mlm or objectives.tlm):
        raise ConfigError("objectives.contrastive: alone in every step (every = 1) leaves no step for mlm and tlm")
    check_schedule(recipe.schedule)


def check_schedule(schedule: Schedule) -> None:
    """The rules between the fields of a schedule."""
    if (schedule.steps is None) == (schedule.minutes is None):
        raise ConfigError(
            f"schedule.steps = {schedule.steps}, schedule.minutes = {schedule.minutes}: exactly one must be given"
        )
    if schedule.minutes is not None and (
        schedule.warmup >= 1 or schedule.hold >= 1 or schedule.decay == "inverse_sqrt"
    ):
        raise ConfigError(
            "schedule.minutes: warmup and hold must then be fractions below 1, and decay not inverse_sqrt"
        )
    total = schedule.steps or 1
    if fraction(schedule.warmup, total) + fraction(schedule.hold, total) > 1:
        raise ConfigError(f"schedule: warmup = {schedule.warmup} and hold = {schedule.hold} exceed the run")


def fraction(value: float, steps: int) -> float:
    """A fraction (below 1) as it is, or a number of steps (1 and above) as a fraction of ``steps``."""
    return value if value < 1 else value / steps
