"""The GPU's table and packs of few sizes, through PyTorch's packed attention; a loop stands in for its kernel."""

from __future__ import annotations

import logging
from inspect import signature
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import varlen

import varlen_on_cpu
import xlm
from xlm.backends.torch import buckets, ops_cuda, placement
from xlm.backends.torch.layout import Ragged
from xlm.backends.torch.ops import PLAIN
from xlm.batches.batch import Batch
from xlm.errors import ConfigError, InputError

assert varlen_on_cpu


def tiny(dtype: torch.dtype = torch.bfloat16, heads: int = 3) -> Any:
    torch.manual_seed(0)
    config = xlm.XLMRobertaConfig(
        vocab_size=300, hidden_size=48, num_hidden_layers=3, num_attention_heads=heads, intermediate_size=64,
        max_position_embeddings=600, initializer_range=0.1,
    )  # fmt: skip
    return xlm.XLMRobertaModel(config, add_pooling_layer=False).eval().to(dtype).requires_grad_(False)


def packed(*lengths: int) -> Batch:
    ids = torch.randint(5, 300, (sum(lengths),), generator=torch.Generator().manual_seed(3))
    return Batch.packed(ids, lengths)


@given(lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=40))
def test_buckets_hold_their_sequences(lengths: list[int]) -> None:
    total = buckets.bucket(sum(lengths))
    filled = buckets.filled(lengths, total)
    assert filled[: len(lengths)] == lengths
    assert sum(filled) == total >= sum(lengths)
    assert 0 < min(filled) and max(filled) == max(lengths) <= buckets.bound(max(lengths)) <= max(512, 2 * max(lengths))
    assert total < 2 * max(sum(lengths), 256)


