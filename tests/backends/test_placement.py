"""Weights at rest for inference: packed, widened, quantized, streamed; and the refusals before memory runs out."""

from __future__ import annotations

import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import xlm
from xlm.backends.torch import ops_cpu, ops_packed, ops_widening, placement
from xlm.backends.torch.ops import PLAIN, Operations
from xlm.checkpoints.checkpoint import Checkpoint

SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}
CASES = {
    "xl": (xlm.XLMRobertaXLForMaskedLM, xlm.XLMRobertaXLConfig(**SIZES)),
    "xlm-r": (xlm.XLMRobertaForSequenceClassification, xlm.XLMRobertaConfig(**SIZES)),
    "xlm": (xlm.XLMWithLMHeadModel, xlm.XLMConfig(vocab_size=300, emb_dim=48, n_layers=3, n_heads=3, init_std=0.2)),
}


@pytest.fixture(scope="module", params=list(CASES))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    cls, config = CASES[request.param]
    torch.manual_seed(0)
    model = cls(config).eval()
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    ids = torch.randint(6, 300, (2, 11), generator=torch.Generator().manual_seed(1))
    return cls, folder, ids, model(ids).logits.detach()


@pytest.mark.parametrize(
    "options",
    [
        {"for_inference": True},
        {"for_inference": True, "dtype": "bfloat16"},
        {"quantization": "int8"},
        {"quantization": "int8", "dtype": "bfloat16"},
        {"offload": "disk", "dtype": "auto"},
    ],
    ids=str,
)
def test_every_placement_answers_like_plain_float32(saved, options) -> None:
    cls, folder, ids, wanted = saved
    model = cls.from_pretrained(folder, **options)
    for _ in range(2):  # dropped pages are read again
        with torch.inference_mode():
            got = model(ids).logits
    assert not any(p.requires_grad for p in model.parameters())
    cosine = F.cosine_similarity(got.float().flatten(), wanted.flatten(), dim=0)
    exact = options in ({"for_inference": True}, {"offload": "disk", "dtype": "auto"})
    assert cosine > (1 - 1e-6 if exact else 0.995), float(cosine)


def test_int8_takes_a_byte_a_weight(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, folder, _, _ = saved
    monkeypatch.setattr(ops_cpu, "has_vnni", lambda: False)  # else they lie in the layout of the integer products
    model = cls.from_pretrained(folder, quantization="int8")
    for module in model.base_model.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            assert module.weight.dtype == torch.int8
            assert module.weight_scale.shape == (module.out_features,)


def test_quantized_rows_are_within_half_a_step() -> None:
    layer = torch.nn.Linear(20, 7)
    before = layer.weight.detach().clone()
    ops_widening.quantize_linear(layer)
    restored = layer.weight.float() * layer.weight_scale[:, None]
    assert ((restored - before).abs() <= layer.weight_scale[:, None] / 2 + 1e-7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_compute_what_plain_ones_do(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not ops_cpu.has_bf16():
        pytest.skip("this processor has no bfloat16 products")
    layer, x = torch.nn.Linear(32, 24).to(dtype).requires_grad_(False), torch.randn(5, 32, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    plain, fused = PLAIN.linear(layer, x), PLAIN.linear_act(layer, x, F.gelu)
    packed = ops_packed.Packed()
    packed.pack([layer])
    torch.testing.assert_close(packed.linear(layer, x), plain, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(packed.linear_act(layer, x, F.gelu), fused, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        packed.linear_act(layer, x, torch.tanh), torch.tanh(plain), atol=tolerance, rtol=tolerance
    )


def test_widening_goes_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_widening, "_BLOCK", 100)
    monkeypatch.setattr(ops_widening, "_scratch", threading.local())
    layer, x = torch.nn.Linear(32, 24).bfloat16().requires_grad_(False), torch.randn(5, 32)
    ops = ops_widening.Widening()
    torch.testing.assert_close(ops.linear(layer, x), F.linear(x, layer.weight.float(), layer.bias.float()))
    assert ops_widening._scratch.buffer.numel() <= 100


def test_threads_do_not_share_what_they_widen_into() -> None:
    layers = [torch.nn.Linear(256, 2048).bfloat16().requires_grad_(False) for _ in range(4)]
    x, ops = torch.randn(3, 256), ops_widening.Widening()
    alone = [ops.linear(layer, x) for layer in layers]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda index: ops.linear(layers[index % 4], x), range(200)))
    for index, one in enumerate(made):
        assert torch.equal(one, alone[index % 4])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"quantization": "int3"}, "quantization='int3'"),
        ({"offload": "tape"}, "offload='tape'"),
        ({"quantization": "int8", "offload": "disk"}, "choose one"),
    ],
)
def test_impossible_options_are_named(saved, options, names) -> None:
    cls, folder, _, _ = saved
    with pytest.raises(xlm.ConfigError, match=names):
        cls.from_pretrained(folder, **options)


def test_what_cannot_fit_is_refused_before_it_is_read(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, folder, _, _ = saved
    monkeypatch.setattr(placement, "available_memory", lambda: 1000)
    with pytest.raises(xlm.CheckpointError, match=r"bytes of memory are needed as .*, 1,000 are available"):
        cls.from_pretrained(folder, dtype="bfloat16")
    cls.from_pretrained(folder)  # mapped as it is: nothing is copied


def test_every_module_gets_the_table() -> None:
    class Counting(Operations):
        calls = 0

        def linear(self, module, x):
            Counting.calls += 1
            return super().linear(module, x)

    model = xlm.XLMRobertaModel(xlm.XLMRobertaConfig(**SIZES), add_pooling_layer=False).eval()
    placement.use(model, Counting())
    model(torch.tensor([[0, 5, 2]]))
    assert Counting.calls == 3 * 6  # query, key, value, attention output, both halves of the feed-forward block


def test_memory_is_known_where_the_system_says() -> None:
    have = placement.available_memory()
    assert have is None if not Path("/proc/meminfo").exists() else have is not None and have > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_word_table_that_is_only_looked_up_stays_in_its_file(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []
    release = Checkpoint.release
    monkeypatch.setattr(Checkpoint, "release", lambda self, name: (released.append(name), release(self, name))[1])
    monkeypatch.setattr(placement, "_LOOKED_UP", 8)
    kept = xlm.XLMRobertaModel(xlm.XLMRobertaConfig(**SIZES), add_pooling_layer=False).eval()
    kept.save_pretrained(tmp_path)
    model = xlm.XLMRobertaModel.from_pretrained(tmp_path, add_pooling_layer=False, for_inference=True, dtype=dtype)
    words, ids = model.get_input_embeddings(), torch.tensor([5, 2, 7])
    assert words.weight.dtype == torch.float32
    released.clear()
    for looks in range(1, 7):
        found = words(ids)
        assert torch.equal(found, kept.get_input_embeddings()(ids).to(dtype))
        assert len(released) == looks // 3  # three rows a look, eight before pages are given back
    assert set(released) == {"embeddings.word_embeddings.weight"}


def test_a_word_table_that_a_head_multiplies_is_in_memory_as_asked(saved) -> None:
    cls, folder, _, _ = saved
    model = cls.from_pretrained(folder, for_inference=True, dtype="bfloat16")
    head = model.get_output_embeddings() is not None
    assert model.get_input_embeddings().weight.dtype == (torch.bfloat16 if head else torch.float32)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_goes_back_to_the_system() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    blocks = [bytes(1 << 16) for _ in range(1000)]
    blocks = blocks[-1:]  # the last one keeps the heap from shrinking by itself
    before = resident()
    placement.give_back()
    assert len(blocks) == 1
    assert before - resident() > 30e6
