"""Bounds on what computing keeps for sizes it has seen, so that a server's memory does not grow with the variety of its texts.

Packs hardly ever have the same number of rows twice. For every number that a product meets, oneDNN keeps a compiled kernel
with its description, and so does PyTorch's layer around it, a table a thread: 1,024 of each by default, of up to half a
megabyte. Their limits are environment variables that both libraries read once.
"""

from __future__ import annotations

import os

KEPT = 128
"""Kernels of each cache: several packs' worth, as one takes two for every length of its texts and five for its layers."""
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""oneDNN's own cache; PyTorch's."""


def bound_caches() -> None:
    """Set the limits, unless they have been set by whoever started the process; to be called before torch is imported."""
    for name in CACHES:
        os.environ.setdefault(name, str(KEPT))
