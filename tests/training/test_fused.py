"""Writing gradients in place gives autograd's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fake_cuda import CUDA, fake_cuda
from xlm.training.fused import AccumulatingEmbedding, linear_cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_linear_cross_entropy_is_autograds(dtype: torch.dtype, chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 8, generator=generator).to(dtype)
    weight = nn.Parameter(torch.randn(30, 8, generator=generator))
    bias = nn.Parameter(torch.randn(30, generator=generator))
    targets = torch.randint(30, (10,), generator=generator)
    weight.grad = torch.ones_like(weight)  # what an earlier micro-batch left
    loss, correct, gradient = linear_cross_entropy(rows, targets, weight, bias, 0.5, chunk)
    assert weight.grad is not None and bias.grad is not None

    leaf, w, b = (
        rows.float().requires_grad_(),
        weight.detach().clone().requires_grad_(),
        bias.detach().clone().requires_grad_(),
    )
    logits = functional.linear(leaf, w, b)
    expected = functional.cross_entropy(logits, targets, reduction="sum")
    (expected * 0.5).backward()
    assert leaf.grad is not None and w.grad is not None and b.grad is not None
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(loss, expected.detach(), **tolerance)
    torch.testing.assert_close(gradient.float(), leaf.grad, **tolerance)
    torch.testing.assert_close(weight.grad - 1, w.grad, **tolerance)
    torch.testing.assert_close(bias.grad, b.grad, **tolerance)
    assert dtype == torch.bfloat16 or correct == (logits.argmax(-1) == targets).sum()


class _Casts(TorchDispatchMode):
    """Counts the numbers of the vocabulary's table, 8 a row, that are cast."""

    def __init__(self) -> None:
        super().__init__()
        self.cast = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].shape[1:] == (8,) and args[0].dtype == torch.float32:
            self.cast += len(args[0])
        return func(*args, **(kwargs or {}))


def test_a_gpu_casts_the_table_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch):
        rows, targets = torch.zeros(6, 8).to(CUDA, torch.bfloat16), torch.zeros(6).to(CUDA, torch.int64)
        table = torch.zeros(30, 8).to(CUDA)
        with _Casts() as casts:
            linear_cross_entropy(rows, targets, table, None, 1.0, 2)
    assert casts.cast == 30 + 6  # and the rows' own gradient at the end


def test_the_accumulating_embedding_is_an_embedding() -> None:
    plain = nn.Embedding(12, 4, padding_idx=1)
    ours = AccumulatingEmbedding.of(nn.Embedding.from_pretrained(plain.weight.detach().clone(), False, padding_idx=1))
    ids = torch.tensor([[3, 3, 1], [0, 11, 3]])
    pull = torch.randn(2, 3, 4)
    for _ in range(2):
        (plain(ids) * pull).sum().backward()
        (ours(ids) * pull).sum().backward()
    assert plain.weight.grad is not None and ours.weight.grad is not None
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    assert [name for name, _ in ours.named_parameters()] == ["weight"]
    with torch.no_grad():
        assert torch.equal(ours(ids), plain(ids))
