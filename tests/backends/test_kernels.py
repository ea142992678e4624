"""The compiled kernels against PyTorch: products with all that may follow them, norms and attention, at every odd size."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import xlm
from xlm.backends.torch import native
from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.ops import PLAIN
from xlm.backends.torch.ops_cpu import has_bf16, has_vnni
from xlm.batches.batch import Batch

pytestmark = pytest.mark.skipif(
    native.library() is None, reason="the kernels were not built, or not for this processor"
)

FLOATS = [torch.float32, *([torch.bfloat16] if has_bf16() else [])]
CLOSE: dict[Any, Any] = {torch.float32: {"atol": 2e-5, "rtol": 2e-5}, torch.bfloat16: {"atol": 0.03, "rtol": 0.02}}
ACTIVATIONS = {native.NONE: lambda x: x, native.GELU: F.gelu, native.RELU: F.relu}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def norm_of(width: int) -> SimpleNamespace:
    return SimpleNamespace(weight=normal(width, seed=5), bias=normal(width, seed=6), eps=1e-5)


def normed(x: Tensor, norm: SimpleNamespace) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 60),
    outputs=st.integers(1, 100),
    groups=st.integers(1, 60),
    apart=st.integers(0, 1),
    activation=st.sampled_from(list(ACTIVATIONS)),
)
def test_products_of_floats(
    dtype: torch.dtype, count: int, outputs: int, groups: int, apart: int, activation: int
) -> None:
    inputs = 2 * groups
    weight, bias, norm = normal(outputs, inputs) / inputs**0.5, normal(outputs, seed=1), norm_of(outputs)
    x = normal(count, (1 + apart) * inputs, seed=2).to(dtype)[:, :inputs]
    residual = normal(count, outputs, seed=3).to(dtype)
    product = native.Packed(weight.to(dtype))
    wanted = ACTIVATIONS[activation](x.float() @ weight.to(dtype).float().t() + bias)
    torch.testing.assert_close(product(x, dtype, bias, activation=activation).float(), wanted, **CLOSE[dtype])
    wanted = wanted + residual.float()
    found = product(x, dtype, bias, activation=activation, residual=residual)
    torch.testing.assert_close(found.float(), wanted, **CLOSE[dtype])
    found = product(x, dtype, bias, activation=activation, residual=residual, norm=norm)
    if outputs > 8:  # of few numbers a norm may be a division by almost nothing
        wide: Any = {name: 20 * value for name, value in CLOSE[dtype].items()}
        torch.testing.assert_close(found.float(), normed(wanted, norm), **wide)


@pytest.mark.skipif(not has_vnni(), reason="this processor has no 8-bit products")
@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 40), outputs=st.integers(1, 100), groups=st.integers(1, 100), fixed=st.booleans())
def test_products_of_bytes_are_exact_but_for_rounding(count: int, outputs: int, groups: int, fixed: bool) -> None:
    inputs = 4 * groups
    draw = torch.Generator().manual_seed(1)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=draw, dtype=torch.int8)
    scale, bias, x = torch.rand(outputs, generator=draw) / 1000, normal(outputs), 3 * normal(count, inputs)
    if fixed:
        zero, factor = 113, torch.full((inputs,), 20.0)
        rows = ((x * factor).round() + zero).clamp(0, 255) - zero
        rows_scale = torch.ones(count, 1)
    else:
        zero, factor = 128, None
        rows_scale = x.abs().amax(1, keepdim=True) / 127
        rows = (x * (127 / x.abs().amax(1, keepdim=True))).round()
    product = native.Packed(weight, scale, zero, factor)
    wanted = (rows.double() @ weight.double().t()) * scale * rows_scale + bias
    found = product(x, torch.float32, bias)
    # A number that lies between two bytes may be rounded to either by the last bit of its quotient.
    slack = 127 * float(scale.max()) * float(rows_scale.max())
    torch.testing.assert_close(found.double(), wanted, atol=1e-5 + (0 if fixed else slack), rtol=1e-5)
    if fixed:
        given_bytes = product((rows + zero).to(torch.uint8), torch.uint8, bias, as_bytes=(0.05, 90))
        wanted_bytes = ((found / 0.05).round() + 90).clamp(0, 255)
        assert ((given_bytes.float() - wanted_bytes).abs() <= 1).all()


@pytest.mark.skipif(not has_vnni(), reason="this processor has no 8-bit products")
def test_what_is_beyond_all_bytes_becomes_the_last() -> None:
    weight, scale = torch.eye(4, dtype=torch.int8), torch.ones(4)
    far = torch.tensor([[1e8, 1e30, torch.inf, 3e9], [-1e8, -1e30, -torch.inf, -3e9]])
    fixed = native.Packed(weight, scale, 100, torch.full((4,), 20.0))
    assert fixed(far, torch.float32, None).tolist() == [[155.0] * 4, [-100.0] * 4]
    middle = native.Packed(weight, scale, 0, torch.ones(4))
    given = middle(
        torch.full((1, 4), 200.0), torch.uint8, torch.tensor([0.0, 2e8, torch.inf, -torch.inf]), as_bytes=(0.05, 9)
    )
    assert given.tolist() == [[255, 255, 255, 0]]
    nothing = native.Packed(weight, scale, 128)(torch.zeros(2, 4), torch.float32, None)
    assert torch.equal(nothing, torch.zeros(2, 4))


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_do_not_depend_on_their_neighbours(dtype: torch.dtype) -> None:
    inputs, outputs = 3072, 70  # more than one depth, and rows apart by a multiple of the cache's size
    product, x = native.Packed(normal(outputs, inputs).to(dtype)), normal(400, inputs).to(dtype)
    together = product(x, dtype, None, activation=native.GELU)
    for first, last in ((0, 1), (3, 17), (100, 115), (399, 400), (50, 400)):
        assert torch.equal(product(x[first:last], dtype, None, activation=native.GELU), together[first:last])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(product(x, dtype, None, activation=native.GELU), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 13, 14, 15, 31, 32, 33, 64, 141, 300]), min_size=1, max_size=4),
    heads=st.integers(1, 3),
    width=st.sampled_from([2, 16, 30, 32, 64, 80]),
    causal=st.booleans(),
)
def test_attention(dtype: torch.dtype, lengths: list[int], heads: int, width: int, causal: bool) -> None:
    q, k, v = normal(sum(lengths), 3 * heads * width).to(dtype).chunk(3, dim=1)
    layout = Ragged.of(tuple(lengths), causal)
    wanted = PLAIN.ragged_attention(q.float(), k.float(), v.float(), heads, layout, 0.0)
    found = native.attention(q, k, v, heads, layout.starts, layout.longest, causal)
    close: Any = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}
    torch.testing.assert_close(found.float(), wanted, **close)
    for start, end in itertools.pairwise(layout.starts.tolist()):  # each as if it were alone
        one = Ragged.of((end - start,), causal)
        alone = native.attention(q[start:end], k[start:end], v[start:end], heads, one.starts, one.longest, causal)
        assert torch.equal(alone, found[start:end])


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_scores_and_large_rows_stay_finite(dtype: torch.dtype) -> None:
    q, k, v = (300 * normal(40, 192)).to(dtype).chunk(3, dim=1)
    layout = Ragged.of((40,), False)
    found = native.attention(q, k, v, 2, layout.starts, 40, False)
    assert found.isfinite().all() and found.abs().max() <= v.abs().max() * 1.01
    x = torch.tensor([[-1e30, -1e3, -20.0, -3.0, 0.0, 3.0, 20.0, 1e30]], dtype=dtype)
    product = native.Packed(torch.eye(8, dtype=dtype))
    torch.testing.assert_close(product(x, dtype, None, activation=native.GELU), F.gelu(x), atol=4e-6, rtol=1e-2)
    q = torch.full((3, 80), 3e4, dtype=dtype)  # scores of 7e10, scaled by a number that rounds
    found = native.attention(q, q, q, 1, torch.tensor([0, 3]), 3, False)
    torch.testing.assert_close(found, q)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gelu_is_gelu_everywhere(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-12, 12, 40_001), torch.tensor([torch.inf, -torch.inf, 1e20, -1e20])]).to(dtype)
    x = x[: len(x) // 8 * 8].view(-1, 8)
    x = x[x.isfinite().all(1)]  # infinity among the zeros of a sum is no number
    found = native.Packed(torch.eye(8, dtype=dtype))(x, dtype, None, activation=native.GELU)
    absolute, relative = (3e-7, 3e-7) if dtype == torch.float32 else (4e-6, 2**-8)
    torch.testing.assert_close(found.double(), F.gelu(x.double()), atol=absolute, rtol=relative)
    single = torch.full((2, 2), torch.inf, dtype=dtype) * torch.tensor([[1], [-1]], dtype=dtype)
    ones = native.Packed(torch.ones(1, 2, dtype=dtype))(single, dtype, None, activation=native.GELU)
    assert ones[0] == torch.inf and ones[1] == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_shows_in_its_row_and_in_no_other(bad: float) -> None:
    weight, x = normal(40, 64), normal(20, 64, seed=1)
    x[3, 17] = bad
    products = [(native.Packed(weight), native.NONE), (native.Packed(weight), native.GELU)]
    products.append((native.Packed(weight), native.RELU if bad is torch.nan else native.NONE))
    if has_vnni():
        products.append((native.Packed(torch.ones(40, 64, dtype=torch.int8), torch.ones(40), 128), native.NONE))
    for product, activation in products:
        found = product(x, torch.float32, None, activation=activation).isfinite()
        assert not found[3].any() or (activation == native.GELU and not found[3].all())
        assert found[:3].all() and found[4:].all()
    q, k, v = normal(30, 96).chunk(3, dim=1)
    k = k.clone()
    k[12, 3] = torch.nan
    layout = Ragged.of((10, 10, 10), False)
    found = native.attention(q, k, v, 2, layout.starts, 10, False).isfinite()
    assert not found[10:20, :16].any() and found[10:20, 16:].all() and found[:10].all() and found[20:].all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_layer_norm(dtype: torch.dtype) -> None:
    for width in (1, 17, 768):
        x, norm = (5 + normal(9, 2 * width)).to(dtype)[:, :width], norm_of(width)
        torch.testing.assert_close(native.layer_norm(norm, x).float(), normed(x.float(), norm), **CLOSE[dtype])


@pytest.fixture(params=["XLM", "XLMRoberta", "XLMRobertaXL"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = getattr(xlm, f"{request.param}Config")(
        vocab_size=90, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=100, pad_token_id=1
    )  # fmt: skip
    getattr(xlm, f"{request.param}Model")(config).save_pretrained(tmp_path)
    return tmp_path


def states(model: Any, lengths: tuple[int, ...] = (3, 17, 1, 40, 8), rows: Tensor | None = None) -> Tensor:
    ids = torch.randint(4, 90, (sum(lengths),), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return model.states(Batch(ids, lengths=lengths), rows)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_layers_as_one_call_are_the_layers(folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"quantization": "int8"} if dtype == "int8" else {"torch_dtype": dtype}
    model = xlm.AutoModel.from_pretrained(folder, for_inference=True, **how).eval()
    ops, calls = model.encoder.ops, []
    whole = type(ops).layers

    def counted(self: Any, *arguments: Any) -> tuple[Tensor, int]:
        found = whole(self, *arguments)
        calls.append(found[1])
        return found

    monkeypatch.setattr(type(ops), "layers", counted)
    some = torch.tensor([0, 5, 68])
    together, few = states(model), states(model, rows=some)
    assert calls == [3, 2]
    handle = model.encoder.layer[1].register_forward_hook(lambda *_: None)
    assert torch.equal(states(model), together)
    handle.remove()
    monkeypatch.setattr(type(ops), "layers", lambda self, layers, x, layout, last: (x, 0))
    assert torch.equal(states(model), together)
    assert torch.equal(states(model, rows=some), few)
    assert torch.equal(together[some], few)


def test_an_adapter_in_a_layers_place_is_called(folder: Path) -> None:
    model = xlm.AutoModel.from_pretrained(folder, for_inference=True).eval()
    before = states(model)

    class Doubled(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return 2 * model.encoder.ops.linear(self.inner, x)

    model.encoder.layer[0].output.dense = Doubled(model.encoder.layer[0].output.dense)
    assert not torch.allclose(states(model), before)


def test_no_rows_give_no_rows() -> None:
    product = native.Packed(normal(5, 8))
    assert product(normal(0, 8), torch.float32, None).shape == (0, 5)
    nothing = normal(0, 8)
    assert native.attention(nothing, nothing, nothing, 2, torch.tensor([0]), 0, False).shape == (0, 8)


def test_the_kernels_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLM_KERNELS", "0")
    assert native.library.__wrapped__() is None
