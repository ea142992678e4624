"""Muon: orthogonal updates, AdamW for the rest, exact to resume."""

from __future__ import annotations

import copy

import torch
from torch import nn

from xlm.training.muon import Muon, orthogonalize


def test_orthogonalize_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((16, 16), (8, 32), (32, 8)):
        made = orthogonalize(torch.randn(shape))
        assert made.shape == shape
        values = torch.linalg.svdvals(made)
        assert 0.3 < float(values.min()) and float(values.max()) < 1.4


def groups(net: nn.Sequential) -> list[dict]:
    return [
        {"params": [net[0].weight, net[2].weight], "muon": True, "weight_decay": 0.1},
        {"params": [net[0].bias, net[2].bias]},
    ]


def take(net: nn.Module, optimizer: Muon, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        torch.manual_seed(step)
        x = torch.randn(32, 8)
        optimizer.zero_grad()
        (net(x) - x.flip(1)).square().mean().backward()
        optimizer.step()


def network() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8))


def test_it_learns() -> None:
    net = network()
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(9))
    before = (net(x) - x.flip(1)).square().mean().item()
    take(net, Muon(groups(net), lr=0.02), 200)
    assert (net(x) - x.flip(1)).square().mean().item() < 0.2 * before


def test_the_other_half_is_adamw() -> None:
    ours, theirs = network(), network()
    take(ours, Muon([{"params": list(ours.parameters())}], lr=1e-2, weight_decay=0.1), 20)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1)
    take(theirs, reference, 20)  # type: ignore[arg-type]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    whole = network()
    optimizer = Muon(groups(whole), lr=0.02)
    take(whole, optimizer, 3)
    half, state = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    take(whole, optimizer, 3, first=3)
    resumed = Muon(groups(half), lr=0.5)
    resumed.load_state_dict(state)
    take(half, resumed, 3, first=3)
    for a, b in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bf16_products_take_nearly_the_same_steps() -> None:
    full, low = network(), network()
    take(full, Muon(groups(full), lr=0.02), 50)
    take(low, Muon(groups(low), lr=0.02, bf16=True), 50)
    for a, b in zip(full.parameters(), low.parameters(), strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert float((a - b).norm() / a.norm()) < 0.05
        assert not torch.equal(a, b)
