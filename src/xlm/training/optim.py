"""AdamW with the papers' parameter groups, and learning rates that are a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from xlm.training.muon import Muon
from xlm.training.recipe import Optimizer, Schedule, fraction
from xlm.training.sharding import whole


def build_optimizer(model: nn.Module, options: Optimizer, bf16: bool = False) -> torch.optim.Optimizer:
    """AdamW over all parameters that learn; biases and norms (fewer than two dimensions) are not decayed.

    With ``kind: muon`` the matrices of the encoder's layers take Muon's steps, at ``matrix_rate`` where the others are at
    ``learning_rate``; ``bf16`` says that the machine multiplies in it.
    """
    if options.kind == "muon":
        return _build_muon(model, options, bf16)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.eps,
        fused=True,
    )


def _build_muon(model: nn.Module, options: Optimizer, bf16: bool) -> Muon:
    matrices, tables, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = ".layer." in name and parameter.ndim == 2
            (matrices if inside else tables if parameter.ndim >= 2 else vectors).append(parameter)
    decay, ratio = options.weight_decay, options.matrix_rate / options.learning_rate
    groups = [
        {"params": matrices, "weight_decay": decay, "muon": True, "rate": ratio},
        {"params": tables, "weight_decay": decay, "rate": 1.0},
        {"params": vectors, "weight_decay": 0.0, "rate": 1.0},
    ]
    return Muon(
        [group for group in groups if group["params"]],
        options.learning_rate,
        betas=options.betas,
        eps=options.eps,
        bf16=bf16,
    )


def rate_factor(schedule: Schedule, step: int, progress: float) -> float:
    """The factor of the peak learning rate: linear warm-up, hold, decay to ``final`` at the end.

    A run of steps goes by ``step`` (from 0) alone; a run of minutes by ``progress`` in [0, 1].
    """
    if (steps := schedule.steps) is not None:
        warmup, hold = (round(fraction(value, steps) * steps) for value in (schedule.warmup, schedule.hold))
        if step < warmup:
            return (step + 1) / warmup
        if schedule.decay == "inverse_sqrt" and step >= warmup + hold:
            scale = max(warmup + hold, 1)
            return max(math.sqrt(scale / max(step + 1, scale)), schedule.final)
        gone = (step - warmup - hold) / max(steps - warmup - hold, 1)
    else:
        if progress < schedule.warmup:
            return (progress + 1e-4) / schedule.warmup
        gone = (progress - schedule.warmup - schedule.hold) / max(1 - schedule.warmup - schedule.hold, 1e-9)
    if gone < 0 or schedule.decay in ("constant", "inverse_sqrt"):
        return 1.0
    gone = min(gone, 1.0)
    shape = 1.0 - gone if schedule.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone))
    return schedule.final + (1.0 - schedule.final) * shape


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of every group: ``rate`` times the group's own ``rate``, if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients together, a scalar tensor (0 when there are none)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return whole(torch.nn.utils.get_total_norm(gradients)) if gradients else torch.zeros(())


def clip_gradients(parameters: Iterable[nn.Parameter], norm: Tensor, limit: float) -> None:
    """Scale all gradients by ``min(1, limit / norm)``."""
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    torch.nn.utils.clip_grads_with_norm_(learning, limit, norm)
