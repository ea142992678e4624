"""Every model and head on a GPU that is only claimed: nothing stays behind on the CPU, and packs make nobody wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from fake_cuda import CUDA, fake_cuda, moved
from xlm.backends.torch import placement, reductions, transfer, trunk
from xlm.backends.torch.buckets import Bucketed
from xlm.backends.torch.crossing import Crossing
from xlm.backends.torch.packed import head_scores, rows_read
from xlm.backends.torch.transfer import upload
from xlm.batches.batch import Batch

OTHERS = (torch.float32, torch.float16)
DTYPES = [torch.bfloat16, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in OTHERS)]
LENGTHS = (1, 5, 5, 7, 2)
PACKED_HEADS = [head for head in tiny.HEADS if head.kind in ("classify", "choose", "tag", "answer")]


def on_gpu(head: tiny.Head, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    model = moved(head.cls(tiny.config(head, **more)).eval().requires_grad_(False), dtype)
    placement.use_gpu(model)
    return model


def packed(head: tiny.Head, lengths: tuple[int, ...] = LENGTHS, languages: bool = True) -> Batch:
    """A packed batch on the host, as the engine makes them."""
    ids = torch.full((sum(lengths),), 5)
    return Batch.packed(ids, lengths, languages=torch.ones_like(ids) if languages and head.family == "xlm" else None)


def there(value: Any) -> Tensor:
    return value.to(CUDA, non_blocking=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", tiny.MODELS, ids=str)
@torch.inference_mode()
def test_packs_of_the_host_run_without_a_wait(
    head: tiny.Head, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    monkeypatch.setattr(trunk, "check_ids", lambda name, ids, *_: checked.append((name, ids.device.type)))
    with fake_cuda(monkeypatch) as copies:
        model, batch = on_gpu(head, dtype), packed(head)
        wanted = there(torch.tensor([0, 3, 9]))
        copies.waits.clear()
        for rows in (None, wanted):
            for causal in (None, True):
                states = model.states(batch, rows, causal)
                assert (states.device, states.dtype) == (CUDA, dtype)
                assert len(states) == (sum(LENGTHS) if rows is None else 3)
        for pooling in ("mean", "cls", "max"):
            vectors = reductions.pool_rows(model.states(batch), LENGTHS, pooling)
            assert (vectors.device, vectors.dtype, vectors.shape) == (CUDA, torch.float32, (5, 16))
        assert copies.waits == copies.down == []
    assert {place for _, place in checked} == {"cpu"} and "input_ids" in {name for name, _ in checked}


@torch.inference_mode()
def test_offsets_go_to_a_gpu_once_a_pack_and_not_once_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    head, sent = tiny.MODELS[1], []
    with fake_cuda(monkeypatch):
        model = on_gpu(head, torch.bfloat16, num_hidden_layers=5)

        def noted(tensor: Tensor, device: torch.device) -> Tensor:
            sent.append(tensor.dtype)
            return upload(tensor, device)

        monkeypatch.setattr("xlm.backends.torch.layout.upload", noted)
        model.states(packed(head))
    assert sent == [torch.int32]


@torch.inference_mode()
@pytest.mark.parametrize("place", ["trunk", "layout", "packed"])
def test_a_forgotten_copy_is_found(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = next(head for head in PACKED_HEADS if head.name == "XLMRobertaForSequenceClassification")
    monkeypatch.setattr(f"xlm.backends.torch.{place}.upload", lambda tensor, device: tensor)
    with fake_cuda(monkeypatch), pytest.raises(RuntimeError, match="device"):
        model = on_gpu(head, torch.bfloat16)
        head_scores(model, model.states(packed(head)), LENGTHS)


@torch.inference_mode()
def test_what_is_left_on_the_cpu_or_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    head = tiny.MODELS[1]
    with fake_cuda(monkeypatch) as copies:
        model, batch = on_gpu(head), packed(head)
        with pytest.raises(RuntimeError, match="device"):
            model.states(batch, torch.tensor([0, 3]))
        with pytest.raises(RuntimeError, match="device"):
            model(there(batch.ids[None]), attention_mask=torch.ones(1, 20))
        with pytest.raises(AssertionError, match="an index on cpu"):
            model.states(batch)[torch.tensor([0])]
        with pytest.raises(AssertionError, match="waits for the GPU to count"):
            model.states(batch)[there(torch.ones(20, dtype=torch.bool))]
        with pytest.raises(Exception, match="repeat_interleave"):
            torch.repeat_interleave(there(torch.tensor([1, 2])))
        for look in (float, bool, Tensor.item, Tensor.tolist, Tensor.nonzero):
            with pytest.raises(RuntimeError):
                look(model.states(batch).sum())
        copies.waits.clear()
        torch.tensor([1, 2], device=CUDA)
        there(batch.ids).cpu()
        assert copies.waits == ["(2,) torch.int64"] and copies.down == ["(20,) torch.int64"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", PACKED_HEADS, ids=str)
@torch.inference_mode()
def test_heads_score_packs_without_a_wait(head: tiny.Head, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    more: list[dict[str, Any]] = [{}]
    if head.family == "xlm" and head.kind in ("classify", "choose"):
        more = [{"summary_type": kind} for kind in ("first", "last", "mean")]
    with fake_cuda(monkeypatch) as copies:
        for options in more:
            model = on_gpu(head, dtype, **options)
            copies.waits.clear()
            states = model.states(packed(head))
            assert head_scores(model, states, LENGTHS).device == CUDA
            rows = rows_read(model, LENGTHS, CUDA)
            if rows is not None:
                scores = head_scores(model, model.states(packed(head), rows), [1] * len(LENGTHS))
                assert scores.device == CUDA and len(scores) == len(LENGTHS)
            assert copies.waits == copies.down == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", tiny.LM_HEADS, ids=str)
@torch.inference_mode()
def test_language_models_score_chosen_places_without_a_wait(
    head: tiny.Head, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_cuda(monkeypatch) as copies:
        model = on_gpu(head, dtype)
        places = there(torch.tensor([0, 3, 9]))
        copies.waits.clear()
        logits = model.lm_logits(model.states(packed(head)).index_select(0, places))
        ids, probabilities = reductions.top_tokens(logits, 4, tiny.VOCAB - 1)
        assert (ids.device, ids.shape, probabilities.dtype) == (CUDA, (3, 4), torch.float64)
        assert copies.waits == copies.down == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", tiny.HEADS, ids=str)
def test_the_documented_forward_takes_everything_on_a_gpu(
    head: tiny.Head, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With masks, types, languages, labels and all outputs."""
    with fake_cuda(monkeypatch) as copies:
        model = on_gpu(head, dtype)
        ids = there(tiny.ids(head))
        given: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "output_hidden_states": True}
        if head.kind != "beam":  # looks at the values of its labels
            given |= {name: there(value) for name, value in tiny.labels(head, ids).items()}
        if head.family == "xlm":
            given["langs"] = torch.ones_like(ids)
        else:
            given["token_type_ids"] = torch.zeros_like(ids)
        if head.kind != "choose":
            given["output_attentions"] = True
        output = model(ids, **given)
        assert {value.device for value in output.values() if isinstance(value, Tensor)} == {CUDA}
        assert copies.down == [], "something was computed on the host"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", [h for h in tiny.HEADS if h.kind == "causal"], ids=str)
