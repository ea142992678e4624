"""Pooling states into vectors, and the nearest of them."""

from __future__ import annotations

import numpy as np
import pytest

from xlm.errors import InputError
from xlm.tasks.retrieve import nearest, normalized, pool

STATES = np.arange(18, dtype=np.float32).reshape(6, 3)
LENGTHS = [1, 3, 2]


@pytest.mark.parametrize(
    ("pooling", "reduce"), [("mean", np.mean), ("max", np.max), ("cls", lambda part, axis: part[0])]
)
def test_pooling_reduces_every_sequence_alone(pooling: str, reduce) -> None:
    parts = np.split(STATES, np.cumsum(LENGTHS)[:-1])
    expected = np.stack([reduce(part, axis=0) for part in parts])
    found = pool(STATES, LENGTHS, pooling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(InputError, match="pooling is 'sum': it must be one of mean, cls, max"):
        pool(STATES, LENGTHS, "sum")


def test_normalized_keeps_zero_and_direction() -> None:
    vectors = normalized(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_nearest_takes_the_first_of_equals() -> None:
    assert nearest(np.array([[1, 2, 2], [3, 0, 1]])).tolist() == [1, 0]
