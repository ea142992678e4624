"""One round of a translation training: an update for every job, on real, damaged or back-translated sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from xlm.backends.torch import seq2seq
from xlm.batches.batch import Batch
from xlm.data.noise import Words
from xlm.data.random import keyed, torch_seed
from xlm.errors import ConfigError, InputError
from xlm.tasks.translate import Ids, Sentences
from xlm.training.cpu import make_fast
from xlm.training.fused import retire_gradient
from xlm.training.objectives import Result, masked_loss
from xlm.training.optim import build_optimizer, clip_gradients, gradient_norm, rate_factor, set_rate
from xlm.training.runtime import Processes, choose_device, use_bf16
from xlm.training.steps import MicroBatch
from xlm.training.trainer import NonFiniteLoss
from xlm.training.translate_data import Corpora
from xlm.training.translate_recipe import Job, Translate
from xlm.training.translate_steps import Batches, Pass, Rows, passes


def translate(
    model: Any,
    sentences: Sentences,
    texts: Sequence[Ids],
    source: str,
    target: str,
    factor: float = seq2seq.FACTOR,
    extra: int = seq2seq.EXTRA,
    **options: Any,
) -> list[Ids]:
    """Translations (ids without special tokens) of ids without special tokens, in their order.

    Args:
        factor, extra: a translation has at most ``factor`` times the tokens of its source and ``extra`` more, and never more
            than can be read again by both sides.
        options: of the model's ``generate``.
    """
    first, limit = sentences.config.source_side(source).start, position_limit(sentences.config)
    rows = [sentences.row(ids, first) for ids in texts]
    found: list[Any] = [None] * len(texts)
    for members in seq2seq.batches([len(row) for row in rows], next(model.parameters()).device):
        some = [rows[index] for index in members]
        # What is read again stands between two special tokens.
        most = [max(min(int(factor * len(row)) + extra, limit - 2), 1) for row in some]
        for index, row in zip(members, seq2seq.write(model, some, source, target, most, **options), strict=True):
            found[index] = sentences.written(row)
    return found


def position_limit(config: Any) -> int:
    """The tokens of the longest row that encoder and decoder have positions for."""
    return min(int(spec.max_tokens) for spec in config.specs)


@contextmanager
def forbidding(model: Any, tokens: Ids | None) -> Iterator[None]:
    """Let the model write none of some tokens, for the time being.

    Raises:
        ConfigError: its head has no bias to say so with.
    """
    if tokens is None or not len(tokens):
        yield
        return
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is None:
        raise ConfigError("back.own: the model's head has no bias, so tokens cannot be kept from it")
    with torch.no_grad():
        index = torch.from_numpy(tokens).to(bias.device)
        before = bias[index].clone()
        bias[index] = -1e9
    try:
        yield
    finally:
        with torch.no_grad():
            bias[index] = before


def foreign_tokens(texts: Mapping[str, Sequence[Ids]], size: int, share: float) -> dict[str, Ids]:
    """The tokens of every language's text that are rarer in it than ``share`` times their frequency in another's."""
    counts = {name: np.bincount(np.concatenate(of), minlength=size) for name, of in texts.items()}
    rates = {name: count / max(int(count.sum()), 1) for name, count in counts.items()}
    highest = np.max(list(rates.values()), axis=0)
    return {name: np.flatnonzero(rate < share * highest) for name, rate in rates.items()}


class Translator:
    """One process's part in the rounds.

    Args:
        model: an encoder-decoder in float32, on the CPU.

    Attributes:
        jobs: the updates of a round.
        rate: the highest learning rate.
        parameters: those that learn.
    """

    def __init__(self, recipe: Translate, model: Any, sentences: Sentences, corpora: Corpora, group: Processes) -> None:
        self.recipe, self.model, self.sentences, self.group = recipe, model, sentences, group
        self.jobs, self.rate = recipe.jobs(), recipe.rate
        self.device = choose_device(recipe.device)
        self.bf16 = use_bf16(recipe.precision, self.device)
        model.to(self.device).train()
        self._fast = make_fast(model, self.bf16) if self.device.type == "cpu" else None
        options = recipe.optimizer
        self.optimizer = build_optimizer(model, options, self.bf16)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._words_table = model.get_input_embeddings().weight
        tokenizer = sentences.tokenizer
        self._words = Words(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
        self._mask_id = int(tokenizer.mask_token_id)
        self._foreign: dict[str, Ids] = {}
        if recipe.back.own and any(job.kind == "bt" for job in self.jobs):
            self._foreign = foreign_tokens(corpora.texts, int(model.config.vocab_size), recipe.back.own)
        self._sources = {job: self._source(job, corpora) for job in self.jobs}
        self._batches = {
            job: Batches([len(pair[1]) + 2 for pair in self._sources[job]], recipe.batch_tokens, recipe.seed, str(job))
            for job in self.jobs
        }

    def __str__(self) -> str:
        learning = sum(p.numel() for p in self.parameters)
        where = f"{self.device}" if self.group.world == 1 else f"{self.group.world} x {self.device.type}"
        return (
            f"{type(self.model).__name__}: {learning:,} parameters learn at {self.rate:.1e} in "
            f"{'bf16' if self.bf16 else 'fp32'} on {where}; a round: {', '.join(map(str, self.jobs))}"
        )

    def rounds_an_epoch(self) -> int:
        """Rounds until every sentence of every job was seen."""
        return max(batches.in_first_epoch() for batches in self._batches.values())

    @staticmethod
    def _source(job: Job, corpora: Corpora) -> list[tuple[Ids, Ids]]:
        """(what is read, what is written) of a job, as far as the files say it."""
        if job.kind != "mt":
            return [(ids, ids) for ids in corpora.texts[job.languages[0]]]
        a, b = job.languages[0], job.languages[1]
        forward, back = corpora.pairs.get((a, b), []), corpora.pairs.get((b, a), [])
        return [*forward, *((there, here) for here, there in back)]

    def step(self, number: int, done: float) -> tuple[dict[str, float], int]:
        """Round ``number`` (from 0) at progress ``done``; the means of all processes, and the tokens written here.

        Raises:
            NonFiniteLoss: before the update.
        """
        record: dict[str, float] = {}
        norms: list[float] = []
        tokens = 0
        for job in self.jobs:
            weight = self.recipe.weights.at(job.kind, number)
            if weight == 0:
                continue
            torch.manual_seed(torch_seed(self.recipe.seed, "round", number, str(job), self.group.rank))
            made = self._passes(job, number)
            (count,) = self.group.sum([sum(len(one.wanted) for one in made)])
            results = [self._backward(one, weight / max(count, 1)) for one in made]
            loss, correct = self.group.sum(
                [sum(float(r.loss) for r in results), sum(float(r.correct) for r in results)]
            )
            record[f"loss_{job}"], record[f"right_{job}"] = loss / max(count, 1), correct / max(count, 1)
            norms.append(self._update(job, number, done, record[f"loss_{job}"]))
            tokens += sum(result.count for result in results)
        record["gradient"] = max(norms, default=0.0)
        return record, tokens

    def _passes(self, job: Job, number: int) -> list[Pass]:
        """This process's share of a job's batch."""
        recipe, sentences = self.recipe, self.sentences
        chosen = self._batches[job](number)[self.group.rank :: self.group.world]
        pairs = [self._sources[job][index] for index in chosen.tolist()]
        if not pairs:
            return []
        source, target = sentences.config.source_side(job.read), sentences.config.target_side(job.written)
        if job.kind == "ae":
            rng = keyed(recipe.seed, "noise", number, str(job), self.group.rank)
            read = [recipe.noise(ids, self._words(ids), self._mask_id, rng) for ids, _ in pairs]
        elif job.kind == "bt":
            back = recipe.back
            sampling: dict[str, Any] = {}
            if back.temperature:  # of all tokens: generate would draw among the likeliest 50
                sampling = {"do_sample": True, "temperature": back.temperature, "top_k": 0}
            with forbidding(self.model, self._foreign.get(job.read)):
                read = translate(
                    self.model,
                    sentences,
                    [ids for ids, _ in pairs],
                    job.written,
                    job.read,
                    back.factor,
                    back.extra,
                    num_beams=1,
                    **sampling,
                )
        else:
            read = [ids for ids, _ in pairs]
        return passes(
            [sentences.row(ids, source.start) for ids in read],
            [sentences.row(ids, target.start) for _, ids in pairs],
            source.language,
            target.language,
            recipe.micro_tokens,
        )

    def _backward(self, one: Pass, scale: float) -> Result:
        with self._autocast():
            source = self._batch(one.source)
            states_SH = self.model.encode_packed(source)
            rows_TH = self.model.decode_packed(self._batch(one.target), states_SH, source)
            micro = MicroBatch("translate", one.target.ids, one.target.lengths, [], one.wanted, one.wanted, one.wanted)
            scaled, result = masked_loss(self.model, rows_TH, micro, scale)
        scaled.backward()
        return result

    def _batch(self, rows: Rows) -> Batch:
        languages = rows.languages
        ids, spoken = torch.from_numpy(rows.ids), None if languages is None else torch.from_numpy(languages)
        return Batch.packed(ids, rows.lengths, languages=spoken)  # on the host, where the model checks them

    def _update(self, job: Job, number: int, done: float, loss: float) -> float:
        """Sum, check and clip the gradients, and take the optimizer's step; their norm."""
        self.group.sum_gradients(self.parameters)
        norm = gradient_norm(self.parameters)
        if not math.isfinite(loss) or not math.isfinite(float(norm)):
            raise NonFiniteLoss(
                f"round {number}, {job}: loss is {loss}, gradient {float(norm)}: stopped before the update; lower the "
                "learning rate"
            )
        if self.recipe.optimizer.clip is not None:
            clip_gradients(self.parameters, norm, self.recipe.optimizer.clip)
        set_rate(self.optimizer, self.rate * rate_factor(self.recipe.schedule, number, done))
        self.optimizer.step()
        if self._fast is not None:
            self._fast.refresh()
            retire_gradient(self._words_table)
        for parameter in self.parameters:
            parameter.grad = None
        return float(norm)

    def _autocast(self) -> Any:
        """bf16 where the device computes in it; a CPU's operations know by themselves what to compute in it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and self._fast is None)

    def score(self, corpora: Corpora) -> dict[str, float]:
        """BLEU of the held-out pairs in the directions that are trained, and of the round trips of held-out sentences, 0 to
        100: what the recipe's ``score_names`` name.

        ``bleu`` and ``roundtrip`` are the means; the criterion of unsupervised training (Lample et al. 2018) is the latter.
        """
        directions: dict[str, float] = {}
        trips: dict[str, float] = {}
        for (a, b), rows in corpora.eval_pairs.items():
            sides = dict(zip((a, b), zip(*rows, strict=True), strict=True))
            for source, target in self.recipe.scored(a, b):
                read, wanted = sides[source], sides[target]
                made = self._translated(self.sentences.encode(read, source), source, target)
                directions[f"bleu_{source}-{target}"] = _bleu(
                    [self.sentences.text(ids, target) for ids in made], wanted
                )
        for one, texts in corpora.eval_texts.items():
            for other in [name for name in corpora.eval_texts if name != one]:
                there = self._translated(self.sentences.encode(texts, one), one, other)
                back = self._translated(there, other, one)
                trips[f"roundtrip_{one}-{other}-{one}"] = _bleu([self.sentences.text(ids, one) for ids in back], texts)
        means = {"bleu": directions, "roundtrip": trips}
        found = {name: sum(of.values()) / len(of) for name, of in means.items() if of}
        return found | directions | trips

    def _translated(self, texts: Sequence[Ids], source: str, target: str) -> list[Ids]:
        return translate(self.model, self.sentences, texts, source, target, num_beams=1)


def _bleu(made: Sequence[str], wanted: Sequence[str]) -> float:
    from xlm.tasks.metrics.translation import translation_scores

    if not wanted:
        raise InputError("the held-out text is empty: there is nothing to score")
    return float(translation_scores(wanted, made)["bleu"])
