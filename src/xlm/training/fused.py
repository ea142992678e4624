"""Gradients of the big vocabulary table without copies of it: added where they are computed.

For a table of 250,002 x 768 one gradient is 768 MB. Plain autograd makes a new one for the embedding look-up, one for every
chunk of the head, and adds them up; here both write into the one ``weight.grad``. V vocabulary, H hidden, M rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def linear_cross_entropy(
    rows_MH: Tensor, targets: Tensor, weight_VH: Tensor, bias: Tensor | None, scale: float, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of ``rows @ weight.T + bias`` against ``targets`` (M,), forward and backward, chunk by chunk of rows.

    ``scale`` times the gradients of the summed loss is added to ``weight.grad`` and ``bias.grad``. Logits take the dtype of
    ``rows_MH``, the loss is computed in fp32.

    Returns:
        the summed loss, the number of rows whose largest logit is the target's, and the gradient of the rows (M, H), scaled.
    """
    gradient_MH = torch.empty_like(rows_MH)
    for parameter in (weight_VH, bias):
        if parameter is not None and parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    low_weight_VH = weight_VH.to(rows_MH.dtype)
    loss = torch.zeros((), device=rows_MH.device, dtype=torch.float32)
    correct = torch.zeros((), device=rows_MH.device, dtype=torch.int64)
    for start in range(0, len(targets), chunk):
        rows_CH, wanted_C1 = rows_MH[start : start + chunk], targets[start : start + chunk, None]
        logits_CV = rows_CH @ low_weight_VH.T
        if bias is not None:
            logits_CV += bias.to(logits_CV.dtype)
        p_CV = logits_CV.float()
        correct += (p_CV.argmax(1, keepdim=True) == wanted_C1).sum()
        highest_C1 = p_CV.amax(1, keepdim=True)
        true_C1 = p_CV.gather(1, wanted_C1)
        p_CV.sub_(highest_C1).exp_()
        total_C1 = p_CV.sum(1, keepdim=True)
        loss += (total_C1.log() + highest_C1 - true_C1).sum()
        p_CV.mul_(scale / total_C1).scatter_add_(1, wanted_C1, torch.full_like(true_C1, -scale))
        d_CV = p_CV.to(rows_MH.dtype)
        torch.mm(d_CV, low_weight_VH, out=gradient_MH[start : start + chunk])
        if weight_VH.grad is not None and weight_VH.requires_grad:
            if weight_VH.grad.dtype == d_CV.dtype:
                weight_VH.grad.addmm_(d_CV.T, rows_CH)
            else:
                weight_VH.grad.add_(d_CV.T @ rows_CH)
        if bias is not None and bias.grad is not None and bias.requires_grad:
            bias.grad.add_(p_CV.sum(0))
    return loss, correct, gradient_MH


class _LookUp(torch.autograd.Function):
    """``weight[ids]`` whose backward adds into ``weight.grad``."""

    @staticmethod
    def forward(ctx: Any, weight_VH: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.weight, ctx.ids, ctx.padding = weight_VH, ids, padding
        return weight_VH.detach()[ids]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:  # type: ignore[override]
        weight_VH, ids = ctx.weight, ctx.ids.reshape(-1)
        rows_TH = gradients[0].reshape(-1, weight_VH.shape[1]).to(weight_VH.dtype)
        if ctx.padding is not None:
            rows_TH = rows_TH * (ids != ctx.padding)[:, None]
        if weight_VH.grad is None:
            weight_VH.grad = torch.zeros_like(weight_VH)
        weight_VH.grad.index_add_(0, ids, rows_TH)
        return None, None, None


class AccumulatingEmbedding(nn.Embedding):
    """An embedding for training on a CPU whose backward adds a batch's rows into the gradient, instead of a whole table."""

    @classmethod
    def of(cls, other: nn.Embedding) -> AccumulatingEmbedding:
        """The same table, shared."""
        new = cls(*other.weight.shape, padding_idx=other.padding_idx, device="meta")
        new.weight = other.weight
        return new

    def forward(self, input: Tensor) -> Tensor:
        """(..., ) ids -> (..., H)."""
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return _LookUp.apply(self.weight, input, self.padding_idx)  # type: ignore[return-value]
        return super().forward(input)


def accumulate_embeddings(model: Any) -> None:
    """Let the model's word embeddings add into their gradient. Names, weights and ties stay what they are."""
    words = model.get_input_embeddings()
    if type(words) is nn.Embedding:
        model.set_input_embeddings(AccumulatingEmbedding.of(words))
