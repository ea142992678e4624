"""Tensors and arrays over the same memory, and tensors of another type: what lies in files as PyTorch computes with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlm.errors import ConfigError

# Elements of a matrix that are cast at a time: 16 MB of float32 pages of its file are held.
_AT_ONCE = 1 << 22


def dtype_of(value: Any) -> torch.dtype | None:
    """A torch dtype from itself or its name; ``None`` and ``"auto"`` are ``None``.

    Raises:
        ConfigError: not a floating data type.
    """
    if value is None or value == "auto":
        return None
    found = value if isinstance(value, torch.dtype) else getattr(torch, str(value).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype={value!r}: must be float32, bfloat16, float16 or float64")
    return found


def tensor_of(array: Any) -> Tensor:
    """A tensor over the memory of an array, bfloat16 included."""
    if isinstance(array, Tensor):
        return array
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    if array.dtype.name.startswith("float8"):
        return torch.from_numpy(array.view(np.uint8)).view(getattr(torch, array.dtype.name))
    return torch.from_numpy(array)


def array_of(tensor: Tensor) -> Any:
    """A NumPy array over the memory of a tensor, bfloat16 included."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def cast(tensor: Tensor, dtype: torch.dtype | None, device: Any, release: Callable[[], None]) -> Tensor:
    """A tensor in another type or place; ``release`` gives back the pages of a mapped file as they are read."""
    on_cpu = device is None or torch.device(device).type == "cpu"
    if dtype in (None, tensor.dtype) or not on_cpu or tensor.ndim != 2 or tensor.numel() <= _AT_ONCE:
        return tensor.to(dtype=dtype, device=device)
    out = torch.empty(tensor.shape, dtype=dtype)
    rows = max(1, _AT_ONCE // tensor.shape[1])
    for start in range(0, tensor.shape[0], rows):
        out[start : start + rows] = tensor[start : start + rows]
        release()
    return out


def is_finite(tensor: Tensor, release: Callable[[], None]) -> bool:
    """Whether a tensor has no NaN or infinity; ``release`` gives back the pages of a large one as they are read."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    rows = max(1, _AT_ONCE * tensor.shape[0] // tensor.numel()) if tensor.ndim else 1
    for part in tensor.detach().split(rows) if tensor.ndim else (tensor.detach(),):
        part = part.float() if part.dtype.itemsize == 1 else part
        # A sum is quick and not finite where an element is not; it may overflow by itself, so elements decide.
        if not bool(part.sum(dtype=torch.float32).isfinite()) and not bool(part.isfinite().all()):
            return False
        if tensor.numel() > _AT_ONCE:
            release()
    return True
