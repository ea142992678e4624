"""Models packed for inference, whatever computes them: what is done to them after they were loaded shows, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import xlm
from xlm.backends.torch import native
from xlm.backends.torch.ops_cpu import has_bf16, has_vnni
from xlm.backends.torch.placement import make_invariant
from xlm.batches.batch import Batch
from xlm.errors import InputError

compiled = pytest.mark.skipif(native.library() is None, reason="the kernels were not built, or not for this processor")
IDS = torch.randint(4, 90, (6, 8), generator=torch.Generator().manual_seed(2))
LENGTHS = (20, 20, 20, 80, 3, 3, 54)


def save(folder: Path, family: str = "XLMRoberta", **sizes: Any) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, **sizes}
    config = getattr(xlm, f"{family}Config")(
        vocab_size=90, num_hidden_layers=3, max_position_embeddings=210, pad_token_id=1, initializer_range=0.1, **sizes
    )
    name = {"XLM": "XLMWithLMHeadModel"}.get(family, f"{family}ForMaskedLM")
    getattr(xlm, name)(config).save_pretrained(folder)
    return folder


def load(folder: Path, **how: Any) -> Any:
    return xlm.AutoModelForMaskedLM.from_pretrained(folder, for_inference=True, **how).eval()


def states(model: Any) -> Tensor:
    with torch.inference_mode():
        return model.encoder_host.states(Batch.packed(IDS.flatten(), (8,) * 6)).float()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path)


def another_norm(model: Any) -> None:
    model.encoder_host.encoder.layer[1].output.LayerNorm = nn.LayerNorm(64, eps=0.5).requires_grad_(False)


def new_scale(model: Any) -> None:
    norm = model.encoder_host.encoder.layer[0].attention.output.LayerNorm
    norm.weight = nn.Parameter(2 * norm.weight.detach(), requires_grad=False)


def other_numbers(model: Any) -> None:
    norm = model.encoder_host.encoder.layer[0].attention.output.LayerNorm
    norm.bias.data = norm.bias.data + 1


def in_place(model: Any) -> None:
    with torch.no_grad():
        layer = model.encoder_host.encoder.layer[1]
        for bias in (layer.attention.core.value.bias, layer.output.dense.bias, layer.intermediate.dense.bias):
            bias += 1
        layer.output.LayerNorm.bias += 1


def eps(model: Any) -> None:
    model.encoder_host.encoder.layer[2].output.LayerNorm.eps = 3.0


def activation(model: Any) -> None:
    model.encoder_host.encoder.layer[0].act = torch.relu


@pytest.mark.parametrize("change", [another_norm, new_scale, other_numbers, in_place, eps, activation])
@pytest.mark.parametrize("dtype", ["float32", *(["bfloat16"] if has_bf16() else [])])
def test_what_changes_after_a_call_shows_in_the_next(folder: Path, dtype: str, change: Callable[[Any], None]) -> None:
    plain = xlm.XLMRobertaForMaskedLM.from_pretrained(folder).eval()
    model = load(folder, torch_dtype=dtype)
    before = states(model)
    change(plain)
    change(model)
    after = states(model)
    assert (after - before).abs().max() > 0.05
    close = 1e-4 if dtype == "float32" else 0.1
    torch.testing.assert_close(after, states(plain), atol=close, rtol=close)


def test_parameters_may_move_to_shared_memory(folder: Path) -> None:
    model = load(folder)
    before = states(model)
    model.share_memory()
    assert torch.equal(states(model), before)


def test_who_looks_on_is_called(folder: Path) -> None:
    model, calls = load(folder), []
    before = states(model)
    handle = register_module_forward_hook(lambda *_: calls.append("hook"))
    try:
        assert torch.equal(states(model), before)
    finally:
        handle.remove()
    assert len(calls) > 3
    layer = model.encoder_host.encoder.layer[1]
    own = layer.forward
    layer.forward = lambda *rows, **rest: calls.append("forward") or own(*rows, **rest)
    assert torch.equal(states(model), before)
    assert calls.count("forward") == 1


@pytest.mark.parametrize("how", [{"torch_dtype": "float32"}, {"quantization": "int8"}], ids=str)
@pytest.mark.parametrize("family", ["XLM", "XLMRoberta", "XLMRobertaXL"])
def test_attention_weights_of_padded_batches(tmp_path: Path, family: str, how: dict[str, Any]) -> None:
    model = load(save(tmp_path, family), **how)
    plain = getattr(xlm, "XLMWithLMHeadModel" if family == "XLM" else f"{family}ForMaskedLM").from_pretrained(tmp_path)
    mask = torch.ones_like(IDS)
    mask[1, 5:] = 0
    close = 1e-4 if "torch_dtype" in how else 0.2
    for extra in ({"output_attentions": True}, {"head_mask": torch.ones(3, 4)}, {}):
        with torch.no_grad():
            found, wanted = (m(IDS, attention_mask=mask, **extra) for m in (model, plain.eval()))
        torch.testing.assert_close(found.logits[mask == 1], wanted.logits[mask == 1], atol=close, rtol=close)
    with torch.no_grad():
        found = model(IDS, attention_mask=mask, output_attentions=True).attentions
    assert all((one.sum(-1) - 1).abs().max() < 1e-2 and one[1, :, :, 5:].max() == 0 for one in found)


def test_relative_positions_of_padded_batches(tmp_path: Path) -> None:
    model = load(save(tmp_path, position_embedding_type="relative_key"), quantization="int8")
    plain = xlm.XLMRobertaForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        found, wanted = (m(IDS, attention_mask=torch.ones_like(IDS)).logits for m in (model, plain))
    torch.testing.assert_close(found, wanted, atol=0.2, rtol=0.2)


def test_a_head_on_packed_layers_learns(folder: Path) -> None:
    model = load(folder)
    model.lm_head.requires_grad_(True)
    model.lm_head.decoder.weight.requires_grad_(False)
    model(IDS, labels=IDS).loss.backward()
    learnt = {name: p.grad for name, p in model.lm_head.named_parameters() if p.requires_grad}
    assert len(learnt) == 5 and all(grad is not None for grad in learnt.values())
    plain = xlm.XLMRobertaForMaskedLM.from_pretrained(folder).eval()
    plain(IDS, labels=IDS).loss.backward()
    for name, p in plain.lm_head.named_parameters():
        if name in learnt:
            torch.testing.assert_close(learnt[name], p.grad, atol=1e-4, rtol=1e-3)


@compiled
def test_what_the_kernels_would_misread_is_refused(folder: Path) -> None:
    model = load(folder)
    host = model.encoder_host
    batch = Batch.packed(IDS.flatten(), (8,) * 6)
    host.embeddings.word_embeddings.weight.requires_grad_(True)
    with pytest.raises(InputError, match=r"x is to be learnt through; .* load the model without for_inference"):
        host.states(batch)
    host.requires_grad_(False)
    with pytest.raises(InputError, match="x is traced"):
        torch.jit.trace(lambda ids: model(ids, return_dict=False)[0], (IDS,), check_trace=False)
    with pytest.raises(InputError, match=r"lengths of sequences are 100,000 tokens together: there are 48"):
        host.states(Batch(IDS.flatten(), lengths=(100_000,)))
    with pytest.raises(InputError, match=r"is torch\.float64"):
        load(folder).double()(IDS)
    with pytest.raises(InputError, match="x is a Tensor on meta"):
        load(folder).to("meta").encoder_host.states(Batch.packed(IDS.flatten().to("meta"), (8,) * 6))
    product = native.Packed(torch.randn(8, 64))
    with pytest.raises(InputError, match=r"x is of shape \(3, 8\): must be \(rows, 64\)"):
        product(torch.randn(3, 8), torch.float32, None)
    with pytest.raises(InputError, match=r"x is torch\.bfloat16"):
        product(torch.randn(3, 64).bfloat16(), torch.float32, None)
    with pytest.raises(InputError, match="it must have inputs"):
        native.Packed(torch.randn(8, 0))


@pytest.mark.parametrize("how", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("hidden", "heads"), [(63, 7), (66, 6), (64, 4)])
def test_batches_of_any_heads_are_invariant(tmp_path: Path, hidden: int, heads: int, how: str) -> None:
    if how == "int8" and not has_vnni():
        pytest.skip("this processor has no 8-bit products")
    save(tmp_path, hidden_size=hidden, num_attention_heads=heads, intermediate_size=100)
    model = load(tmp_path, **({"quantization": "int8"} if how == "int8" else {"torch_dtype": how})).encoder_host
    make_invariant(model)
    ids = torch.randint(4, 90, (sum(LENGTHS),), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        together = model.states(Batch.packed(ids, LENGTHS)).split(LENGTHS)
        for one, tokens in zip(together, ids.split(LENGTHS), strict=True):
            assert torch.equal(model.states(Batch.packed(tokens, (len(tokens),))), one)
