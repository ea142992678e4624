"""A translation recipe: which steps train on which files, how, and for how long; fields and defaults are these classes.

xlm finetune --task translate --model runs/xlm --train de-en=pairs.tsv --eval de-en=dev.tsv
xlm finetune recipes/unmt-mini.yaml      # input paths are relative to the recipe's folder, the output to the current one

Three kinds of steps, as in XLM (Lample and Conneau 2019), named as its code names them:

    mt  de-en      a pair of the parallel text: German is read, English written
    ae  de         a sentence is damaged, read, and written again as it was
    bt  de-en-de   a German sentence is translated into English by the model as it is; German is learnt from that English
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

from xlm.data.noise import Noise
from xlm.data.parallel import named
from xlm.errors import ConfigError
from xlm.training.recipe import Optimizer, Run, Schedule, check_schedule
from xlm.training.schema import bounded, build

NAME = "translate"
Kind = Literal["mt", "ae", "bt"]
_PARTS = {"mt": 2, "ae": 1, "bt": 3}


@dataclass(frozen=True)
class Job:
    """One kind of update: ``languages`` are those that a sentence passes through."""

    kind: Kind
    languages: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}_{'-'.join(self.languages)}"

    @property
    def read(self) -> str:
        """The language that the encoder reads."""
        return self.languages[-2:][0]

    @property
    def written(self) -> str:
        """The language whose sentences are learnt."""
        return self.languages[-1]


@dataclass(frozen=True)
class Steps:
    """The updates of a round, one after the other; all empty: ``mt`` both ways for the pairs that there are, and ``ae`` and
    ``bt`` for the languages that have text."""

    mt: list[str] = field(default_factory=list)
    ae: list[str] = field(default_factory=list)
    bt: list[str] = field(default_factory=list)

    def jobs(self) -> list[Job]:
        """In XLM's order: ae, mt, bt. Raises ConfigError for what cannot be read."""
        return [
            Job(kind, _languages(kind, text))  # type: ignore[arg-type]
            for kind in ("ae", "mt", "bt")
            for text in getattr(self, kind)
        ]


@dataclass(frozen=True)
class Weights:
    """Factors of the losses: a number, or ``round:factor,round:factor`` with straight lines between."""

    mt: float | str = 1.0
    ae: float | str = "0:1,100000:0.1,300000:0"
    bt: float | str = 1.0

    def at(self, kind: str, number: int) -> float:
        """The factor of a kind of steps in round ``number``."""
        given = getattr(self, kind)
        if not isinstance(given, str):
            if given < 0:
                raise ConfigError(f"weights.{kind} is {given}: it must not be negative")
            return float(given)
        points = _points(given, f"weights.{kind}")
        for (start, before), (end, after) in pairwise(points):
            if start <= number < end:
                return before + (after - before) * (number - start) / (end - start)
        return points[-1][1] if number >= points[-1][0] else points[0][1]


@dataclass(frozen=True)
class BackTranslation:
    """How the model translates for ``bt``: greedily, as XLM does, or sampling at a temperature.

    ``own`` above 0 keeps a translation to the words of its language, so that close languages do not settle for copying: a
    token is written only if it is at least this many times as frequent in the language's text as in any other's.
    """

    temperature: float | None = bounded(None, above=0.0)
    factor: float = bounded(1.3, above=0.0)  # a translation has at most this many times the source's tokens
    extra: int = bounded(5, low=1)  # and so many more
    own: float = bounded(0.0, low=0.0, high=1.0)


@dataclass(frozen=True)
class Data:
    """How the files are read."""

    columns: dict[str, str] = field(default_factory=dict)  # text, other -> column, where names are unusual
    format: str | None = None  # of pairs; None: by the file's ending, .tsv without a header
    limit: int | None = bounded(None, low=1)  # first rows of every training file
    max_tokens: int = bounded(100, low=4)  # of a sentence with its special tokens; longer ones are left out
    max_bad: float = bounded(0.01, low=0.0)  # bad rows put up with: a share below 1, or a number
    eval_limit: int | None = bounded(None, low=1)  # first rows of every evaluation file


