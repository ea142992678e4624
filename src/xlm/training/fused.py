"""Gradients of the big vocabulary table without copies of it: added where they are computed.

For a table of 250,002 x 768 one gradient is 768 MB. Plain autograd makes a new one for the embedding look-up, one for every
chunk of the head, and adds them up; here both write into the one ``weight.grad``. V vocabulary, H hidden, M rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 8192  # columns of logits at a time on a CPU: they stay in its cache
_SPARE = "_spare_gradient"
_scratch: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def retire_gradient(parameter: Tensor) -> None:
    """Clear a big gradient but keep its memory for the next: new pages cost more than the sums written into them."""
    if parameter.grad is not None:
        setattr(parameter, _SPARE, parameter.grad)
        parameter.grad = None


def _gradient(parameter: Tensor) -> tuple[Tensor, bool]:
    """The parameter's gradient and whether it must be written before it can be added to."""
    if parameter.grad is not None:
        return parameter.grad, False
    spare = getattr(parameter, _SPARE, None)
    parameter.grad = torch.empty_like(parameter) if spare is None else spare
    setattr(parameter, _SPARE, None)
    assert parameter.grad is not None
    return parameter.grad, True


def _buffer(elements: int, like: Tensor) -> Tensor:
    """Memory for ``elements`` numbers, the same again at the next call."""
    key = (like.device, like.dtype)
    if key not in _scratch or _scratch[key].numel() < elements:
        _scratch[key] = torch.empty(elements, dtype=like.dtype, device=like.device)
    return _scratch[key]


@torch.no_grad()
def linear_cross_entropy(
    rows_MH: Tensor, targets: Tensor, weight_VH: Tensor, bias: Tensor | None, scale: float, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of ``rows @ weight.T + bias`` against ``targets`` (M,), forward and backward, chunk by chunk of rows.

    ``scale`` times the gradients of the summed loss is added to ``weight.grad`` and ``bias.grad``. Products take the dtype
    of ``rows_MH``, the loss is computed in fp32. A chunk's exponentials are held in that dtype, ``(chunk, V)``; all else
    goes through the vocabulary in blocks.

    Returns:
        the summed loss, the number of rows whose largest logit is the target's, and the gradient of the rows (M, H), scaled.
    """
    gradient_MH = torch.zeros(rows_MH.shape, dtype=torch.float32, device=rows_MH.device)
    learnt = weight_VH.requires_grad
    grad_VH, fresh = _gradient(weight_VH) if learnt else (weight_VH, False)
    if bias is not None and bias.requires_grad and bias.grad is None:
        bias.grad = torch.zeros_like(bias)
    # A GPU casts the table once for all chunks; a CPU block by block, where it stays in the cache.
    table_VH = weight_VH if rows_MH.device.type == "cpu" else weight_VH.to(rows_MH.dtype)
    loss = torch.zeros((), device=rows_MH.device, dtype=torch.float32)
    correct = torch.zeros((), device=rows_MH.device, dtype=torch.int64)
    parts = max(-(-len(targets) // chunk), 1)
    for rows_CH, wanted_C1, out_CH in zip(
        rows_MH.tensor_split(parts), targets[:, None].tensor_split(parts), gradient_MH.tensor_split(parts), strict=True
    ):
        part = _Chunk(rows_CH, wanted_C1, table_VH, bias)
        lost, hit = part.forward()
        loss += lost
        correct += hit
        part.backward(scale, out_CH, grad_VH if learnt else None, fresh)
        fresh = False
    return loss, correct, gradient_MH.to(rows_MH.dtype)


class _Chunk:
    """The logits of some rows, block by block of the vocabulary. C rows of the chunk, B columns of a block."""

    def __init__(self, rows_CH: Tensor, wanted_C1: Tensor, weight_VH: Tensor, bias: Tensor | None) -> None:
        self.rows, self.wanted, self.weight, self.bias = rows_CH, wanted_C1, weight_VH, bias
        size, width = len(rows_CH), len(weight_VH)
        block = BLOCK if rows_CH.device.type == "cpu" else 8 * BLOCK
        self.bounds = [(at, min(at + block, width)) for at in range(0, width, block)]
        flat = _buffer(size * width, rows_CH)
        self.held = [flat[size * a : size * b].view(size, b - a) for a, b in self.bounds]

    def _inside(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Which rows' targets lie in a block, and their columns there (0 for the others)."""
        inside_C1 = (self.wanted >= start) & (self.wanted < end)
        return inside_C1, (self.wanted - start) * inside_C1

    def forward(self) -> tuple[Tensor, Tensor]:
        """The summed loss and the hits. Leaves in ``held`` the exponentials of logits less their block's highest."""
        true_C1 = torch.zeros(self.wanted.shape, dtype=torch.float32, device=self.rows.device)
        tops, sums = [], []
        for (start, end), held_CB in zip(self.bounds, self.held, strict=True):
            torch.mm(self.rows, self.weight[start:end].to(self.rows.dtype).T, out=held_CB)
            logits_CB = held_CB.float()
            if self.bias is not None:
                logits_CB += self.bias[start:end]
            inside_C1, column_C1 = self._inside(start, end)
            true_C1 = torch.where(inside_C1, logits_CB.gather(1, column_C1), true_C1)
            top_C1 = logits_CB.amax(1, keepdim=True)
            sums.append(logits_CB.sub_(top_C1).exp_().sum(1, keepdim=True))
            tops.append(top_C1)
            if held_CB.dtype != logits_CB.dtype:
                held_CB.copy_(logits_CB)
        tops_CN, sums_CN = torch.cat(tops, 1), torch.cat(sums, 1)
        highest_C1 = tops_CN.amax(1, keepdim=True)
        total_C1 = (sums_CN * (tops_CN - highest_C1).exp()).sum(1, keepdim=True).log_().add_(highest_C1)
        self.shares = (tops_CN - total_C1).exp_()  # exp(logit - top) * share is the probability
        return (total_C1 - true_C1).sum(), (true_C1 >= highest_C1).sum()

    def backward(self, scale: float, out_CH: Tensor, grad_VH: Tensor | None, fresh: bool) -> None:
        """Add the rows' gradient to ``out_CH``, and add the weight's to ``grad_VH`` or, if ``fresh``, write it there."""
        for n, ((start, end), held_CB) in enumerate(zip(self.bounds, self.held, strict=True)):
            p_CB = held_CB.float().mul_(self.shares[:, n : n + 1] * scale)
            inside_C1, column_C1 = self._inside(start, end)
            p_CB.scatter_add_(1, column_C1, inside_C1 * -scale)
            if self.bias is not None and self.bias.grad is not None and self.bias.requires_grad:
                self.bias.grad[start:end] += p_CB.sum(0)
            d_CB = p_CB if held_CB.dtype == p_CB.dtype else held_CB.copy_(p_CB)
            weight_BH = self.weight[start:end].to(d_CB.dtype)
            if d_CB.dtype == out_CH.dtype:
                out_CH.addmm_(d_CB, weight_BH)
            else:
                out_CH += d_CB @ weight_BH
            if grad_VH is None:
                continue
            grad_BH = grad_VH[start:end]
            if d_CB.dtype == grad_BH.dtype:
                torch.addmm(grad_BH, d_CB.T, self.rows, beta=0 if fresh else 1, out=grad_BH)
            else:
                (grad_BH.copy_ if fresh else grad_BH.add_)(d_CB.T @ self.rows)


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
        grad_VH, fresh = _gradient(weight_VH)
        (grad_VH.zero_() if fresh else grad_VH).index_add_(0, ids, rows_TH)
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
