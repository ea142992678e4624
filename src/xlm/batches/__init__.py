"""Ids -> batches: one frozen record for padded and packed sequences, and what follows from it."""

from __future__ import annotations

from xlm.batches.batch import Batch

__all__ = ["Batch"]
