"""Random numbers that depend only on what they are for, never on how many were drawn before.

Every random decision of a training run (which block, which masks, which dropout) draws from a generator keyed by the run's
seed and the decision's place, for example ``keyed(seed, "mask", step)``. A run that is resumed at step 700 therefore makes
exactly the decisions that the uninterrupted run would have made, without any generator state in the checkpoint.
"""

from __future__ import annotations

import hashlib

import numpy as np


def digest(*parts: int | str) -> int:
    """A 128-bit integer that is stable over machines, processes and Python versions for one tuple of ints and strings."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def keyed(*parts: int | str) -> np.random.Generator:
    """A generator (Philox, counter-based) of its own for this tuple of ints and strings."""
    return np.random.Generator(np.random.Philox(key=digest(*parts)))


def torch_seed(*parts: int | str) -> int:
    """A 63-bit seed for generators that take no 128-bit key."""
    return digest(*parts) & (2**63 - 1)
