"""What a GPU makes of states and logits is what the host would make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlm.backends.torch import reductions
from xlm.backends.torch.transfer import download
from xlm.errors import InputError
from xlm.tasks.fill import top
from xlm.tasks.retrieve import POOLINGS, pool


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_vectors_of_packed_rows(pooling: str, dtype: torch.dtype) -> None:
    lengths = [1, 300, 2, 2, 17]
    states = torch.randn(sum(lengths), 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    wanted = pool(states.float().numpy(), lengths, pooling)
    found = reductions.reduce_rows(states, torch.tensor(lengths), pooling)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6, rtol=1e-5 if pooling == "mean" else 0)
    assert np.array_equal(reductions.pool_rows(states, lengths, pooling).numpy(), wanted)


def test_a_vector_knows_nothing_of_its_neighbours() -> None:
    states = torch.randn(50, 8)
    together = reductions.reduce_rows(states, torch.tensor([20, 13, 17]), "mean")
    alone = reductions.reduce_rows(states[20:33], torch.tensor([13]), "mean")
    assert torch.equal(together[1], alone[0])


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(InputError, match="pooling is 'sum': it must be one of mean, cls, max"):
        reductions.reduce_rows(torch.zeros(2, 3), torch.tensor([2]), "sum")


@given(
    rows=st.lists(st.lists(st.sampled_from([-3.5, -1.0, 0.0, 0.5, 2.0, 7.25, -30.0, 30.0]), min_size=9, max_size=9)),
    count=st.integers(1, 12),
    limit=st.integers(1, 9),
)
def test_candidates_and_their_order_where_many_are_equal(rows: list[list[float]], count: int, limit: int) -> None:
    if not rows:
        return
    logits = torch.tensor(rows)
    wanted_ids, wanted = top(logits.numpy(), count, limit)
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        ids, probabilities = reductions.largest_tokens(logits.to(kind), count, limit)
        assert np.array_equal(ids.numpy(), wanted_ids)
        np.testing.assert_allclose(probabilities.numpy(), wanted, rtol=1e-12)
    for one, other in zip(reductions.top_tokens(logits, count, limit), (wanted_ids, wanted), strict=True):
        assert np.array_equal(one.numpy(), other)


def test_infinities_have_their_place_and_nan_is_seen() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 3.0, 3.0], [torch.nan, 1.0, 2.0, 0.0]])
    ids, probabilities = reductions.largest_tokens(logits, 4, 4)
    assert ids[0].tolist() == [2, 3, 0, 1] and probabilities[0, 3] == 0
    assert probabilities[1].isnan().all()


def test_arrays_of_the_host_are_float32_and_integers_stay() -> None:
    tensors = [torch.ones(2, dtype=torch.bfloat16), torch.tensor([3]), torch.ones(1, dtype=torch.float64)]
    assert [array.dtype for array in download(tensors)()] == [np.float32, np.int64, np.float64]
    assert download([])() == []
