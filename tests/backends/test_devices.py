"""The same answers on every device that is here: a GPU's own ways (streams, pinned memory, its pooling) beside the CPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
import xlm
from xlm.backends.torch import reductions, transfer
from xlm.batches.batch import Batch
from xlm.inference import engine as engine_module
from xlm.tasks.fill import top
from xlm.tasks.retrieve import POOLINGS, pool
from xlm.training.objectives import masked_loss, to_batch
from xlm.training.steps import MicroBatch

here = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, here])]
LENGTHS = [1, 300, 2, 2, 17, 512]


@pytest.mark.parametrize("device", DEVICES)
def test_what_comes_down_is_what_was_there_while_more_is_computed(device: str) -> None:
    tensors = [torch.randn(300, 64).to(device), torch.randn(70, 64).bfloat16().to(device), torch.arange(9).to(device)]
    wanted = [tensor.cpu().float().numpy() for tensor in tensors]
    arrive = transfer.download([tensor + 0 for tensor in tensors])  # no one else holds them
    for _ in range(50):
        torch.full((300, 64), torch.nan, device=device)  # would be written where they lay
    for found, one in zip(arrive(), wanted, strict=True):
        np.testing.assert_array_equal(found, one)
    place = torch.device(device)
    assert torch.equal(transfer.upload(torch.arange(5), place).cpu(), torch.arange(5))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reductions(device: str, dtype: torch.dtype) -> None:
    states = torch.randn(sum(LENGTHS), 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    for pooling in POOLINGS:
        found = reductions.reduce_rows(states.to(device), torch.tensor(LENGTHS, device=device), pooling)
        wanted = pool(states.float().numpy(), LENGTHS, pooling)
        np.testing.assert_allclose(found.cpu().numpy(), wanted, atol=1e-6, rtol=1e-5)
        assert torch.equal(
            found, reductions.reduce_rows(states.to(device), torch.tensor(LENGTHS, device=device), pooling)
        )
    logits = (4 * torch.randn(5, 1000, generator=torch.Generator().manual_seed(1))).round().to(dtype)  # many equals
    ids, probabilities = reductions.largest_tokens(logits.to(device), 20, 990)
    wanted_ids, wanted_probabilities = top(logits.float().numpy(), 20, 990)
    np.testing.assert_array_equal(ids.cpu().numpy(), wanted_ids)
    np.testing.assert_allclose(probabilities.cpu().numpy(), wanted_probabilities, rtol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_an_engine_of_many_small_packs(device: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows: list[Any] = [rng.integers(4, 600, size=n).tolist() for n in rng.integers(1, 60, 200)]
    texts = ["Paris is the <mask> of <mask>.", "hello <mask>", "the <mask> of France"] * 20
    plain = xlm.load(tiny_model, device="cpu")
    engine = xlm.load(tiny_model, device=device)
    for name in ("TOKENS_A_PACK", "TOKENS_A_PACK_GPU"):
        monkeypatch.setattr(engine_module, name, 100)
    for _ in range(3):
        for found, wanted in zip(engine.encode(rows), plain.encode(rows), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-4)
    for pooling in POOLINGS:
        np.testing.assert_allclose(engine.embed(rows, pooling), plain.embed(rows, pooling), atol=1e-4)
    for found, wanted in zip(engine.fill_mask(texts), plain.fill_mask(texts), strict=True):
        for one, other in zip(found["masks"], wanted["masks"], strict=True):
            np.testing.assert_allclose([c["probability"] for c in one], [c["probability"] for c in other], rtol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("head", tiny.ONE_A_FAMILY, ids=str)
def test_a_training_step_has_the_cpus_loss_and_gradients(head: tiny.Head, device: str) -> None:
    lengths = [4, 5, 4]
    ids, chosen = np.arange(13) + 5, np.array([1, 6, 11])
    micro = MicroBatch("mlm", ids, lengths, ["none"] * 3, chosen, ids[chosen], ids * 0)
    found = {}
    for place in ("cpu", device):
        model = tiny.model(head).train().to(place)
        positions = transfer.upload(torch.from_numpy(chosen), torch.device(place))
        loss, result = masked_loss(model, model.states(to_batch(micro, model.spec), positions), micro, 1.0)
        loss.backward()
        grads = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
        found[place] = float(result.loss), int(result.correct), float(torch.nn.utils.get_total_norm(grads))
    assert found[device][1] == found["cpu"][1] and found["cpu"][2] > 0
    np.testing.assert_allclose(found[device], found["cpu"], rtol=1e-4)


@pytest.mark.gpu
@here
@torch.inference_mode()
def test_packs_make_nobody_wait(tiny_model: Path) -> None:
    engine = xlm.load(tiny_model, dtype="bfloat16", device="cuda")
    batch = Batch.packed(torch.full((90,), 5), [30, 10, 50])
    engine.model.states(batch)  # what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        states = engine.model.states(batch)
        vectors = [reductions.pool_rows(states, [30, 10, 50], pooling) for pooling in POOLINGS]
        best = reductions.top_tokens(engine.model.lm_logits(states), 5, 600)
        arrive = transfer.download([*vectors, *best])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(np.isfinite(array).all() for array in arrive())