@dataclass(frozen=True)
class Translate(Run):
    """Everything a training for translation needs. Files are given as ``de-en=path`` and ``de=path``, or by names that begin
    with the languages (``de-en.train.tsv``, ``de.txt.gz``). ``metric`` may be bleu, roundtrip, bleu_de-en, ...; None: the
    first that there is."""

    FREE: ClassVar = Run.FREE | {"micro_tokens"}

    task: Literal["translate"] = "translate"
    model: str | None = None  # an encoder-decoder to go on with, or a model that both sides begin as
    decoder: str | None = None  # a model that the decoder begins as; None: as the encoder
    pretrained: bool = True  # False: the same model with new weights, to compare
    share_embeddings: bool | None = None  # None: as in a model that is an encoder-decoder already, else True
    # Begins with new weights, as XLM's, or with those of self-attention; None: new, or as the encoder-decoder's was trained.
    cross_attention: Literal["new", "self"] | None = None
    # Language -> the token that its sentences begin with when they are written, by text or id, for families without
    # language embeddings; None: the model's own.
    start_tokens: dict[str, int | str] | None = None
    train: str | list[str] = field(default_factory=list)  # pairs
    text: str | list[str] = field(default_factory=list)  # sentences of one language
    eval: str | list[str] = field(default_factory=list)  # pairs, scored in the directions that are trained
    eval_text: str | list[str] = field(default_factory=list)  # sentences, for the round trip
    output: str = "runs/translate"
    steps: Steps = field(default_factory=Steps)
    weights: Weights = field(default_factory=Weights)
    noise: Noise = field(default_factory=Noise)
    back: BackTranslation = field(default_factory=BackTranslation)
    data: Data = field(default_factory=Data)
    batch_tokens: int = bounded(2000, low=16)  # written tokens of an update, over all processes
    micro_tokens: int = bounded(16384, low=64)  # read and written tokens of a forward pass: memory, not results
    learning_rate: float | None = bounded(None, above=0.0)  # None: the optimizer's
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(learning_rate=1e-4, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0, clip=5.0)
    )
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=20_000, warmup=0.05, decay="inverse_sqrt"))
    evaluate: int = bounded(0, low=0)  # rounds between evaluations; 0: ten in a run

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return self.learning_rate or self.optimizer.learning_rate

    def files(self, name: Literal["train", "text", "eval", "eval_text"]) -> list[tuple[tuple[str, ...], str]]:
        """(languages, path on this machine) of every file.

        Raises:
            ConfigError: a file that does not say its languages.
        """
        given, parts = getattr(self, name), 1 if name.endswith("text") else 2
        return [named(one, parts, self.base, name) for one in ([given] if isinstance(given, str) else given)]

    def jobs(self) -> list[Job]:
        """The updates of a round. Raises ConfigError where the files for one are missing."""
        pairs = [languages for languages, _ in self.files("train")]
        texts = list(dict.fromkeys(languages[0] for languages, _ in self.files("text")))
        jobs = self.steps.jobs()
        if not jobs:
            jobs = [Job("ae", (one,)) for one in texts]
            jobs += [Job("mt", way) for a, b in dict.fromkeys(pairs) for way in ((a, b), (b, a))]
            jobs += [Job("bt", (one, other, one)) for one in texts for other in texts if other != one]
        for job in jobs:
            if job.kind == "mt" and not {job.languages, job.languages[::-1]} & set(pairs):
                raise ConfigError(f"steps.mt: {'-'.join(job.languages)} has no file in train")
            if job.kind != "mt" and job.languages[0] not in texts:
                raise ConfigError(f"steps.{job.kind}: {job.languages[0]} has no file in text")
        if not jobs:
            raise ConfigError("train and text are empty: at least one file is needed")
        return jobs

    def directions(self) -> list[tuple[str, str]]:
        """(read, written): what the jobs train to write after reading another language."""
        found = [job.languages[-2:] for job in self.jobs() if job.kind != "ae"]
        return [(way[0], way[1]) for way in dict.fromkeys(found)]

    def scored(self, a: str, b: str) -> list[tuple[str, str]]:
        """The directions that a file of pairs scores: those that are trained, else both."""
        trained, both = self.directions(), [(a, b), (b, a)]
        return [way for way in both if way in trained] or both

    def score_names(self) -> list[str]:
        """The names of the scores that ``eval`` and ``eval_text`` give, the means first."""
        pairs = dict.fromkeys(languages for languages, _ in self.files("eval"))
        ways = dict.fromkeys(way for a, b in pairs for way in self.scored(a, b))
        texts = list(dict.fromkeys(languages[0] for languages, _ in self.files("eval_text")))
        trips = [f"roundtrip_{one}-{other}-{one}" for one in texts for other in texts if other != one]
        means = [name for name, of in (("bleu", ways), ("roundtrip", trips)) if of]
        return [*means, *(f"bleu_{a}-{b}" for a, b in ways), *trips]


def make_translate(values: Mapping[str, Any]) -> Translate:
    """A checked recipe from plain values.

    Raises:
        ConfigError: an unknown, missing, mistyped or impossible field.
    """
    values = dict(values)
    for name in ("model", "decoder", "output"):
        if isinstance(values.get(name), Path):
            values[name] = str(values[name])
    for name in ("train", "text", "eval", "eval_text"):
        if isinstance(given := values.get(name), Mapping):
            values[name] = [f"{languages}={path}" for languages, path in given.items()]
    recipe = build(Translate, values)
    if recipe.model is None:
        raise ConfigError("model is missing: translation begins from a model of your languages, a folder or a hub name")
    jobs = recipe.jobs()
    for kind in ("mt", "ae", "bt"):
        recipe.weights.at(kind, 0)
    if all(recipe.weights.at(job.kind, 0) == 0 for job in jobs):
        raise ConfigError("weights: all steps of the first round have weight 0")
    check_schedule(recipe.schedule)
    for name in ("eval", "eval_text"):
        recipe.files(name)  # says which file does not tell its languages
    if recipe.patience is not None and not (recipe.eval or recipe.eval_text):
        raise ConfigError(f"patience is {recipe.patience}: stopping early needs eval or eval_text")
    return recipe


def _languages(kind: str, text: str) -> tuple[str, ...]:
    languages = tuple(text.split("-"))
    if len(languages) != _PARTS[kind] or not all(languages):
        example = {"mt": "de-en", "ae": "de", "bt": "de-en-de"}[kind]
        raise ConfigError(f"steps.{kind}: {text!r}: it must read like {example}")
    if kind == "bt" and (languages[0] != languages[2] or languages[0] == languages[1]):
        raise ConfigError(f"steps.bt: {text!r}: it must return to its own language by another, as in de-en-de")
    if kind == "mt" and languages[0] == languages[1]:
        raise ConfigError(f"steps.mt: {text!r}: the two languages must differ")
    return languages


def _points(text: str, where: str) -> list[tuple[int, float]]:
    """The corners of a course of weights."""
    try:
        points = [(int(a), float(b)) for a, b in (part.split(":") for part in text.split(","))]
    except ValueError as error:
        raise ConfigError(f"{where} is {text!r}: it must be a number or read like 0:1,100000:0.1,300000:0") from error
    if [at for at, _ in points] != sorted({at for at, _ in points}) or min(factor for _, factor in points) < 0:
        raise ConfigError(f"{where} is {text!r}: rounds must rise and factors not be negative")
    return points
