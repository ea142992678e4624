"""Tables of operations against the plain one: packed rows, int8 rows, fixed blocks, and what a GPU runs, stood in for here."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import xlm
from xlm.backends.torch import int8_products, native, ops_compiled, ops_cpu, ops_cuda, ops_int8, placement
from xlm.backends.torch.calibration import Activations
from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.ops import PLAIN
from xlm.backends.torch.ops_packed import attention_by_products
from xlm.batches.batch import Batch

LENGTHS = (1, 5, 5, 5, 17, 2)
SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "max_position_embeddings": 600,
    "initializer_range": 0.1,
}


def random_qkv(tokens: int, width: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(tokens, 3 * width, generator=draw).bfloat16().chunk(3, dim=1))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_by_products_is_attention(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Ragged.of(LENGTHS, causal)
    q, k, v = random_qkv(sum(LENGTHS), 24)
    wanted = PLAIN.ragged_attention(q.float(), k.float(), v.float(), 3, layout, 0.0)
    for scores in (1 << 20, 1):  # all sequences of a run at once, and one by one
        monkeypatch.setattr("xlm.backends.torch.ops_packed._SCORES", scores)
        found = attention_by_products(q, k, v, 3, layout).float()
        torch.testing.assert_close(found, wanted, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_short_sequences_is_attention_and_knows_only_their_lengths(dtype: torch.dtype) -> None:
    lengths = (40, 40, 33, 20, 3)
    q, k, v = (t.to(dtype) for t in random_qkv(sum(lengths), 24))
    found = attention_by_products(q, k, v, 3, Ragged.of(lengths, False)).float()
    wanted = PLAIN.ragged_attention(q.float(), k.float(), v.float(), 3, Ragged.of(lengths, False), 0.0)
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0.03)
    alone = attention_by_products(q[-23:-3], k[-23:-3], v[-23:-3], 3, Ragged.of((20,), False))
    assert alone.dtype == dtype  # one operation, nothing rounded
    assert torch.equal(
        alone.bfloat16().float(), found[-23:-3] if dtype == torch.bfloat16 else found[-23:-3].bfloat16().float()
    )


def test_quantized_rows_lie_within_half_a_step_and_zero_rows_stay_zero() -> None:
    x = torch.cat([torch.randn(5, 33) * torch.tensor([[1e-3], [1.0], [50.0], [3.0], [7.0]]), torch.zeros(1, 33)])
    rows, scale = int8_products.quantize_rows(x)
    assert rows.dtype == torch.uint8
    restored = (rows.float() - 128) * scale
    assert ((restored - x).abs() <= scale * 0.501).all()
    assert (restored[-1] == 0).all()


def int8_layers(outputs: tuple[int, ...], inputs: int) -> list[torch.nn.Linear]:
    torch.manual_seed(1)
    layers = [torch.nn.Linear(inputs, n).requires_grad_(False) for n in outputs]
    return layers


LIBRARIES = [
    *([ops_compiled.Bytes] if native.library() else []),
    int8_products.OneDnn,
]


@pytest.mark.skipif(not ops_cpu.has_vnni(), reason="this processor has no 8-bit products")
@pytest.mark.parametrize("library", LIBRARIES)
def test_int8_layers_compute_what_plain_ones_do(library) -> None:
    layers = int8_layers((24, 24, 24), 64)
    x, residual = torch.randn(7, 64), torch.randn(7, 24)
    plain = [layer(x) for layer in layers]
    ops = ops_int8.Int8(ops_cpu.has_bf16(), library)
    for layer in layers:
        placement.quantize_linear(layer)
    ops.pack(layers[:1])
    close = {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(ops.linear(layers[0], x), plain[0], **close)
    torch.testing.assert_close(ops.linear_act(layers[0], x, F.gelu), F.gelu(plain[0]), **close)
    torch.testing.assert_close(ops.linear_act(layers[0], x, torch.tanh), plain[0].tanh(), **close)
    dropout = torch.nn.Dropout(0.0)
    torch.testing.assert_close(ops.linear_add(layers[0], x, residual, dropout), plain[0] + residual, **close)
    three = int8_layers((24, 24, 24), 64)
    for layer in three:
        placement.quantize_linear(layer)
    ops.pack(three)
    for found, wanted in zip(ops.qkv(three[0], three[1], three[2], x), plain, strict=True):
        torch.testing.assert_close(found, wanted, **close)


@pytest.mark.skipif(not ops_cpu.has_vnni(), reason="this processor has no 8-bit products")
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_int8_layers_with_fixed_scales_compute_what_plain_ones_do(library, uniform: bool) -> None:
    one = int8_layers((24,), 64)[0]
    x, residual = torch.randn(7, 64) * torch.linspace(0.1, 3, 64), torch.randn(7, 24)
    plain = one(x)
    low, high = float(x.min()), float(x.max())
    step = (high - low) / 255
    reads = Activations(torch.full((64,), step), round(-low / step))
    if not uniform:
        reads = Activations(x.abs().amax(0) / 127, 128)
    ops = ops_int8.Int8(ops_cpu.has_bf16(), library)
    placement.quantize_linear(one, reads.scale)
    ops.pack([one], reads)
    close = {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(ops.linear(one, x), plain, **close)
    torch.testing.assert_close(ops.linear_act(one, x, F.gelu), F.gelu(plain), **close)
    torch.testing.assert_close(ops.linear_add(one, x, residual, torch.nn.Dropout(0.0)), plain + residual, **close)
    # What lies outside the range becomes its end, in both libraries.
    far = ops.linear(one, 2 * x.sign() * reads.scale * 300)
    end = ops.linear(one, x.sign() * reads.scale * 300)
    torch.testing.assert_close(far, end)


def test_every_choice_has_a_reason_and_doctor_says_it(capsys) -> None:
    from xlm.cli.doctor import collect

    facts = ops_cpu.choices()
    assert set(facts) == {"float32", "bfloat16", "int8"}
    assert all("(" in reason for reason in facts.values())
    assert collect()["engine"] == facts


@pytest.mark.parametrize(
    ("has", "wanted"),
    [
        *(
            [((True, True, True, True), ("own kernels float32", "own kernels bfloat16", "own kernels int8"))]
            if native.library()
            else []
        ),
        ((True, True, True, False), ("oneDNN float32", "oneDNN bfloat16", "oneDNN int8")),
        ((True, False, True, False), ("oneDNN float32", "bfloat16 weights", "oneDNN int8")),
        ((False, False, False, False), ("PyTorch float32", "bfloat16 weights", "int8 weights")),
    ],
)
def test_the_documented_table_of_processors(has, wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("has_avx512", "has_bf16", "has_vnni", "has_kernels"), has, strict=True):
        monkeypatch.setattr(ops_cpu, name, lambda value=value: value)
    assert all(text.startswith(start) for text, start in zip(ops_cpu.choices().values(), wanted, strict=True))


def varlen_by_loop(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *, window_size, num_splits=None
):
    """What PyTorch's kernel computes, (tokens, heads, d), sequence by sequence."""
    out = torch.zeros_like(q)
    ends = cu_q.tolist()
    for start, end in itertools.pairwise(ends):
        assert end - start <= max_q
        part = [t[start:end].transpose(0, 1)[None] for t in (q, k, v)]
        if end > start:
            out[start:end] = F.scaled_dot_product_attention(*part, is_causal=window_size == (-1, 0))[0].transpose(0, 1)
    return out


