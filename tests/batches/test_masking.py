"""Masking chooses the promised number of ordinary tokens, at the promised rates, and changes nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.batches.masking import (
    corrupt,
    eligible_tokens,
    frequency_weights,
    ordinary_ids,
    select_independent,
    select_per_sequence,
    select_weighted,
)
from xlm.errors import InputError

VOCAB, SPECIAL, MASK = 50, (0, 1, 2, 3, 49), 49
rows = st.lists(st.lists(st.integers(0, VOCAB - 2), min_size=1, max_size=40), min_size=1, max_size=8)


@given(rows, st.floats(0.01, 0.9), st.integers(0, 2**32))
def test_roberta_selection_takes_the_promised_number_of_ordinary_tokens(lists, rate, seed) -> None:
    ids = np.concatenate([np.array(row) for row in lists]).astype(np.int64)
    lengths = [len(row) for row in lists]
    eligible = eligible_tokens(ids, SPECIAL)
    chosen = select_per_sequence(eligible, lengths, rate, np.random.default_rng(seed))
    assert eligible[chosen].all()
    assert (np.diff(chosen) > 0).all()
    ends = np.cumsum(lengths)
    for start, end in zip(ends - lengths, ends, strict=True):
        n = int(eligible[start:end].sum())
        taken = int(((chosen >= start) & (chosen < end)).sum())
        assert taken in (math.floor(rate * n), math.floor(rate * n) + 1)
        assert taken <= n


def test_roberta_selection_is_uniform_over_tokens() -> None:
    rng, hits = np.random.default_rng(0), np.zeros(20)
    for _ in range(4000):
        hits[select_per_sequence(np.ones(20, bool), [20], 0.15, rng)] += 1
    assert np.abs(hits / 4000 - 0.15).max() < 0.03


@given(rows, st.integers(0, 2**32))
def test_xlm_selection_takes_exactly_the_ceiling(lists, seed) -> None:
    ids = np.concatenate([np.array(row) for row in lists]).astype(np.int64)
    eligible = eligible_tokens(ids, SPECIAL)
    chosen = select_weighted(ids, eligible, np.ones(VOCAB), 0.15, np.random.default_rng(seed))
    assert len(chosen) == min(math.ceil(0.15 * len(ids)), eligible.sum())
    assert eligible[chosen].all()


def test_independent_selection_takes_each_token_by_itself() -> None:
    eligible = np.arange(40_000) % 4 != 0
    chosen = select_independent(eligible, 0.15, np.random.default_rng(0))
    assert eligible[chosen].all() and (np.diff(chosen) > 0).all()
    assert abs(len(chosen) / eligible.sum() - 0.15) < 0.01


def test_xlm_selection_prefers_rare_tokens_in_proportion() -> None:
    counts = np.zeros(VOCAB, np.int64)
    counts[10], counts[11] = 10_000, 100
    weights = frequency_weights(counts, 0.5)
    assert weights[12] == 0
    ids = np.array([10, 11] * 50, np.int64)
    rng, first = np.random.default_rng(0), 0
    for _ in range(3000):
        first += int(ids[select_weighted(ids[:2], np.ones(2, bool), weights, 0.4, rng)[0]] == 11)
    assert abs(first / 3000 - 10 / 11) < 0.03


@given(rows, st.integers(0, 2**32))
def test_corruption_touches_the_chosen_tokens_only(lists, seed) -> None:
    ids = np.concatenate([np.array(row) for row in lists]).astype(np.int64)
    rng = np.random.default_rng(seed)
    chosen = select_per_sequence(eligible_tokens(ids, SPECIAL), [len(row) for row in lists], 0.5, rng)
    before = ids.copy()
    masked = corrupt(ids, chosen, MASK, ordinary_ids(VOCAB, SPECIAL), rng)
    assert (ids == before).all()
    untouched = np.setdiff1d(np.arange(len(ids)), chosen)
    assert (masked.ids[untouched] == ids[untouched]).all()
    assert (masked.targets == ids[chosen]).all()
    replaced = masked.ids[chosen]
    assert not np.isin(replaced[replaced != MASK], SPECIAL).any()


def test_corruption_has_the_promised_shares() -> None:
    ids = np.full(40_000, 10, np.int64)
    replacements = ordinary_ids(VOCAB, SPECIAL)
    masked = corrupt(ids, np.arange(len(ids)), MASK, replacements, np.random.default_rng(0))
    shares = [(masked.ids == MASK).mean(), (masked.ids == 10).mean()]
    assert shares[0] == pytest.approx(0.8, abs=0.01)
    assert shares[1] == pytest.approx(0.1 + 0.1 / len(replacements), abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: select_per_sequence(np.ones(3, bool), [3], 1.0, r), "rate is 1.0"),
        (lambda r: select_per_sequence(np.ones(3, bool), [2], 0.1, r), "lengths sum to 2"),
        (lambda r: corrupt(np.zeros(2, np.int64), np.array([0]), 9, np.array([1]), r, (0.5, 0.1, 0.1)), "sum to 1"),
    ],
)
def test_bad_values_are_named(call, message) -> None:
    with pytest.raises(InputError, match=message):
        call(np.random.default_rng(0))
