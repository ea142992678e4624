"""Where a run computes and how it is asked to stop: device, precision, the processes it consists of, signals."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xlm.errors import ConfigError

log = logging.getLogger("xlm")
BUCKET = 1 << 24  # elements of the gradients that are summed over processes at once


def choose_device(name: str) -> torch.device:
    """``auto`` and ``cuda`` are this process's GPU; ``auto`` is the CPU where there is none.

    Where that is a GPU, PyTorch's dense attention does without cuDNN from then on, in the whole process: cuDNN plans anew for
    every shape, keeps all plans, and steps have ever new shapes.

    Raises:
        ConfigError: no such device, fewer GPUs than processes, or one GPU named for all processes of a machine.
    """
    asked = name
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    elif name == "auto":
        name = "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device = {name!r}: it must be auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device = {name!r}: no CUDA device is at hand")
    if device.type == "cuda":
        _check_gpu(asked, device)
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def _check_gpu(asked: str, device: torch.device) -> None:
    count, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    seen = f"this process sees {count} GPU{'s' * (count != 1)}"
    if (device.index or 0) >= count:
        if asked in ("auto", "cuda"):
            raise ConfigError(
                f"device = {asked!r}: LOCAL_RANK = {device.index}, but {seen}: start one process a GPU, or, where each "
                "process sees a GPU of its own, say device = 'cuda:0'"
            )
        raise ConfigError(f"device = {asked!r}: {seen}: N of cuda:N must be below {count}")
    if asked not in ("auto", "cuda") and here > 1 and count > 1:
        raise ConfigError(
            f"device = {asked!r}: all {here} processes of this machine would take that one GPU of {count}: say "
            "device = 'cuda', and each takes its own"
        )


def use_bf16(precision: str, device: torch.device) -> bool:
    """``auto`` is bf16 on GPUs, and on CPUs that multiply in it; others emulate it at a fraction of fp32's speed.

    A recipe may ask for it on a GPU that emulates it; that is said.
    """
    if precision == "auto" and device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if precision != "auto":
        if (
            precision == "bf16"
            and device.type == "cuda"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            log.warning(
                "precision = bf16: this GPU only emulates it, which costs time and precision; fp32 computes as it is"
            )
        return precision == "bf16"
    cpu = getattr(torch, "cpu", None)
    return any(bool(getattr(cpu, name, bool)()) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))


@dataclass(frozen=True)
class Processes:
    """The processes of one run, as ``torchrun`` starts them; one process needs no group and pays nothing."""

    rank: int = 0
    world: int = 1
    patient: Any = None  # the process group for waits of any length

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier(group=self.patient)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Every value summed over the processes."""
        return self._reduce(values, dist.ReduceOp.SUM) if self.world > 1 else [float(value) for value in values]

    def most(self, values: Sequence[float]) -> list[float]:
        """The largest of every value over the processes."""
        return self._reduce(values, dist.ReduceOp.MAX) if self.world > 1 else [float(value) for value in values]

    def share(self, value: Any) -> Any:
        """The first process's ``value`` in all of them; plain Python values."""
        if self.world == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, group=self.patient)
        return held[0]

    def _reduce(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
        dist.all_reduce(tensor, operation)
        return tensor.tolist()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum ``.grad`` over the processes, in place, in buckets; a process without a gradient takes part with zeros."""
        if self.world == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                bucket.append(parameter.grad)
                if sum(gradient.numel() for gradient in bucket) >= BUCKET:
                    _sum_bucket(bucket)
                    bucket = []
        if bucket:
            _sum_bucket(bucket)


def _sum_bucket(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the group that ``torchrun`` describes in the environment; without one, this process alone.

    A process that waits longer than ten minutes for the others in a step gives up, so that a lost one does not hang the
    rest. While the first one alone reads the text, scores or saves, the others wait as long as that takes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    backend = "nccl" if choose_device(device).type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=10))
    if backend == "nccl":
        torch.cuda.set_device(choose_device(device))
    try:
        patient = dist.new_group(backend="gloo", timeout=timedelta(days=30))
        yield Processes(dist.get_rank(), world, patient)
    finally:
        dist.destroy_process_group()


class Signals:
    """SIGTERM, SIGINT and SIGUSR1 set ``asked`` to the signal's name; a second signal interrupts at once."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.asked: str | None = None

    def _ask(self, number: int, frame: object) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name

    def __enter__(self) -> Signals:
        try:
            self._before = {number: signal.signal(number, self._ask) for number in self.NUMBERS}
        except ValueError:  # not the main thread: signals stay as they are
            self._before = {}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