@torch.inference_mode()
def test_a_decoder_goes_on_from_its_caches(
    head: tiny.Head, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_cuda(monkeypatch):
        model = on_gpu(head, dtype, add_cross_attention=True)
        ids = there(tiny.ids(head))
        source = {
            "encoder_hidden_states": torch.zeros(3, 4, 16, device=CUDA, dtype=dtype),
            "encoder_attention_mask": torch.ones(3, 4, device=CUDA),
        }
        first = model(ids, use_cache=True, **source)
        assert {tensor.device for layer in first.past_key_values for tensor in layer} == {CUDA}
        mask = torch.ones(3, 8, device=CUDA)
        one = torch.zeros_like(ids).narrow(1, 0, 1) + 5
        then = model(one, attention_mask=mask, past_key_values=first.past_key_values, use_cache=True, **source)
        assert then.logits.shape == (3, 1, tiny.VOCAB) and then.past_key_values[0][0].shape[2] == 8


@torch.inference_mode()
def test_packed_translation_reads_its_source_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    head = next(head for head in tiny.HEADS if head.kind == "causal")
    with fake_cuda(monkeypatch) as copies:
        model = on_gpu(head, torch.bfloat16, add_cross_attention=True)
        source, target = packed(head, (3, 4)), packed(head, (2, 5))
        states = torch.zeros(7, 16, device=CUDA, dtype=torch.bfloat16)
        copies.waits.clear()
        found = model.roberta.states(target, source=(states, source))
        assert found.device == CUDA and copies.waits == copies.down == []
        assert {r.query_rows.device for r in Crossing.of((2, 5), (3, 4), CUDA).rectangles} == {CUDA}


@torch.inference_mode()
def test_packs_that_are_filled_up_are_filled_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for head in tiny.MODELS:
        with fake_cuda(monkeypatch) as copies:
            model = on_gpu(head, torch.float16)
            run = Bucketed(model, backend="eager")
            monkeypatch.setattr(run, "_layer", run._run)
            copies.waits.clear()
            assert run(packed(head)).shape == (20, 16)
            assert copies.waits == copies.down == []


def test_padded_ids_on_the_gpu_are_packed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that a caller put on the GPU himself: they are checked there, which waits, but nothing is mixed."""
    for head in tiny.MODELS:
        with fake_cuda(monkeypatch), torch.inference_mode():
            model, batch = on_gpu(head), packed(head)
            batch = replace(batch, ids=there(batch.ids), languages=None)
            assert model.states(batch).device == CUDA


def test_heads_keep_their_width_where_the_kernel_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch, capability=(7, 5)), torch.inference_mode():
        model = on_gpu(tiny.MODELS[1], torch.float16)
        assert "compute capability 7.5" in model.computed_by
        assert model.states(packed(tiny.MODELS[1])).device == CUDA


@torch.no_grad()
def test_the_forward_of_a_training_step_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without autograd and autocast, which need a driver."""
    from xlm.training.objectives import mean_pool, to_batch
    from xlm.training.steps import MicroBatch

    lengths = [4, 5, 4]
    ids, chosen = np.full(13, 5), np.array([1, 6, 11])
    micro = MicroBatch("mlm", ids, lengths, ["none"] * 3, chosen, ids[:3], ids * 0)
    for head in tiny.ONE_A_FAMILY:
        with fake_cuda(monkeypatch) as copies:
            model = moved(head.cls(tiny.config(head)).train())
            copies.waits.clear()
            positions = upload(torch.from_numpy(micro.positions), CUDA)
            logits = model.lm_logits(model.states(to_batch(micro, model.spec), positions))
            pooled = mean_pool(model.states(to_batch(micro, model.spec)), lengths)
            assert logits.device == pooled.device == CUDA and len(logits) == len(pooled) == 3
            assert copies.waits == copies.down == []


def test_copies_to_the_host_wait_for_what_they_read_and_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what is asked of the driver, which is not there."""
    told: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            told.append(f"{self.name} waits for {other.name}")

        def record_event(self) -> Stream:
            told.append(f"event in {self.name}")
            return self

        def synchronize(self) -> None:
            told.append(f"host waits for {self.name}")

        def __enter__(self) -> None:
            told.append(f"in {self.name}")

        def __exit__(self, *error: object) -> None:
            told.append(f"out of {self.name}")

    monkeypatch.setattr(transfer, "_stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: told.append(f"{stream.name} reads {self.dtype}"))
    monkeypatch.setattr(transfer, "_numpy", lambda tensor: (tuple(tensor.shape), tensor.dtype, tensor.device.type))
    with fake_cuda(monkeypatch) as copies, torch.inference_mode():
        states, ids = (
            torch.zeros(4, 2, device=CUDA, dtype=torch.bfloat16),
            torch.zeros(3, device=CUDA, dtype=torch.int64),
        )
        arrive = transfer.download([states, ids])
        assert copies.down == ["(4, 2) torch.bfloat16", "(3,) torch.int64"] and "host waits for side" not in told
        assert arrive() == [((4, 2), torch.bfloat16, "cpu"), ((3,), torch.int64, "cpu")]
    reads = ["side reads torch.bfloat16", "side reads torch.int64"]
    assert told == ["side waits for main", "in side", *reads, "event in side", "out of side", "host waits for side"]
