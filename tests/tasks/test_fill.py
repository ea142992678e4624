"""Filling masks: where they are, which answers come first, what the filled text looks like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from xlm.errors import CheckpointError, InputError
from xlm.tasks import fill


def test_masks_are_found_with_the_space_they_swallowed_cut_off() -> None:
    text = "a <mask> b"
    masked = fill.find_masks(text, [0, 5, 9, 6, 2], [(0, 0), (0, 1), (1, 8), (9, 10), (0, 0)], 9, "<mask>", "texts[0]")
    assert masked.positions == [2]
    assert masked.spans == [(2, 8)]
    assert text[slice(*masked.spans[0])] == "<mask>"


def test_a_text_without_a_mask_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"texts\[3\]: no <mask> in 'plain'"):
        fill.find_masks("plain", [0, 5, 2], [(0, 0), (0, 5), (0, 0)], 9, "<mask>", "texts[3]")


@pytest.mark.parametrize(
    ("text", "token", "filled"),
    [
        ("Paris is the <mask> of France.", "▁capital", "Paris is the capital of France."),
        ("<mask> is here", "▁Paris", "Paris is here"),
        ("go <mask>", "ing", "going"),
        ("我<mask>你", "爱", "我爱你"),
        ("我<mask>你", "▁爱", "我 爱你"),
        ("the <mask> of", "capital</w>", "the capital of"),
        ("a <mask> b", "▁", "a  b"),
    ],
)
def test_filled_text(text: str, token: str, filled: str) -> None:
    start = text.index("<mask>")
    assert fill.fill(text, (start, start + 6), token) == filled


def test_answers_name_token_id_probability_and_text() -> None:
    masked = fill.Masked("a <mask>", [0, 4, 9, 2], [2], [(2, 8)])
    logits = np.array([[0.0, 1.0, 3.0, 2.0, 9.0]], np.float32)
    (found,) = fill.answers(masked, logits, ["<s>", "▁x", "▁y", "z"], top_k=2)
    assert [(guess["token"], guess["id"], guess["text"]) for guess in found] == [("▁y", 2, "a y"), ("z", 3, "az")]
    # The fifth id has no token: it is no answer, but its share of the probability counts.
    weights = np.exp([0.0, 1.0, 3.0, 2.0, 9.0])
    assert found[0]["probability"] == pytest.approx(weights[2] / weights.sum())


def test_more_answers_than_tokens_means_all() -> None:
    masked = fill.Masked("<mask>", [9], [0], [(0, 6)])
    (found,) = fill.answers(masked, np.zeros((1, 3)), ["a", "b", "c"], top_k=10)
    assert [guess["id"] for guess in found] == [0, 1, 2]


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(2, 30)), elements=st.floats(-1e4, 1e4, width=32)
    ),
    st.integers(1, 30),
)
def test_top_is_sorted_and_a_part_of_a_distribution(logits: np.ndarray, count: int) -> None:
    ids, shares = fill.top(logits, count)
    assert ids.shape == shares.shape == (len(logits), min(count, logits.shape[1]))
    assert np.all(np.diff(shares, axis=1) <= 0)
    assert np.all(shares.sum(axis=1) <= 1 + 1e-9)
    assert np.all(np.take_along_axis(logits, ids, 1)[:, 0] == logits.max(axis=1))


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(CheckpointError, match="1 of 3 are NaN"):
        fill.top(np.array([[0.0, np.nan, 1.0]]), 2)
