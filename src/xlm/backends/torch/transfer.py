"""Between the host and a GPU without either waiting for the other: through pinned memory, in the order of the stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Arrays = list[NDArray[Any]]
_HALVES = (torch.float16, torch.bfloat16)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; one of the host goes to a GPU while the host goes on.

    PyTorch keeps the pinned copy until the GPU has read it.
    """
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def download(tensors: Sequence[Tensor]) -> Callable[[], Arrays]:
    """Begin to copy tensors to the host; the function returned waits for that and gives arrays, floats as float32.

    From a GPU they go in their own type, which is widened here: half the bytes of float32 cross the bus. They go beside what
    the GPU computes next.
    """
    if not tensors or tensors[0].device.type != "cuda":
        arrays = [_numpy(tensor) for tensor in tensors]
        return lambda: arrays
    device = tensors[0].device
    side = _stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    held = []
    with torch.cuda.stream(side):
        for tensor in tensors:
            held.append(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True))
            tensor.record_stream(side)  # its memory is not given to others before it is read
        done = side.record_event()

    def wait() -> Arrays:
        done.synchronize()
        # A copy where nothing is widened: what the caller keeps must not be pinned memory.
        return [_numpy(tensor if tensor.dtype in _HALVES else tensor.clone()) for tensor in held]

    return wait


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return (tensor.float() if tensor.dtype in _HALVES else tensor).cpu().numpy()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU that copies to the host run in."""
    return torch.cuda.Stream(device)


def host_tensor(values: Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
    """A tensor of integers on the host; many of them sooner than ``torch.tensor`` reads them."""
    return torch.from_numpy(np.array(values, np.int64)).to(dtype)