def run_all(backend: str, sizes: tuple[int, ...]) -> tuple[int, set[int]]:
    """Packs of every size with several numbers of sequences: graphs that were made, and sizes."""
    model = tiny()
    placement.use_gpu(model)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    run, seen = buckets.Bucketed(model, backend=counter), set()
    for size in sizes:
        for length in (256, 130, 50, 20):
            lengths = [length] * max(1, size * 9 // 10 // length)
            batch = packed(*lengths, 3)
            seen.add(buckets.bucket(batch.tokens))
            torch.testing.assert_close(run(batch).float(), model.states(batch).float(), atol=0.06, rtol=0.06)
    return counter.frame_count, seen


@pytest.mark.slow
@torch.no_grad()
def test_one_graph_for_a_number_of_tokens_whatever_the_sequences() -> None:
    made, seen = run_all("eager", (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096))
    assert made == len(seen) == 9  # PyTorch alone would give up at 8
    for backend in ("aot_eager", "inductor"):
        made, seen = run_all(backend, (512,))
        assert made == len(seen)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernel_serves_both_half_types(dtype: torch.dtype) -> None:
    batch, model = packed(1, 5, 5, 17, 2), tiny(dtype)
    wanted = tiny(torch.float32).states(batch)
    assert placement.use_gpu(model) is None
    torch.testing.assert_close(model.states(batch).float(), wanted, atol=0.06, rtol=0.06)


@torch.no_grad()
def test_where_the_kernel_is_not_to_be_had_equal_lengths_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the kernel was called")

    monkeypatch.setattr(ops_cuda, "varlen_attn", refuse)
    batch, model = packed(1, 5, 5, 17, 2), tiny(heads=4)
    wanted = model.states(batch).float()
    assert placement.use_gpu(model) == "a head's width is 12, the kernel needs a multiple of 8 up to 256"
    torch.testing.assert_close(model.states(batch).float(), wanted, atol=0.06, rtol=0.06)
    assert model.computed_by.startswith("CUDA: attention in runs of equal length (a head's width is 12")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert ops_cuda.why_not_packed(torch.device("cuda"), 64) == "compute capability 7.5, the kernel needs 8.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert ops_cuda.why_not_packed(torch.device("cuda"), 64) == "this PyTorch was built without the kernel"
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert ops_cuda.why_not_packed(torch.device("cuda"), 64) is None


def test_rows_without_runs_are_refused() -> None:
    q, k, v = (torch.randn(4, 48) for _ in range(3))
    layout = Ragged.at(torch.tensor([0, 4], dtype=torch.int32), 512, False)
    with pytest.raises(InputError, match="4 packed rows without the runs"):
        PLAIN.ragged_attention(q, k, v, 3, layout, 0.0)
    none = Ragged.of((), False)
    assert PLAIN.ragged_attention(q[:0], k[:0], v[:0], 3, none, 0.0).shape == (0, 48)


def test_what_a_gpu_cannot_do_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.inference.loading.find_device", lambda device: torch.device("cuda"))
    for options, what in (
        ({"compile": True}, "compile=True with dtype 'float32'"),
        ({"compile": True, "dtype": "bfloat16", "batch_invariant": True}, "excludes batch_invariant"),
        ({"dtype": "int8"}, "int8 is for the CPU"),
    ):
        with pytest.raises(ConfigError, match=what):
            xlm.load(**options)


def test_half_precision_is_for_gpus() -> None:
    with pytest.raises(ConfigError, match="dtype is 'float16' and device is 'cpu': float16 is for GPUs"):
        xlm.load(dtype="float16", device="cpu")


def test_every_release_of_the_kernel_is_told_its_way_where_to_look() -> None:
    def of_2_10(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, is_causal: bool = False) -> Any:
        return is_causal

    def of_2_11(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, *, window_size: Any) -> Any:
        return window_size == (-1, 0)

    kernels: list[Any] = [of_2_10, of_2_11]
    for kernel in kernels:
        looking = ops_cuda.how_to_look(kernel)
        assert [kernel(*[None] * 7, **looking(causal)) for causal in (False, True)] == [False, True]
    assert ops_cuda.how_to_look(varlen.varlen_attn)(True)

    def of_2_12(q: Any, k: Any, v: Any, *, num_splits: int | None = None) -> Any:
        return num_splits

    assert ops_cuda.how_to_sum(of_2_12, rocm=False) == {"num_splits": 1}
    assert not ops_cuda.how_to_sum(of_2_12, rocm=True) and not ops_cuda.how_to_sum(of_2_11, rocm=False)


@torch.no_grad()
def test_a_sequences_keys_are_never_divided_and_packs_attend_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So an invariant model need not go sequence by sequence."""
    calls: list[dict[str, Any]] = []
    real = ops_cuda.varlen_attn

    def kernel(*arguments: Any, **options: Any) -> Any:
        calls.append(options)
        return real(*arguments, **options)

    model, batch = tiny(), packed(1, 5, 5, 17, 2)
    wanted = model.states(batch).float()
    placement.use_gpu(model)
    placement.make_invariant(model)
    monkeypatch.setattr(ops_cuda, "varlen_attn", kernel)
    torch.testing.assert_close(model.states(batch).float(), wanted, atol=0.06, rtol=0.06)
    assert len(calls) == len(model.encoder.layer)
    if "num_splits" in signature(real).parameters:
        assert all(options["num_splits"] == 1 for options in calls)


def test_dense_attention_does_without_cudnn_whose_plans_are_made_anew_for_every_shape() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        placement.use_gpu(tiny())
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@torch.no_grad()
def test_above_the_limit_of_graphs_packs_run_uncompiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(buckets, "_GRAPHS", 1)
    buckets._warn_of_limit.cache_clear()
    model = tiny()
    placement.use_gpu(model)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    run = buckets.Bucketed(model, backend=counter)
    with caplog.at_level(logging.WARNING, "xlm"):
        for size in (100, 300, 100, 300):
            batch = packed(*[20] * (size // 20))
            torch.testing.assert_close(run(batch).float(), model.states(batch).float(), atol=0.06, rtol=0.06)
    assert counter.frame_count == 1
    assert caplog.text.count("packs of other sizes run uncompiled") == 1
    torch._dynamo.reset()


@torch.no_grad()
def test_joined_weights_are_held_once_and_stay_the_layers_own() -> None:
    model = tiny()
    three: Any = model.encoder.layer[0].attention.core
    wanted = [layer.weight.clone() for layer in (three.query, three.key, three.value)]
    placement.use_gpu(model)
    own = [layer.weight for layer in (three.query, three.key, three.value)]
    assert len({weight.untyped_storage().data_ptr() for weight in own}) == 1
    assert all(torch.equal(one, other) for one, other in zip(own, wanted, strict=True))


def core_of(model: Any) -> Any:
    return model.encoder.layer[0].attention.core


def test_joined_weights_learn_as_the_layers_own() -> None:
    model, batch = tiny(torch.float32), packed(1, 5, 5, 17, 2)
    placement.use_gpu(model)
    model.requires_grad_(True)
    model.states(batch).square().sum().backward()
    core = core_of(model)
    assert all(
        layer.weight.grad is not None and layer.weight.grad.any() for layer in (core.query, core.key, core.value)
    )


@torch.no_grad()
@pytest.mark.parametrize("change", ["adapter", "weight", "half"])
def test_what_takes_the_place_of_joined_weights_is_computed(change: str) -> None:
    model, plain, batch = tiny(torch.float32), tiny(torch.float32), packed(1, 5, 5, 17, 2)
    placement.use_gpu(model)
    for one in (plain, model):
        core = core_of(one)
        if change == "adapter":
            core.value = torch.nn.Sequential(core.value, torch.nn.Hardtanh(-0.01, 0.01))
        elif change == "weight":
            core.value.weight = torch.nn.Parameter(core.value.weight * 3)
        else:
            one.half().float()
            core.value.weight *= 3
    torch.testing.assert_close(model.states(batch), plain.states(batch), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_pre_norm_layers_in_float16_add_up_beyond_its_range() -> None:
    torch.manual_seed(0)
    config = xlm.XLMRobertaXLConfig(
        vocab_size=300, hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=64,
        max_position_embeddings=600, initializer_range=0.1,
    )  # fmt: skip
    model: Any = xlm.XLMRobertaXLModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    for layer in model.encoder.layer:
        layer.output.dense.bias.fill_(40_000.0)  # a float16, but no two of them
        layer.output.dense.bias[::2] *= -1
    batch = packed(1, 5, 5, 17, 2)
    wanted = model.states(batch)
    model = model.half()
    assert not model.states(batch).isfinite().all()
    placement.use_gpu(model)
    found = model.states(batch)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, atol=0.02, rtol=0.02)
    torch.testing.assert_close(buckets.Bucketed(model, backend="eager")(batch).float(), wanted, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("capability", "built", "wanted"),
    [
        ((7, 0), ["sm_75", "sm_80"], False),
        ((8, 6), ["sm_75", "sm_80"], True),
        ((10, 0), ["sm_80", "sm_90", "sm_100"], True),
        ((12, 0), ["sm_90a", "sm_100f"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((7, 0), ["compute_75"], False),
        ((9, 4), ["gfx942"], True),
        ((7, 0), [], True),
    ],
)
def test_doctor_knows_which_kernels_run_where(capability: tuple[int, int], built: list[str], wanted: bool) -> None:
    from xlm.cli.doctor import has_kernels

    assert has_kernels(capability, built) == wanted


def test_doctor_says_how_a_gpu_attends(monkeypatch: pytest.MonkeyPatch) -> None:
    from xlm.cli.doctor import torch_facts

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0) if device.index else (7, 5))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert torch_facts()["gpus"] == (
        "GPU 0 (attention in runs of equal length: compute capability 7.5, the kernel needs 8.0; no bfloat16: choose "
        "float16), GPU 1 (packed attention in bfloat16 and float16)"
    )
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    assert torch_facts()["gpus"] == (
        "GPU 0 (not usable: compute capability 7.5, this PyTorch has kernels for sm_80, sm_90), "
        "GPU 1 (packed attention in bfloat16 and float16)"
    )

    def broken(device: Any) -> tuple[int, int]:
        raise RuntimeError("The NVIDIA driver on your system is too old\nUpdate it")

    monkeypatch.setattr(torch.cuda, "get_device_capability", broken)
    assert torch_facts()["gpus"] == ", ".join(
        f"GPU {index} (not usable: The NVIDIA driver on your system is too old)" for index in range(2)
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert torch_facts()["gpus"] == "none"
