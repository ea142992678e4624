"""Checkpoints with int8 matrices: beside ``NAME`` of int8 lies ``NAME_scale``, one float32 an output channel.

Where the scales of what a matrix is multiplied with are fixed, too, ``NAME_input_scale`` has one float32 an input channel,
which the matrix has taken over, and ``NAME_input_zero`` the byte that stands for 0.

Whatever reads a checkpoint sees float32 matrices, ``int8 * scale / input_scale``; quantizing them again gives the same
bytes. The fixed scales are in ``Checkpoint.extras["activations"]``: a matrix's name -> (scale, zero).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xlm.checkpoints.checkpoint import Checkpoint, Stored
from xlm.errors import CheckpointError

SCALE = "_scale"
"""What the name of a matrix's scales ends in."""
INPUT_SCALE, INPUT_ZERO = "_input_scale", "_input_zero"
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
    activations: dict[str, tuple[np.ndarray, int]] = {}
    for name in pairs:
        matrix, scale = entries[name], entries.pop(name + SCALE)
        if len(matrix.shape) != 2 or scale.shape != matrix.shape[:1]:
            raise CheckpointError(
                f"{checkpoint.path}: {name}{SCALE} of shape {scale.shape}: {name} of shape {matrix.shape} needs one a row"
            )
        inputs, zero = entries.pop(name + INPUT_SCALE, None), entries.pop(name + INPUT_ZERO, None)
        if inputs is not None or zero is not None:
            activations[name] = _activations(f"{checkpoint.path}: {name}", matrix, inputs, zero)
        fixed = activations[name][0] if name in activations else None
        entries[name] = Stored(matrix.shape, np.dtype(np.float32), _product(matrix, scale, fixed), matrix.release)
    extras = {**checkpoint.extras, "activations": activations} if activations else checkpoint.extras
    return Checkpoint(checkpoint.path, checkpoint.files, checkpoint.format, entries, checkpoint.metadata, extras)


def _activations(where: str, matrix: Stored, scale: Stored | None, zero: Stored | None) -> tuple[np.ndarray, int]:
    """The fixed scales and zero of what a matrix is multiplied with, checked."""
    if scale is None or zero is None:
        raise CheckpointError(f"{where}: one of {INPUT_SCALE} and {INPUT_ZERO} is missing")
    if scale.shape != matrix.shape[1:] or zero.shape not in ((), (1,)):
        raise CheckpointError(f"{where}{INPUT_SCALE} of shape {scale.shape}: {matrix.shape} needs one a column")
    values, byte = scale.read().astype(np.float32), int(zero.read().reshape(-1)[0])
    if not np.isfinite(values).all() or (values <= 0).any() or not 0 <= byte <= 255:
        raise CheckpointError(
            f"{where}: scales of activations must be positive and their zero from 0 to 255, not {byte}"
        )
    return values, byte


def _product(matrix: Stored, scale: Stored, inputs: np.ndarray | None) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        wide = matrix.read() * scale.read().astype(np.float32)[:, None]
        return wide if inputs is None else wide / inputs

    return read
