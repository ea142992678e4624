"""Which checks read values, for which the host waits for a GPU, and that none does while a CUDA graph is recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from xlm.backends.torch import trunk
from xlm.backends.torch.embeddings import check_ids
from xlm.backends.torch.layout import check_mask
from xlm.batches.batch import Batch
from xlm.errors import InputError

HEAD = next(head for head in tiny.MODELS if head.family == "xlm-roberta")


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the arguments whose values are read."""
    names: list[str] = []

    def noted(name: str, *more: Any) -> None:
        names.append(name)
        check_ids(name, *more)

    monkeypatch.setattr(trunk, "check_ids", noted)
    return names


def test_positions_that_the_model_counts_are_not_read(checked: list[str]) -> None:
    model, ids = tiny.model(HEAD), tiny.ids(HEAD, length=5)
    model(ids)
    model.states(Batch.packed(ids.reshape(-1), [5] * len(ids)))
    assert checked == ["input_ids", "input_ids"]
    places = torch.arange(2, 7).expand_as(ids)
    model(ids, position_ids=places)
    model.states(Batch.packed(ids.reshape(-1), [5] * len(ids), position_ids=places.reshape(-1)))
    assert checked[2:] == ["input_ids", "position_ids"] * 2


def test_positions_beyond_the_table_are_refused_all_the_same() -> None:
    model = tiny.model(HEAD)
    most = model.spec.max_tokens
    ids = torch.full((most + 1,), 5)
    model.states(Batch.packed(ids[:-1], [most]))
    with pytest.raises(InputError, match=rf"position_ids\[{most}\]"):
        model.states(Batch.packed(ids, [most + 1]))
    with pytest.raises(InputError, match="position_ids"):
        model(ids[None, :2], position_ids=torch.tensor([[0, model.spec.max_positions]]))
    decoder = tiny.model(next(h for h in tiny.HEADS if h.kind == "causal" and h.family == HEAD.family))
    first = decoder(ids[None, : most - 1], use_cache=True)
    decoder(ids[None, :1], past_key_values=first.past_key_values)
    with pytest.raises(InputError, match="position_ids"):
        decoder(ids[None, :2], past_key_values=first.past_key_values)


def test_a_cuda_graph_is_recorded_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, halves = torch.tensor([[5, 1000]]), torch.tensor([[1.0, 7.0]])
    for check in (lambda: check_ids("input_ids", wrong, 9, "the vocabulary"), lambda: check_mask("mask", halves)):
        with pytest.raises(InputError):
            check()
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_initialized", lambda: True)
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            check()


def test_beams_are_read_for_all_prompts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model(next(h for h in tiny.HEADS if h.kind == "causal" and h.family == HEAD.family))
    reads, tolist, number = [], Tensor.tolist, Tensor.__float__

    def noted(self: Tensor) -> Any:
        reads.append(tuple(self.shape))
        return tolist(self)

    def as_float(self: Tensor) -> float:
        reads.append(tuple(self.shape))
        return number(self)

    counts = []
    for many in (1, 4):
        ids = torch.full((many, 3), 5)
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "tolist", noted)
            patch.setattr(Tensor, "__float__", as_float)
            model.generate(ids, num_beams=2, max_new_tokens=4, eos_token_id=[])
        counts.append(len(reads))
        reads.clear()
    assert counts[0] == counts[1]


def test_a_generator_of_another_device_is_refused() -> None:
    from xlm.backends.torch.decoding import Options

    options = Options(do_sample=True, generator=torch.Generator())
    options.check(torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(InputError, match="generator on cpu: the ids are on meta"):
        options.check(torch.zeros(1, 2, dtype=torch.long, device="meta"))


@pytest.mark.parametrize("head", tiny.MODELS, ids=str)
def test_rows_that_see_nothing_are_the_same_under_autocast(head: tiny.Head) -> None:
    """The lowest float32 would be an infinity in a smaller type."""
    model, ids = tiny.model(head), tiny.ids(head, length=5)
    mask = torch.ones_like(ids)
    mask[0] = 0
    want = model(ids, attention_mask=mask).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        got = model(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)
