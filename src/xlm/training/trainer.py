"""One optimizer step: forward and backward of its micro-batches, sum over processes, check, clip, update."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlm.atomic import write_text
from xlm.backends.torch.shortage import is_short
from xlm.backends.torch.transfer import upload
from xlm.data.random import torch_seed
from xlm.errors import XLMError
from xlm.training.cpu import make_fast
from xlm.training.fused import retire_gradient
from xlm.training.objectives import Result, contrastive_loss, masked_loss, to_batch
from xlm.training.optim import build_optimizer, clip_gradients, gradient_norm, set_rate
from xlm.training.recipe import Recipe
from xlm.training.runtime import Processes
from xlm.training.sharding import shard
from xlm.training.steps import MicroBatch, split


class NonFiniteLoss(XLMError, ArithmeticError):
    """A loss or gradient is not finite; the weights were not updated, and the batch was written to a file."""


class OutOfMemory(XLMError, MemoryError):
    """A step does not fit into memory, and its micro-batches cannot be halved any more."""


class Trainer:
    """A model and its optimizer. The losses are called ``mlm``, ``tlm``, ``clm``, ``contrastive``, and ``mlm_pairs``: the
    masked tokens of contrastive batches."""

    def __init__(
        self,
        recipe: Recipe,
        model: Any,
        device: torch.device,
        bf16: bool,
        group: Processes,
        dump_folder: Path,
        tell: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.recipe, self.model, self.device, self.bf16, self.group = recipe, model, device, bf16, group
        self._dump_folder, self._tell, self._halvings = dump_folder, tell, 0
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        self.sharded = recipe.parallel == "shard" and group.world > 1
        if self.sharded:
            shard(model, device, bf16)
        self._fast = make_fast(model, bf16) if device.type == "cpu" and not self.sharded else None
        self._words = model.get_input_embeddings().weight
        self.optimizer = build_optimizer(model, recipe.optimizer, bf16)
        objectives = recipe.objectives
        self._weights = {name: part.weight for name in ("mlm", "tlm", "clm") if (part := getattr(objectives, name))}
        if objectives.contrastive:
            self._weights["contrastive"] = objectives.contrastive.mlm_weight

    def step(
        self, number: int, rate: float, micros: Sequence[MicroBatch], at: Callable[[str], None] = lambda place: None
    ) -> dict[str, float]:
        """Step ``number`` at learning rate ``rate``. Returns losses, hits and the gradient's norm over all processes.

        ``at`` hears what is being done. Where memory does not suffice, all processes halve their micro-batches, for the
        rest of the run. Raises ``NonFiniteLoss`` and ``OutOfMemory``, both before the update.
        """
        names = [*self._weights]
        mine = [sum(len(micro.targets) for micro in micros if micro.objective == name) for name in names]
        targets = dict(zip(names, self.group.sum(mine), strict=True))
        whole, results = micros, None
        while results is None:
            micros = [piece for micro in whole for piece in split(micro, self._halvings)]
            results = self._accumulate(number, micros, targets, at)
        at(f"step {number}: update")
        parameters = list(self.model.parameters())
        if self.sharded:
            self._keep_company(len(micros))
        else:
            self.group.sum_gradients(parameters)
        norm = gradient_norm(parameters)
        record = {"gradient": float(norm), **self._summary(results)}
        if bad := [name for name, value in record.items() if not math.isfinite(value)]:
            self._refuse(number, bad, record, micros)
        if self.recipe.optimizer.clip is not None:
            clip_gradients(parameters, norm, self.recipe.optimizer.clip)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        if self._fast is not None:
            self._fast.refresh()
            retire_gradient(self._words)
        for parameter in parameters:
            parameter.grad = None
        return record

    def _accumulate(
        self, number: int, micros: Sequence[MicroBatch], targets: dict[str, float], at: Callable[[str], None]
    ) -> dict[str, list[Result]] | None:
        """The gradients of all micro-batches, or ``None`` if they did not fit: then they are to be halved."""
        torch.manual_seed(torch_seed(self.recipe.seed, "step", number, self.group.rank))
        results: dict[str, list[Result]] = defaultdict(list)
        failed: RuntimeError | MemoryError | None = None
        for count, micro in enumerate(micros, 1):
            at(f"step {number}: micro-batch {count} of {len(micros)}")
            try:
                for name, result in self._backward(micro, targets[micro.objective]):
                    results[name].append(result)
            except (RuntimeError, MemoryError) as error:
                if not is_short(error):
                    raise
                failed = error.with_traceback(None)  # its frames hold the tensors that are too many
                break
        # Cut models compute in step with each other: a process that stops cannot tell the others, which wait for it.
        (any_failed,) = [float(failed is not None)] if self.sharded else self.group.most([failed is not None])
        if not any_failed:
            return results
        for parameter in self.model.parameters():
            parameter.grad = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        largest = max(micros, key=lambda micro: len(micro.ids))
        size = f"{len(largest.lengths)} rows of up to {max(largest.lengths)} tokens, {len(largest.ids)} together"
        if self.sharded or len(largest.lengths) == 1 or any(micro.pairs for micro in micros):
            raise OutOfMemory(
                f"step {number}: a micro-batch of {size} does not fit into memory and is not halved here: lower "
                "batch.micro_tokens or objectives.contrastive.pairs, or set gradient_checkpointing"
            ) from failed
        self._halvings += 1
        self._tell(
            f"[yellow]step {number}: a micro-batch of {size} did not fit into memory: halved from here on. "
            f"batch.micro_tokens={len(largest.ids) // 2} says so from the start"
        )
        return None

    def _backward(self, micro: MicroBatch, targets: float) -> list[tuple[str, Result]]:
        if self.sharded and not len(micro.targets):
            micro, targets = self._nothing(), math.inf  # the head, too, is gathered by all together
        contrastive = self.recipe.objectives.contrastive
        losses: list[Tensor] = []
        results: list[tuple[str, Result]] = []
        # On a CPU the operations know what to compute in bf16, see `xlm.training.cpu`.
        plain = self._fast is None and not self.sharded
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and plain):
            batch = to_batch(micro, self.model.spec)
            positions = upload(torch.from_numpy(micro.positions), self.device)
            if micro.pairs:
                states_NH = self.model.states(batch)
                rows_MH = states_NH.index_select(0, positions)
            else:
                causal = True if micro.objective == "clm" else None
                states_NH = rows_MH = self.model.states(batch, positions, causal)
            if len(micro.targets):
                loss, result = masked_loss(self.model, rows_MH, micro, self._weights[micro.objective] / targets)
                losses.append(loss)
                results.append(("mlm_pairs" if micro.pairs else micro.objective, result))
            if micro.pairs and contrastive:
                loss, result = contrastive_loss(states_NH, micro, contrastive.temperature)
                losses.append(loss * (contrastive.weight / (result.count * self.group.world)))
                results.append(("contrastive", result))
        if losses:
            torch.stack(losses).sum().backward()
        return results

    def _keep_company(self, done: int) -> None:
        """Take part in the other processes' passes when this one's are done: layers are gathered by all together."""
        (most,) = self.group.most([done])
        for _ in range(done, int(most)):
            self._backward(self._nothing(), math.inf)

    def _nothing(self) -> MicroBatch:
        """A row to be computed for no loss."""
        ids = np.full(2, self.model.spec.pad_id + 1)
        return MicroBatch(next(iter(self._weights)), ids, [2], ["none"], ids[:1] * 0, ids[:1], ids * 0)

    def _summary(self, results: dict[str, list[Result]]) -> dict[str, float]:
        names = [*self._weights, "mlm_pairs"]
        flat = [
            sum(float(getattr(r, field)) for r in results[name])
            for name in names
            for field in ("loss", "correct", "count")
        ]
        summed = self.group.sum(flat)
        record: dict[str, float] = {}
        for i, name in enumerate(names):
            loss, correct, count = summed[3 * i : 3 * i + 3]
            if count:
                record |= {f"loss_{name}": loss / count, f"top1_{name}": correct / count}
        return record

    def _refuse(self, step: int, bad: list[str], record: dict[str, float], micros: Sequence[MicroBatch]) -> None:
        path = self._dump_folder / f"nonfinite-step-{step}-rank-{self.group.rank}.json"
        dump = [
            {"objective": m.objective, "languages": m.row_languages, "lengths": m.lengths, "ids": m.ids.tolist()}
            for m in micros
        ]
        values = {name: str(value) for name, value in record.items()}
        write_text(path, json.dumps({"step": step, "values": values, "micro_batches": dump}))
        languages = ", ".join(sorted({name for m in micros for name in m.row_languages}))
        raise NonFiniteLoss(
            f"step {step}: {', '.join(f'{name} is {record[name]}' for name in bad)}: stopped before the update. "
            f"The batch (seed {self.recipe.seed}, languages {languages}) is in {path}; the last checkpoint is intact: "
            "lower optimizer.learning_rate"
        )