@pytest.fixture
def tiny() -> xlm.XLMRobertaModel:
    torch.manual_seed(0)
    config = xlm.XLMRobertaConfig(**SIZES, torch_dtype="bfloat16")
    return xlm.XLMRobertaModel(config, add_pooling_layer=False).eval().bfloat16().requires_grad_(False)


def packed(lengths: tuple[int, ...]) -> Batch:
    ids = torch.randint(5, 300, (sum(lengths),), generator=torch.Generator().manual_seed(3))
    return Batch.packed(ids, lengths)


@torch.no_grad()
def test_the_gpus_table_computes_what_the_plain_one_does(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_cuda, "varlen_attn", varlen_by_loop)
    batch = packed(LENGTHS)
    wanted = tiny.states(batch).float()
    placement.use_gpu(tiny)
    torch.testing.assert_close(tiny.states(batch).float(), wanted, atol=0.06, rtol=0.06)
    assert tiny.computed_by.startswith("CUDA")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("dtype", "compiled"),
    [("float32", False), ("float16", False), ("bfloat16", False), ("bfloat16", True), ("float16", True)],
)
def test_a_gpu_answers_like_the_cpu(tiny_model, dtype: str, compiled: bool) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(4, 600, size=n).tolist() for n in (1, 9, 64, 64, 30)]
    wanted = xlm.load(tiny_model, device="cpu").encode(rows)
    found = xlm.load(tiny_model, dtype=dtype, device="cuda", compile=compiled).encode(rows)
    for one, other in zip(found, wanted, strict=True):
        if dtype == "float32":
            np.testing.assert_allclose(one, other, atol=1e-4)
        else:
            assert (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()) > 0.999
