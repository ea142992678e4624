"""What a PyTorch file is: a state dict, or a checkpoint of fairseq or of the original XLM, each under published names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from xlm.checkpoints.checkpoint import Checkpoint
from xlm.checkpoints.foreign import fairseq, original
from xlm.checkpoints.foreign.torchfile import load_torch, tensors_of
from xlm.errors import CheckpointError


def open_torch(path: Path) -> Checkpoint:
    """Open a ``.bin``, ``.pt`` or ``.pth`` file: a state dict, or a checkpoint of fairseq or of the original XLM.

    Raises:
        CheckpointError: there are no tensors in it, or it is damaged or unsafe.
    """
    value = load_torch(path)
    if isinstance(value, Mapping):
        if original.is_original(value):
            return original.checkpoint_of(path, value)
        if fairseq.is_fairseq(value):
            return fairseq.checkpoint_of(path, value)
        for inner in ("state_dict", "model", "module"):
            if not tensors_of(value) and tensors_of(value.get(inner)):
                value = value[inner]
    entries = tensors_of(value)
    if not entries:
        raise CheckpointError(f"{path}: holds no named tensors, but a {type(value).__name__}")
    return Checkpoint(path, [path], "pytorch", entries)
