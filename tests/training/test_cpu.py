"""The CPU's operations compute what PyTorch's do; dropout drops what it promises."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import xlm
from xlm.batches.batch import Batch
from xlm.training.cpu import CPUOperations, FastDropout, kept, make_fast


@pytest.mark.parametrize("everywhere", [False, True])
def test_states_and_gradients_are_the_plain_models(tiny_model: Path, everywhere: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512" if everywhere else "AVX2")
    plain = xlm.XLMRobertaForMaskedLM.from_pretrained(tiny_model).eval()
    fast = copy.deepcopy(plain)
    make_fast(fast)
    batch = Batch.packed(torch.randint(5, 600, (40,), generator=torch.Generator().manual_seed(0)), [10, 10, 20])
    some = torch.tensor([3, 12, 13, 39])
    torch.testing.assert_close(plain.states(batch, some), plain.states(batch)[some])
    for model in (plain, fast):
        model.states(batch).pow(2).sum().backward()
    torch.testing.assert_close(fast.states(batch), plain.states(batch), rtol=1e-5, atol=1e-5)
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert fast.state_dict().keys() == plain.state_dict().keys()
    for (name, a), b in zip(plain.named_parameters(), fast.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", [xlm.XLMRobertaForMaskedLM, xlm.XLMRobertaXLForMaskedLM, xlm.XLMWithLMHeadModel])
def test_bf16_is_near_fp32_and_sees_new_weights(family: type) -> None:
    config = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    plain = family(family.config_class(**config, intermediate_size=64)).eval()
    low = copy.deepcopy(plain)
    operations = make_fast(low, bf16=True)
    batch = Batch.packed(torch.randint(5, 60, (40,)), [10, 10, 20])
    for _ in range(2):
        states, expected = low.states(batch), plain.states(batch)
        assert states.dtype == torch.bfloat16
        torch.testing.assert_close(states.float(), expected, rtol=0.05, atol=0.1)
        for out in (states, expected):
            out.float().pow(2)[::3].sum().backward()
        for (name, a), b in zip(plain.named_parameters(), low.parameters(), strict=True):
            if a.grad is not None:
                assert b.grad is not None and b.grad.dtype == torch.float32
                near = torch.nn.functional.cosine_similarity(a.grad.flatten(), b.grad.flatten(), dim=0)
                assert near > 0.98 or a.grad.abs().max() < 1e-3, name
        # A fused step leaves the tensors' version counters as they are.
        torch.optim.AdamW([p for p in low.parameters() if p.grad is not None], lr=0.05, fused=True).step()
        operations.refresh()
        plain.load_state_dict(low.state_dict())
        for model in (plain, low):
            model.zero_grad()
    with torch.no_grad():  # measured in fp32
        torch.testing.assert_close(low.states(batch), plain.states(batch), rtol=1e-4, atol=1e-4)
        assert low.states(batch).dtype == torch.float32


def test_dropout_has_the_promised_rate_and_mean() -> None:
    torch.manual_seed(0)
    dropout, ones = FastDropout(0.1), torch.ones(1001, 333)
    out = dropout(ones)
    assert (out == 0).float().mean().item() == pytest.approx(0.1, abs=0.002)
    assert out.mean().item() == pytest.approx(1.0, abs=0.003)
    assert out.unique().numel() == 2
    torch.manual_seed(0)
    assert torch.equal(dropout(ones), out)
    assert dropout.eval()(ones) is ones
    mask = kept(torch.empty(100_000), 0.5)[0].float()
    assert abs(torch.corrcoef(torch.stack([mask[:-1], mask[1:]]))[0, 1].item()) < 0.01


def test_attention_without_dropout_is_sdpa_and_with_it_has_its_mean() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 4) for _ in range(3))
    operations = CPUOperations()
    plain = operations.attention(q, k, v, None, 0.0)
    mean = torch.stack([operations.attention(q, k, v, None, 0.1) for _ in range(3000)]).mean(0)
    torch.testing.assert_close(mean, plain, rtol=0, atol=0.05)


def test_gradients_through_dropout_are_autograds() -> None:
    x = torch.randn(50, 4, requires_grad=True)
    out = FastDropout(0.3)(x)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(out == 0, 0.0, out / x).detach())

    q, k, v = (torch.randn(2, 2, 5, 4, requires_grad=True) for _ in range(3))
    pull = torch.randn(2, 2, 5, 4)
    torch.manual_seed(0)
    (CPUOperations().attention(q, k, v, None, 0.2) * pull).sum().backward()
    ours = [t.grad for t in (q, k, v)]
    q.grad = k.grad = v.grad = None
    torch.manual_seed(0)
    weights = torch.softmax(q @ k.transpose(-1, -2) / 2, dim=-1)
    keep, scale = kept(weights, 0.2)
    ((weights * keep * scale) @ v * pull).sum().backward()
    for got, t in zip(ours, (q, k, v), strict=True):
        torch.testing.assert_close(got, t.grad, rtol=1e-4, atol=1e-5)
