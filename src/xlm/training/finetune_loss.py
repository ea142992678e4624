"""The losses of the tasks over packed batches, and the scores that their answers are read from.

A loss comes as a sum over what is predicted, with how many predictions there were and how many were right, so that steps
of several passes and processes add up to the mean of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xlm.backends.torch.packed import head_scores, rows_read
from xlm.backends.torch.transfer import upload
from xlm.batches.batch import Batch
from xlm.batches.masking import Masked, corrupt, eligible_tokens, ordinary_ids, select_per_sequence
from xlm.data.random import keyed
from xlm.errors import InputError
from xlm.tasks.base import Item, Task
from xlm.tasks.classify import Classify
from xlm.tasks.embed import Embed
from xlm.tasks.language import Fill, LanguageTask
from xlm.tokenizers.align import IGNORED
from xlm.training.finetune_steps import Packed, by_tokens, packed
from xlm.training.objectives import masked_loss, mean_pool
from xlm.training.steps import MicroBatch

HELD_OUT = "held out"


@dataclass(frozen=True)
class Loss:
    """``scaled`` carries the gradient; ``sum`` is the loss, unscaled, and ``correct`` the hits of ``count`` predictions: both
    numbers, or tensors of one number, which are read when the work of a step has been handed to the device."""

    scaled: Tensor
    sum: Tensor | float
    correct: Tensor | int
    count: int


class Head:
    """A task's head on a model: scores of packed batches, and their loss.

    Args:
        weights: a factor of the loss a label, or None.
        mask_id, special_ids: what masked language modelling needs of the tokenizer.
    """

    def __init__(
        self,
        task: Task,
        model: Any,
        device: torch.device,
        weights: Sequence[float] | None = None,
        mask_id: int | None = None,
        special_ids: Sequence[int] = (),
        languages: Sequence[int | None] | None = None,
    ) -> None:
        self.task, self.model, self.device = task, model, device
        self._weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
        self._mask_id, self._special_ids = mask_id, special_ids
        self._ordinary = ordinary_ids(model.config.vocab_size, special_ids)
        self._languages = languages

    def pack(self, items: Sequence[Item], *key: int | str, languages: Sequence[int | None] | None = None) -> Packed:
        """The rows of some items end to end; ``key`` seeds what is drawn at random (masks). The languages are those of
        the training examples unless others are given."""
        batch = packed(items, self._known(languages))
        return replace(batch, masked=self._predictions(batch, *key)) if isinstance(self.task, LanguageTask) else batch

    def passes(
        self, items: Sequence[Item], tokens: int, languages: Sequence[int | None] | None = None
    ) -> list[list[Item]]:
        """Items by forward pass of at most ``tokens`` tokens; languages as of :meth:`pack`."""
        return by_tokens(items, tokens, self._known(languages))

    def _known(self, languages: Sequence[int | None] | None) -> Sequence[int | None] | None:
        """The languages of examples, where the model tells languages apart."""
        return (self._languages if languages is None else languages) if self.model.spec.num_languages else None

    def count(self, batch: Packed) -> int:
        """How many predictions a batch's loss is the sum of."""
        if batch.masked is not None:
            return len(batch.masked.targets)
        if self.task.name == "tag":
            return sum(int((target != IGNORED).sum()) for target in batch.targets)
        return len(batch.items)

    def states(self, batch: Packed, rows: Tensor | None = None) -> Tensor:
        """Last hidden states (tokens, hidden), or of ``rows`` alone, which spares the last layer the others."""
        ids = batch.ids if batch.masked is None else batch.masked.ids
        languages = None if batch.languages is None else torch.from_numpy(batch.languages)
        # On the host, where the model checks them.
        return self.model.states(Batch.packed(torch.from_numpy(ids), batch.lengths, languages=languages), rows)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return upload(torch.from_numpy(array), self.device)

    def _head(self, batch: Packed) -> Tensor:
        """The head's scores in float32, in the packed order of rows or tokens."""
        rows = rows_read(self.model, batch.lengths, self.device)
        lengths = batch.lengths if rows is None else [1] * len(batch.lengths)
        return head_scores(self.model, self.states(batch, rows), lengths).float()

    def loss(self, batch: Packed, scale: float) -> Loss:
        """The loss of a batch, times ``scale`` in what is back-propagated."""
        if batch.masked is not None:
            # Gradients of the head are taken here, chunk by chunk of rows: logits of all of them never exist at once.
            m = batch.masked
            micro = MicroBatch(self.task.name, m.ids, batch.lengths, [], m.positions, m.targets, m.ids)
            rows_MH = self.states(batch, self._tensor(m.positions))
            scaled, result = masked_loss(self.model, rows_MH, micro, scale)
            return Loss(scaled, result.loss, result.correct, result.count)
        total, correct = self._loss(batch)
        return Loss(total * scale, total.detach(), correct, self.count(batch))

    def _loss(self, batch: Packed) -> tuple[Tensor, Tensor | int]:
        if isinstance(self.task, Embed):
            return self._contrast(self.states(batch), batch)
        scores = self._head(batch)
        name = self.task.name
        if name == "tag":
            return self._classes(scores, batch.by_token(batch.targets))
        if name == "answer":
            return self._ends(scores, batch)
        rows = scores.index_select(0, self._tensor(batch.place))
        if name == "choose":
            return self._choices(rows, batch)
        if name == "rerank" or (isinstance(self.task, Classify) and self.task.problem != "single"):
            return self._values(rows, batch)
        return self._classes(rows, np.asarray(batch.targets))

    def _classes(self, scores: Tensor, targets: NDArray[np.int64]) -> tuple[Tensor, Tensor | int]:
        wanted = self._tensor(targets)
        loss = functional.cross_entropy(scores, wanted, self._weights, ignore_index=IGNORED, reduction="sum")
        return loss, (scores.detach().argmax(-1) == wanted).sum()

    def _values(self, scores: Tensor, batch: Packed) -> tuple[Tensor, Tensor | int]:
        wanted = self._tensor(np.asarray(batch.targets, np.float32)).view(len(scores), -1)
        if isinstance(self.task, Classify) and self.task.problem == "regression":
            return functional.mse_loss(scores, wanted, reduction="sum"), 0
        each = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        if self._weights is not None:
            each = each * self._weights
        right = ((scores.detach() > 0) == (wanted >= 0.5)).all(-1).sum()
        return each.mean(-1).sum(), right

    def _choices(self, rows: Tensor, batch: Packed) -> tuple[Tensor, Tensor | int]:
        total = rows.new_zeros(())
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for item, of in zip(batch.items, rows[:, 0].split([len(item.rows) for item in batch.items]), strict=True):
            wanted = self._tensor(np.asarray(item.target))
            total = total + functional.cross_entropy(of, wanted)
            correct += of.detach().argmax() == wanted
        return total, correct

    def _ends(self, scores: Tensor, batch: Packed) -> tuple[Tensor, Tensor | int]:
        """Each end's token competes with those of its own row."""
        total = scores.new_zeros(())
        right = torch.ones(len(batch.items), dtype=torch.bool, device=self.device)
        # Rows as columns of a rectangle whose rest cannot be chosen; a mask would make the host wait for its places.
        longest = max(batch.lengths)
        inside = np.arange(longest) < np.asarray(batch.lengths)[:, None]
        places = self._tensor(np.flatnonzero(inside))
        for side in (0, 1):
            wide = scores.new_full((inside.size,), -torch.inf).index_copy(0, places, scores[:, side])
            rows = wide.view(-1, longest)[self._tensor(batch.place)]
            wanted = self._tensor(np.asarray([item.target[side] for item in batch.items]))
            total = total + functional.cross_entropy(rows, wanted, reduction="sum") / 2
            right &= rows.detach().argmax(-1) == wanted
        return total, right.sum()

    def _pooled(self, states_TH: Tensor, batch: Packed) -> Tensor:
        assert isinstance(self.task, Embed)
        if self.task.pooling == "mean":
            rows = mean_pool(states_TH, batch.lengths)
        elif self.task.pooling == "cls":
            starts = np.cumsum([0, *batch.lengths[:-1]])
            rows = states_TH.index_select(0, self._tensor(starts)).float()
        else:
            raise InputError(f"pooling is {self.task.pooling!r}: embeddings are trained with mean or cls")
        return rows.index_select(0, self._tensor(batch.place))

    def _contrast(self, states_TH: Tensor, batch: Packed) -> tuple[Tensor, Tensor | int]:
        """InfoNCE, both ways: each text must find its partner among those of the batch and the negatives; twins of the
        partner do not count as wrong."""
        assert isinstance(self.task, Embed)
        with torch.autocast(self.device.type, enabled=False):  # a temperature makes bf16's error many times as large
            vectors = functional.normalize(self._pooled(states_TH, batch), dim=-1)
            return self._ranked(vectors, batch, self.task.temperature)

    def _ranked(self, vectors: Tensor, batch: Packed, temperature: float) -> tuple[Tensor, Tensor | int]:
        """The loss of unit vectors in the order of the batch's rows, and how many texts rank their partner first."""
        firsts = np.cumsum([0, *(len(item.rows) for item in batch.items)])[:-1]
        others = np.setdiff1d(np.arange(len(vectors)), np.concatenate([firsts, firsts + 1]))
        keys = [row.tobytes() for item in batch.items for row in item.rows]
        candidates = np.concatenate([firsts + 1, others])
        texts = vectors[self._tensor(firsts)]
        partners = vectors[self._tensor(candidates)]
        similarity = texts @ partners.T / temperature
        size = len(firsts)
        twins = np.asarray([[keys[a + 1] == keys[b] or keys[a] == keys[b] for b in candidates] for a in firsts])
        twins[np.arange(size), np.arange(size)] = False
        same = np.asarray([[keys[a] == keys[b] for b in firsts] for a in firsts]) & ~np.eye(size, dtype=bool)
        twins[:, :size] |= same
        similarity = similarity.masked_fill(self._tensor(twins), -torch.inf)
        wanted = torch.arange(size, device=self.device)
        back = similarity[:, :size].T
        loss = (
            functional.cross_entropy(similarity, wanted, reduction="sum")
            + functional.cross_entropy(back, wanted, reduction="sum")
        ) / 2
        return loss, (similarity.detach().argmax(-1) == wanted).sum()

    def _predictions(self, batch: Packed, *key: int | str) -> Masked:
        """What a language model predicts: masked tokens, or every token at the place before it."""
        if not isinstance(self.task, Fill):
            positions = np.setdiff1d(np.arange(len(batch.ids)), np.cumsum(batch.lengths) - 1)
            return Masked(batch.ids, positions, batch.ids[positions + 1])
        assert self._mask_id is not None
        rng = keyed(*key)
        chosen = select_per_sequence(eligible_tokens(batch.ids, self._special_ids), batch.lengths, self.task.rate, rng)
        # Held-out measures compare best where every chosen token is hidden.
        shares = (1.0, 0.0, 0.0) if HELD_OUT in key else (0.8, 0.1, 0.1)
        return corrupt(batch.ids, chosen, self._mask_id, self._ordinary, rng, shares)

    @torch.inference_mode()
    def scores(
        self, items: Sequence[Item], tokens: int, languages: Sequence[int | None] | None = None
    ) -> list[NDArray[Any]]:
        """What the task's answers are read from, an array an item, in passes of at most ``tokens`` tokens."""
        known = self._known(languages)
        none = [known is not None and known[item.example] is None for item in items]
        order = sorted(range(len(items)), key=lambda index: (none[index], -items[index].tokens))
        found: list[Any] = [None] * len(items)
        place = 0
        for group in self.passes([items[index] for index in order], tokens, languages):
            batch = self.pack(group, HELD_OUT, place, languages=languages)
            for scores in self._scored(batch):
                found[order[place]] = scores
                place += 1
        return found

    def _scored(self, batch: Packed) -> list[NDArray[Any]]:
        if batch.masked is not None:
            # A pass is scored as a whole: its first item carries the sums.
            return [self._predicted(batch, batch.masked)] + [np.zeros(3)] * (len(batch.items) - 1)
        if isinstance(self.task, Embed):
            vectors = self._pooled(self.states(batch), batch).cpu().numpy()
            return np.split(vectors, np.cumsum([len(item.rows) for item in batch.items])[:-1])
        scores = self._head(batch).cpu().numpy()
        if self.task.name in ("tag", "answer"):
            return batch.split(scores)
        rows = scores[batch.place]
        if self.task.name == "choose":
            return np.split(rows[:, 0], np.cumsum([len(item.rows) for item in batch.items])[:-1])
        return list(rows)

    def _predicted(self, batch: Packed, masked: Masked) -> NDArray[np.float64]:
        """Summed loss, hits and number of a language model's predictions."""
        rows = self.states(batch, self._tensor(masked.positions))
        loss, correct = 0.0, 0
        for some, of in zip(rows.split(512), self._tensor(masked.targets).split(512), strict=True):
            logits = self.model.lm_logits(some).float()
            loss += float(functional.cross_entropy(logits, of, reduction="sum"))
            correct += int((logits.argmax(-1) == of).sum())
        return np.asarray([loss, correct, len(masked.targets)])
