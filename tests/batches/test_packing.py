"""Blocks cover a text without loss, packing keeps rows whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.batches.packing import complete_blocks, pack, sequence_ids, split_budget, stream_blocks
from xlm.errors import InputError

sentences = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(sentences, st.integers(1, 40), st.data())
def test_complete_blocks_cover_every_token_once_and_split_only_long_sentences(lengths, capacity, data) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    first = data.draw(st.integers(0, len(lengths) - 1))
    blocks = complete_blocks(offsets, capacity, first)
    assert sorted(t for a, b in blocks.tolist() for t in range(a, b)) == list(range(offsets[-1]))
    assert all(0 < b - a <= capacity for a, b in blocks.tolist())
    cuts = set(offsets.tolist())
    for a, b in blocks.tolist():
        within = int(np.searchsorted(offsets, a, side="right")) - 1
        whole = a in cuts and b in cuts
        assert whole or lengths[within] > capacity
    assert blocks[0, 0] == offsets[first]


@given(st.integers(1, 500), st.integers(1, 60), st.data())
def test_stream_blocks_are_equal_and_disjoint(tokens, capacity, data) -> None:
    shift = data.draw(st.integers(0, capacity - 1))
    blocks = stream_blocks(tokens, capacity, shift)
    assert len(blocks) >= 1
    if tokens > capacity:
        assert (blocks[:, 1] - blocks[:, 0] == capacity).all()
        assert blocks[-1, 1] <= tokens
        assert tokens - len(blocks) * capacity < 2 * capacity
    assert (blocks[1:, 0] >= blocks[:-1, 1]).all()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 80))
def test_split_budget_groups_all_rows_in_order_within_the_budget(lengths, budget) -> None:
    groups = split_budget(lengths, budget)
    assert [i for a, b in groups for i in range(a, b)] == list(range(len(lengths)))
    assert all(sum(lengths[a:b]) <= budget or b - a == 1 for a, b in groups)


def test_pack_lays_rows_end_to_end() -> None:
    ids, lengths = pack([np.array([1, 2], np.int64), np.array([3], np.int64)])
    assert ids.tolist() == [1, 2, 3] and lengths == [2, 1]
    assert sequence_ids(lengths).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: complete_blocks(np.array([0, 3]), 0), "capacity is 0"),
        (lambda: complete_blocks(np.array([0, 3]), 4, 1), "first is 1"),
        (lambda: stream_blocks(9, 3, 3), "shift is 3"),
        (lambda: split_budget([1], 0), "budget is 0"),
        (lambda: pack([]), "0 rows"),
        (lambda: pack([np.zeros(0, np.int64)]), "none empty"),
    ],
)
def test_bad_values_are_named(call, message) -> None:
    with pytest.raises(InputError, match=message):
        call()
