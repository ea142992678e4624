"""What a training step consists of: the micro-batches of step s, built from the recipe, the stores, the seed and s alone.

No framework here: arrays are NumPy, so a loader thread can build the next steps while this one computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xlm.batches.masking import (
    Masked,
    corrupt,
    eligible_tokens,
    frequency_weights,
    ordinary_ids,
    select_independent,
    select_per_sequence,
    select_weighted,
)
from xlm.batches.packing import pack
from xlm.data.random import keyed
from xlm.data.sampling import language_probabilities
from xlm.data.store import TokenStore
from xlm.data.streams import BlockStream, PairStream
from xlm.data.vocabulary import Vocabulary
from xlm.training.recipe import Phase, Recipe

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Rows ``texts[i]`` and ``translations[i]`` of the micro-batch belong together; ``duplicates`` (n, n) is True
    where another pair's translation, or text, is the very same, which therefore must not count as a wrong answer."""

    texts: Ids
    translations: Ids
    duplicates: NDArray[np.bool_]


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: packed ``ids`` (tokens,) of rows with ``lengths``.

    ``positions``/``targets`` (chosen,) are what is to be predicted. ``position_ids`` (tokens,) count from 0 in every
    row and are None where plain; ``languages`` (tokens,) are the builder's ``language_ids``.
    """

    objective: str
    ids: Ids
    lengths: list[int]
    row_languages: list[str]
    positions: Ids
    targets: Ids
    languages: Ids
    position_ids: Ids | None = None
    pairs: Pairs | None = None


@dataclass(frozen=True)
class Cursor:
    """Where the data stands before a step: all that a checkpoint needs to know about it."""

    step: int = 0
    phase: int = 0
    rows: int = 0  # monolingual rows taken in this phase
    tlm: int = 0  # pairs taken for TLM
    contrastive: int = 0  # contrastive batches taken
    clm: int = 0  # rows taken for CLM in this phase

    def enter(self, phase: int) -> Cursor:
        """The cursor in ``phase``, whose rows are cut anew."""
        return self if phase == self.phase else replace(self, phase=phase, rows=0, clm=0)


@dataclass(frozen=True)
class _Job:
    objective: str
    start: int
    count: int
    index: int


class StepBuilder:
    """``build(cursor, rank, world)`` is the list of this rank's micro-batches, ``advance(cursor)`` the next step's cursor."""

    def __init__(
        self,
        recipe: Recipe,
        vocabulary: Vocabulary,
        texts: Mapping[str, TokenStore],
        pairs: Mapping[str, TokenStore],
        language_ids: Mapping[str, int],
    ) -> None:
        self.recipe, self._vocabulary, self._texts = recipe, vocabulary, texts
        data, objectives, seed = recipe.data, recipe.objectives, recipe.seed
        self.language_ids = language_ids
        pairs_alpha = data.alpha if data.pairs_alpha is None else data.pairs_alpha
        sizes = {name: len(s.tokens) if data.alpha_by == "tokens" else len(s) for name, s in texts.items()}
        self.text_probabilities = _probabilities(sizes, data.alpha)
        self.pair_probabilities = _probabilities({name: len(s) // 2 for name, s in pairs.items()}, pairs_alpha)
        self._tlm = PairStream(pairs, self.pair_probabilities, seed, "tlm") if objectives.tlm else None
        self._contrastive = (
            PairStream(pairs, self.pair_probabilities, seed, "contrastive") if objectives.contrastive else None
        )
        self._pair_names = list(self.pair_probabilities)
        self.start_id = vocabulary.bos_id if data.first_token == "bos" else vocabulary.eos_id
        excluded = vocabulary.special_ids if recipe.masking.selection == "roberta" else ()
        self._replacements = ordinary_ids(vocabulary.size, excluded)
        self._weights = frequency_weights(self._counts(), recipe.masking.frequency_alpha)
        self._sizes = [self._step_sizes(phase) for phase in recipe.batch.phases]
        self._streams: dict[tuple[str, int], BlockStream] = {}

    def _counts(self) -> NDArray[np.int64]:
        stores = [*self._texts.values()]
        return (
            np.sum([store.counts for store in stores], axis=0) if stores else np.ones(self._vocabulary.size, np.int64)
        )

    def _step_sizes(self, phase: Phase) -> tuple[int, int, int]:
        """Rows for MLM, rows for CLM and TLM pairs of a step in ``phase``."""
        objectives, tokens = self.recipe.objectives, self.recipe.batch.tokens
        mlm, clm, tlm = objectives.mlm, objectives.clm, objectives.tlm
        shares = sum(objective.share for objective in (mlm, clm, tlm) if objective)
        rows, causal = (
            max(round(tokens * part.share / shares / phase.length), 1) if part else 0 for part in (mlm, clm)
        )
        if not tlm or not self._tlm:
            return rows, causal, 0
        mean = self._tlm.mean_length(self.pair_probabilities, (phase.length - 4) // 2) + 4
        return rows, causal, max(round(tokens * tlm.share / shares / mean), 1)

    def _has_contrastive(self, cursor: Cursor, progress: float) -> bool:
        options = self.recipe.objectives.contrastive
        return options is not None and progress >= options.start and cursor.step % options.every == options.every - 1

    def _has_others(self, with_contrastive: bool) -> bool:
        options = self.recipe.objectives.contrastive
        return not (with_contrastive and options and options.alone)

    def advance(self, cursor: Cursor, progress: float) -> Cursor:
        """The cursor after the step that ``cursor`` and ``progress`` describe."""
        contrastive = self._has_contrastive(cursor, progress)
        rows, causal, pairs = self._sizes[cursor.phase] if self._has_others(contrastive) else (0, 0, 0)
        return replace(
            cursor,
            step=cursor.step + 1,
            rows=cursor.rows + rows,
            clm=cursor.clm + causal,
            tlm=cursor.tlm + pairs,
            contrastive=cursor.contrastive + contrastive,
        )

    def phase_at(self, progress: float) -> int:
        """The phase that a run stands in at ``progress`` in [0, 1]."""
        phases = self.recipe.batch.phases
        return next((i for i, phase in enumerate(phases) if progress < phase.until), len(phases) - 1)

    def build(self, cursor: Cursor, progress: float, rank: int = 0, world: int = 1) -> list[MicroBatch]:
        """The micro-batches of one rank. Every choice in them is keyed by (seed, step, objective, index)."""
        return [self._make(job, cursor) for job in self._jobs(cursor, progress, world)[rank::world]]

    def _jobs(self, cursor: Cursor, progress: float, world: int) -> list[_Job]:
        tokens, length = self.recipe.batch.tokens, self.recipe.batch.phases[cursor.phase].length
        micro = self.recipe.batch.micro_tokens or max(-(-tokens // world), length)
        contrastive = self._has_contrastive(cursor, progress)
        jobs: list[_Job] = []
        if self._has_others(contrastive):
            rows, causal, pairs = self._sizes[cursor.phase]
            jobs += _cut("mlm", cursor.rows, rows, max(micro // length, 1))
            jobs += _cut("clm", cursor.clm, causal, max(micro // length, 1))
            jobs += _cut("tlm", cursor.tlm, pairs, max(pairs * micro // tokens, 1))
        if contrastive and (options := self.recipe.objectives.contrastive):
            # One forward a rank: the wrong answers are those of the same rank.
            count = max(options.pairs // world, 2)
            jobs += [_Job("contrastive", cursor.contrastive * world + i, count, i) for i in range(world)]
        return jobs

    def _make(self, job: _Job, cursor: Cursor) -> MicroBatch:
        phase = self.recipe.batch.phases[cursor.phase]
        rng = keyed(self.recipe.seed, job.objective, cursor.step, job.index)
        if job.objective in ("mlm", "clm"):
            stream = self._stream(job.objective, cursor.phase, phase.length)
            drawn = stream.rows(job.start, job.count)
            rows, names = [ids for _, ids in drawn], [stream.languages[language] for language, _ in drawn]
            if job.objective == "clm":
                return self._next_tokens(rows, names)
            return self._masked("mlm", rows, names, rng, self.recipe.masking.rate)
        if job.objective == "tlm":
            return self._make_tlm(job, phase.length, rng)
        return self._make_contrastive(job, rng)

    def row(self, *sides: Ids) -> Ids:
        """``<s> a </s>`` or ``<s> a </s></s> b </s>``."""
        eos = self._vocabulary.eos_id
        parts: list[Ids] = []
        for side in sides:
            parts += [np.array([eos if parts else self.start_id], np.int64), side, np.array([eos], np.int64)]
        return np.concatenate(parts)

    def _make_tlm(self, job: _Job, length: int, rng: np.random.Generator) -> MicroBatch:
        assert self._tlm and self.recipe.objectives.tlm
        options, pivot = self.recipe.objectives.tlm, self.recipe.data.pivot
        pairs = sorted(self._tlm.pairs(job.start, job.count), key=lambda pair: len(pair[1]) + len(pair[2]))
        limit = (length - 4) // 2
        rows: list[Ids] = []
        positions: list[Ids] = []
        languages: list[Ids] = []
        swapped = rng.random(len(pairs)) < (0.5 if options.swap else 0.0)
        for (language, text, translation), swap in zip(pairs, swapped.tolist(), strict=True):
            sides = [(text[:limit], self._pair_names[language]), (translation[:limit], pivot)]
            (a, of_a), (b, of_b) = sides[::-1] if swap else sides
            rows.append(self.row(a, b))
            positions += [np.arange(len(a) + 2), np.arange(len(b) + 2)]
            languages += [np.full(len(a) + 2, self.language_ids[of_a]), np.full(len(b) + 2, self.language_ids[of_b])]
        names = [self._pair_names[language] for language, _, _ in pairs]
        made = self._masked("tlm", rows, names, rng, self.recipe.masking.rate)
        position_ids = np.concatenate(positions) if options.reset_positions else None
        return replace(made, languages=np.concatenate(languages), position_ids=position_ids)

    def _make_contrastive(self, job: _Job, rng: np.random.Generator) -> MicroBatch:
        options, stream = self.recipe.objectives.contrastive, self._contrastive
        assert options and stream
        if options.same_language:
            pairs = stream.batch_of_one_language(job.start, job.count, options.pool)
        else:
            pairs = stream.pairs(job.start * job.count, job.count)
        limit = options.max_tokens - 2
        texts = [self.row(text[:limit]) for _, text, _ in pairs]
        translations = [self.row(translation[:limit]) for _, _, translation in pairs]
        rows = texts + translations
        order = np.argsort([len(row) for row in rows], kind="stable")  # attention runs once for every length
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows))
        names = [self._pair_names[language] for language, _, _ in pairs] + [self.recipe.data.pivot] * len(pairs)
        made = self._masked("contrastive", [rows[i] for i in order], [names[i] for i in order], rng, options.mask_rate)
        duplicates = _equal(texts) | _equal(translations)
        np.fill_diagonal(duplicates, False)
        return replace(made, pairs=Pairs(place[: len(pairs)], place[len(pairs) :], duplicates))

    def _next_tokens(self, rows: Sequence[Ids], names: Sequence[str]) -> MicroBatch:
        """Every token but the first of a row is to be predicted, at the place before it."""
        made = self._masked("clm", rows, names, np.random.default_rng(0), 0.0)
        positions, targets = next_tokens(made.ids, made.lengths)
        return replace(made, positions=positions, targets=targets)

    def _masked(
        self, objective: str, rows: Sequence[Ids], names: Sequence[str], rng: np.random.Generator, rate: float
    ) -> MicroBatch:
        ids, lengths = pack(rows)
        masked = self.mask(ids, lengths, rng, rate) if rate else Masked(ids, ids[:0], ids[:0])
        languages = np.repeat(np.array([self.language_ids[name] for name in names], np.int64), lengths)
        return MicroBatch(objective, masked.ids, lengths, list(names), masked.positions, masked.targets, languages)

    def mask(
        self,
        ids: Ids,
        lengths: Sequence[int],
        rng: np.random.Generator,
        rate: float,
        shares: tuple[float, float, float] | None = None,
    ) -> Masked:
        """Choose and corrupt as the recipe says, or with other ``shares`` of mask, keep and random."""
        options, vocabulary = self.recipe.masking, self._vocabulary
        boundaries = (vocabulary.bos_id, vocabulary.eos_id)
        independent = options.selection == "xlm" and options.frequency_alpha == 0
        special = [i for i in vocabulary.special_ids if i not in boundaries or not (options.boundaries or independent)]
        eligible = eligible_tokens(ids, special)
        if options.selection == "xlm":
            eligible[np.cumsum([0, *lengths[:-1]])] = False  # a row's first token is never predicted
        if options.selection == "roberta":
            chosen = select_per_sequence(eligible, lengths, rate, rng)
        elif independent:
            chosen = select_independent(eligible, rate, rng)
        else:
            chosen = select_weighted(ids, eligible, self._weights, rate, rng)
        return corrupt(ids, chosen, vocabulary.mask_id, self._replacements, rng, shares or options.shares)

    def _stream(self, objective: str, phase: int, length: int) -> BlockStream:
        if (key := (objective, phase)) not in self._streams:
            data, seed = self.recipe.data, self.recipe.seed
            name = f"phase {phase}" if objective == "mlm" else f"phase {phase} {objective}"
            start = None if data.first_token == "none" else self.start_id
            self._streams[key] = BlockStream(
                self._texts, self.text_probabilities, length, start, data.blocks, seed, name
            )
        return self._streams[key]


def next_tokens(ids: Ids, lengths: Sequence[int]) -> tuple[Ids, Ids]:
    """Where a next token of a row follows, and which."""
    positions = np.setdiff1d(np.arange(len(ids)), np.cumsum(lengths) - 1)
    return positions, ids[positions + 1]


def _probabilities(counts: Mapping[str, int], alpha: float) -> dict[str, float]:
    return language_probabilities(counts, alpha) if counts else {}


def split(micro: MicroBatch, halvings: int) -> list[MicroBatch]:
    """The micro-batch cut in two by rows, as many times over; pairs, whose rows need each other, and single rows stay."""
    count = len(micro.lengths)
    if not halvings or micro.pairs or count < 2:
        return [micro]
    middle = count // 2
    at = sum(micro.lengths[:middle])
    first = micro.positions < at

    def part(rows: slice, tokens: slice, chosen: NDArray[np.bool_], shift: int) -> MicroBatch:
        return MicroBatch(
            micro.objective,
            micro.ids[tokens],
            micro.lengths[rows],
            micro.row_languages[rows],
            micro.positions[chosen] - shift,
            micro.targets[chosen],
            micro.languages[tokens],
            None if micro.position_ids is None else micro.position_ids[tokens],
        )

    halves = [part(slice(middle), slice(at), first, 0), part(slice(middle, None), slice(at, None), ~first, at)]
    return [piece for half in halves for piece in split(half, halvings - 1)]


def _equal(rows: Sequence[Ids]) -> NDArray[np.bool_]:
    """(n, n): which rows have the same ids."""
    keys = np.unique([row.tobytes() for row in rows], return_inverse=True)[1]
    return keys[:, None] == keys[None, :]


def _cut(objective: str, start: int, count: int, size: int) -> list[_Job]:
    return [_Job(objective, start + at, min(size, count - at), i) for i, at in enumerate(range(0, count, size))]
