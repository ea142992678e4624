"""Held-out measures during pretraining: masked-token loss and top-1 by language beside a unigram guesser, retrieval
by pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xlm.batches.masking import Masked
from xlm.batches.packing import pack, stream_blocks
from xlm.data.random import keyed
from xlm.data.store import TokenStore
from xlm.data.vocabulary import Vocabulary
from xlm.training.objectives import mean_pool, to_batch
from xlm.training.steps import MicroBatch, StepBuilder, next_tokens


@dataclass(frozen=True)
class LanguageScore:
    """``loss`` in nats a masked token; the unigram guesser knows the language's token frequencies in the training text."""

    loss: float
    top1: float
    unigram_loss: float
    unigram_top1: float
    predictions: int


class Validation:
    """The same rows and the same masks every time. Chosen tokens are all replaced by the mask, so that measures compare.
    A model that was trained with CLM alone says every next token instead."""

    def __init__(
        self,
        builder: StepBuilder,
        vocabulary: Vocabulary,
        valid: Mapping[str, TokenStore],
        train: Mapping[str, TokenStore],
        held_out: Mapping[str, TokenStore],
    ) -> None:
        options, self._vocabulary = builder.recipe.every, vocabulary
        self._known = index = builder.language_ids
        self._micro: dict[str, MicroBatch] = {}
        self._unigram: dict[str, tuple[float, float]] = {}
        causal = builder.recipe.objectives.only_causal
        for language, store in valid.items():
            blocks = stream_blocks(len(store.tokens), options.valid_length - 1)
            step = max(len(blocks) // options.valid_rows, 1)
            rows = [
                np.concatenate([[builder.start_id], store.slice(*b)])
                for b in blocks[::step][: options.valid_rows].tolist()
            ]
            ids, lengths = pack(rows)
            if causal:
                masked = Masked(ids, *next_tokens(ids, lengths))
            else:
                masked = builder.mask(ids, lengths, keyed("validation", language), 0.15, (1.0, 0.0, 0.0))
            self._micro[language] = _micro(masked, lengths, np.full(len(ids), index.get(language, 0)))
            if language in train:
                self._unigram[language] = _unigram_scores(train[language].counts, vocabulary, masked.targets)
        pivot = builder.recipe.data.pivot
        self._pairs = {
            language: _pair_rows(store, builder, index[language], index[pivot])
            for language, store in held_out.items()
            if len(store) >= 40
        }

    def masked_scores(self, model: Any, device: torch.device) -> dict[str, LanguageScore]:
        """Loss and top-1 of every language that the model knows."""
        scores: dict[str, LanguageScore] = {}
        for language, micro in self._micro.items():
            if model.spec.num_languages and language not in self._known:
                continue
            with torch.no_grad():
                rows_MH = model.states(to_batch(micro, model.spec), torch.from_numpy(micro.positions).to(device))
                logits_MV = model.lm_logits(rows_MH).float()
            targets = torch.from_numpy(micro.targets).to(device)
            loss = float(functional.cross_entropy(logits_MV, targets))
            top1 = float((logits_MV.argmax(-1) == targets).float().mean())
            by_frequency = self._unigram.get(language, (math.nan, math.nan))
            scores[language] = LanguageScore(loss, top1, by_frequency[0], by_frequency[1], len(targets))
        return scores

    def retrieval_scores(self, model: Any, device: torch.device) -> dict[str, float]:
        """How often the nearest of up to 100 candidates is the translation, both directions averaged."""
        scores: dict[str, float] = {}
        for language, (micro, texts, translations) in self._pairs.items():
            with torch.no_grad():
                pooled = functional.normalize(
                    mean_pool(model.states(to_batch(micro, model.spec)), micro.lengths), dim=-1
                )
            similarity: Tensor = pooled[torch.from_numpy(texts)] @ pooled[torch.from_numpy(translations)].T
            wanted = torch.arange(len(texts), device=similarity.device)
            hits = [(s.argmax(-1) == wanted).float().mean() for s in (similarity, similarity.T)]
            scores[language] = float(sum(hits) / 2)
        return scores


def summary(scores: Mapping[str, LanguageScore], retrieval: Mapping[str, float]) -> tuple[dict[str, Any], str]:
    """What was measured, as a record (means over languages, and each language's) and in words."""
    record: dict[str, Any] = {}
    words: list[str] = []
    if scores:
        for name in ("loss", "top1", "unigram_loss"):
            record[name] = sum(getattr(score, name) for score in scores.values()) / len(scores)
        for name in ("loss", "top1"):
            record[f"{name}_by_language"] = {k: round(getattr(score, name), 4) for k, score in scores.items()}
        words.append(f"held-out loss {record['loss']:.3f} (unigram {record['unigram_loss']:.3f})")
        words.append(f"top-1 {100 * record['top1']:.1f} %")
    if retrieval:
        record["retrieval"] = sum(retrieval.values()) / len(retrieval)
        record["retrieval_by_language"] = {name: round(value, 4) for name, value in retrieval.items()}
        words.append(f"translation first {100 * record['retrieval']:.1f} %")
    return record, ", ".join(words)


def _micro(masked: Masked, lengths: list[int], languages: NDArray[np.int64]) -> MicroBatch:
    return MicroBatch("validation", masked.ids, lengths, [], masked.positions, masked.targets, languages)


def _unigram_scores(
    counts: NDArray[np.int64], vocabulary: Vocabulary, targets: NDArray[np.int64]
) -> tuple[float, float]:
    known = counts.astype(np.float64)
    known[list(vocabulary.special_ids)] = 0
    frequency = (known + 0.1) / (known + 0.1).sum()
    return float(-np.log(frequency[targets]).mean()), float((targets == int(known.argmax())).mean())


def _pair_rows(
    store: TokenStore, builder: StepBuilder, language: int, pivot: int
) -> tuple[MicroBatch, NDArray[np.int64], NDArray[np.int64]]:
    count = min(len(store) // 2, 100)
    rows = [builder.row(store.sentence(i)[:62]) for side in (0, 1) for i in range(side, 2 * count, 2)]
    order = np.argsort([len(row) for row in rows], kind="stable")
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows))
    ids, lengths = pack([rows[i] for i in order])
    languages = np.repeat(np.where(order < count, language, pivot), lengths)
    return _micro(Masked(ids, ids[:0], ids[:0]), lengths, languages), place[:count], place[count:]
