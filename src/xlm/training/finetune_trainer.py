"""One step of fine-tuning, and the answers of the model as it is: a model, its head, its optimizer and its data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from xlm.data.random import torch_seed
from xlm.training.cpu import make_fast
from xlm.training.finetune_data import Prepared, class_weights
from xlm.training.finetune_loss import Head
from xlm.training.finetune_model import build_optimizer, learning_rate, make_model
from xlm.training.finetune_recipe import FineTune
from xlm.training.finetune_steps import Packed, Plan
from xlm.training.fused import retire_gradient
from xlm.training.optim import clip_gradients, gradient_norm, rate_factor, set_rate
from xlm.training.runtime import Processes, choose_device, use_bf16
from xlm.training.trainer import NonFiniteLoss


class FineTuner:
    """One process's part in the steps.

    Args:
        folder: of the pretrained model and ``tokenizer``.

    Attributes:
        rate: the highest learning rate.
        parameters: those that learn.
        plan: which examples belong to which step.
    """

    def __init__(self, recipe: FineTune, data: Prepared, folder: Any, tokenizer: Any, group: Processes) -> None:
        self.recipe, self.group = recipe, group
        self.task, self._data = data.task, data
        self.device = choose_device(recipe.device)
        self.bf16 = use_bf16(recipe.precision, self.device)
        self.model = make_model(recipe, data.task, folder)
        self.rate = learning_rate(recipe, self.model)
        self.model.to(self.device).train()
        self._fast = make_fast(self.model, self.bf16) if self.device.type == "cpu" else None
        self.optimizer = build_optimizer(self.model, recipe, self.rate)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._words = self.model.get_input_embeddings().weight
        self._lang2id: dict[str | None, int] = getattr(self.model.config, "lang2id", None) or {}
        self.head = Head(
            data.task,
            self.model,
            self.device,
            class_weights(recipe, data.task, data.train.examples),
            tokenizer.mask_token_id,
            tuple(tokenizer.all_special_ids),
            [self._lang2id.get(example.language) for example in data.train.examples],
        )
        self.plan = Plan(data.features.items, recipe.batch, recipe.epochs, recipe.seed)
        self._schedule = recipe.schedule(self.plan.steps)

    def __str__(self) -> str:
        learning = sum(p.numel() for p in self.parameters)
        total = sum(p.numel() for p in self.model.parameters())
        world = self.group.world
        where = f"{self.device}" if world == 1 else f"{world} x {self.device.type}"
        return (
            f"{type(self.model).__name__}: {learning:,} of {total:,} parameters learn at {self.rate:.1e}, "
            f"{self.plan.steps:,} steps of {self.recipe.batch} in {'bf16' if self.bf16 else 'fp32'} on {where}"
        )

    def step(self, number: int) -> tuple[dict[str, float], int]:
        """Step ``number`` over this process's share of its batch; the record of all processes, and the tokens here.

        Raises:
            NonFiniteLoss: before the update.
        """
        torch.manual_seed(torch_seed(self.recipe.seed, "step", number, self.group.rank))
        mine = self.plan.step(number)[self.group.rank :: self.group.world]
        # Contrastive candidates are those of one pass: it is not cut, but for texts without a language embedding.
        limit = 1 << 62 if self.task.name == "embed" else self.recipe.micro_tokens
        batches = [
            self.head.pack(items, self.recipe.seed, "masks", number, self.group.rank, place)
            for place, items in enumerate(self.head.passes(mine, limit))
        ]
        (count,) = self.group.sum([sum(self.head.count(batch) for batch in batches)])
        found: list[tuple[Tensor | float, Tensor | int]] = []
        for batch in batches:
            with self._autocast():
                made = self.head.loss(batch, 1.0 / max(count, 1))
            made.scaled.backward()
            found.append((made.sum, made.correct))
        # Read when all is handed to the device: else it would wait for the host before every backward pass.
        loss, correct = (sum(float(pair[side]) for pair in found) for side in (0, 1))
        self.group.sum_gradients(self.parameters)
        norm = gradient_norm(self.parameters)
        loss, correct = self.group.sum([loss, correct])
        name = f"loss_{self.task.name}"
        record = {name: loss / max(count, 1), "gradient": float(norm), "right": correct / max(count, 1)}
        if not math.isfinite(record["gradient"]) or not math.isfinite(loss):
            self._refuse(number, record, batches)
        if self.recipe.clip is not None:
            clip_gradients(self.parameters, norm, self.recipe.clip)
        set_rate(self.optimizer, self.rate * rate_factor(self._schedule, number, self.plan.done(number)))
        self.optimizer.step()
        if self._fast is not None:
            self._fast.refresh()
            retire_gradient(self._words)
        for parameter in self.parameters:
            parameter.grad = None
        return record, sum(len(batch.ids) for batch in batches)

    def answers(self) -> list[Any]:
        """What the model as it is answers to the evaluation examples, in their order."""
        held_out, features = self._data.held_out, self._data.held_out_features
        if held_out is None or features is None:
            return []
        languages = [self._lang2id.get(example.language) for example in held_out.examples]
        self.model.eval()
        with self._autocast():
            raw = self.head.scores(features.items, self.recipe.micro_tokens, languages)
        self.model.train()
        return self.task.answers(held_out.examples, features, raw)

    def _autocast(self) -> Any:
        """bf16 where the device computes in it; a CPU's operations know by themselves what to compute in it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and self._fast is None)

    def _refuse(self, step: int, record: dict[str, float], batches: list[Packed]) -> None:
        examples = [str(item.example) for batch in batches for item in batch.items]
        raise NonFiniteLoss(
            f"step {step}: loss is {record[f'loss_{self.task.name}']}, gradient {record['gradient']}: stopped before "
            f"the update; training examples {', '.join(examples[:20])} (from 0): lower learning_rate"
        )
