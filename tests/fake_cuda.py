"""A GPU that is not there: tensors that claim to lie on ``cuda:0``, have shapes and types, and no values.

PyTorch's fake tensors refuse an operation on tensors of two devices, and every look at a value: so under
:func:`fake_cuda` a tensor that was left on the CPU, and a wait for the GPU, fail where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda:0")
aten = torch.ops.aten


class _Indexing(TorchFunctionMode):
    """``x[...]`` and the like by operations: their bindings would look for a CUDA driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            return _item(*args)
        if func is Tensor.copy_:
            return aten.copy_(*args, **(kwargs or {}))
        if func is Tensor.contiguous:
            return args[0] if args[0].is_contiguous() else aten.clone(*args, memory_format=torch.contiguous_format)
        return func(*args, **(kwargs or {}))


def _item(x: Tensor, index: Any) -> Tensor:
    parts = index if isinstance(index, tuple) else (index,)
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        at = next(n for n, part in enumerate(parts) if part is Ellipsis)
        missing = x.ndim - sum(part is not None and part is not Ellipsis for part in parts)
        parts = (*parts[:at], *[slice(None)] * missing, *parts[at + 1 :])
    axis, chosen = 0, []
    for part in parts:
        if isinstance(part, int):
            x = x.select(axis, part)
            continue
        if part is None:
            x = x.unsqueeze(axis)
        elif isinstance(part, slice):
            if part != slice(None):
                x = aten.slice(x, axis, part.start, part.stop, part.step or 1)
        else:
            assert isinstance(part, Tensor), part
            assert part.dtype != torch.bool, "a mask as an index waits for the GPU to count it"
            assert part.device == x.device, f"an index on {part.device} of a tensor on {x.device}: it is copied"
            chosen += [None] * (axis - len(chosen)) + [part]
        axis += 1
    return aten.index(x, chosen) if chosen else x


class _Copies(TorchDispatchMode):
    """Notes every copy from the GPU to the CPU, and every one to the GPU for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.down: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "aten":  # kernels like packed attention, whose fakes look at no device
            devices = {value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
            if len(devices) > 1:
                raise RuntimeError(f"{func}: tensors on more than one device: {', '.join(sorted(devices))}")
        found = func(*args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        if "non_blocking" in names:  # copies of every kind
            given = dict(zip(names, args, strict=False)) | kwargs
            source = given["src"] if "src" in given else args[0]
            if source.device.type == "cuda" and found.device.type == "cpu":
                self.down.append(f"{tuple(source.shape)} {source.dtype}")
            elif source.device.type == "cpu" and found.device.type == "cuda" and not given.get("non_blocking"):
                self.waits.append(f"{tuple(source.shape)} {source.dtype}")
        return found


@contextmanager
def fake_cuda(patch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> Iterator[_Copies]:
    """A GPU of a compute capability; yields the copies that were made between it and the host."""
    patch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    patch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    patch.setattr(Tensor, "pin_memory", lambda self: torch.empty(self.shape, dtype=self.dtype))
    copies = _Copies()
    with FakeTensorMode(allow_non_fake_inputs=True), copies, _Indexing():
        yield copies


def moved(model: nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    """A model on the fake GPU; call it, and make the model, inside :func:`fake_cuda`."""
    there: dict[int, Any] = {}  # a shared tensor stays shared
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None:
                continue
            if id(tensor) not in there:
                new = tensor.detach().to(device=CUDA, dtype=dtype if tensor.is_floating_point() else None)
                own = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
                there[id(tensor)] = tensor, own  # the old one is kept, so that its number is not given anew
            setattr(module, name, there[id(tensor)][1])
    return model


def zeros_instead(tensors: Any) -> Any:
    """What `xlm.backends.torch.transfer.download` gives, of a fake GPU that has no values to copy."""
    kinds = {torch.int64: np.int64, torch.float64: np.float64}
    arrays = [np.zeros(tuple(tensor.shape), kinds.get(tensor.dtype, np.float32)) for tensor in tensors]
    return lambda: arrays
