"""Checkpoints with int8 matrices: beside ``NAME`` of int8 lies ``NAME_scale``, one float32 an output channel.

Whatever reads a checkpoint sees float32 matrices, ``int8 * scale``; quantizing them again gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xlm.checkpoints.checkpoint import Checkpoint, Stored
from xlm.errors import CheckpointError

SCALE = "_scale"
"""What the name of a matrix's scales ends in."""
METHOD = "xlm-int8"
"""``quantization_config.quant_method`` of the config, by which other libraries know that they cannot read the weights."""


def widened(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its int8 matrices as float32; itself where it has none.

    Raises:
        CheckpointError: scales that do not fit their matrix.
    """
    pairs = [
        name
        for name, stored in checkpoint.entries.items()
        if stored.dtype == np.int8 and name + SCALE in checkpoint.entries
    ]
    if not pairs:
        return checkpoint
    entries = dict(checkpoint.entries)
    for name in pairs:
        matrix, scale = entries[name], entries.pop(name + SCALE)
        if len(matrix.shape) != 2 or scale.shape != matrix.shape[:1]:
            raise CheckpointError(
                f"{checkpoint.path}: {name}{SCALE} of shape {scale.shape}: {name} of shape {matrix.shape} needs one a row"
            )
        entries[name] = Stored(matrix.shape, np.dtype(np.float32), _product(matrix, scale), matrix.release)
    return Checkpoint(
        checkpoint.path, checkpoint.files, checkpoint.format, entries, checkpoint.metadata, checkpoint.extras
    )


def _product(matrix: Stored, scale: Stored) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        return matrix.read() * scale.read().astype(np.float32)[:, None]

    return read
