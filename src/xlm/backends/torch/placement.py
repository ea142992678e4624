"""How weights come to rest for inference: packed, quantized or left on disk, one tensor at a time while they are read."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from xlm.backends.torch import ops_cpu
from xlm.backends.torch.attention import SelfAttention
from xlm.backends.torch.calibration import Activations, Observer
from xlm.backends.torch.ops import Operations
from xlm.backends.torch.ops_int8 import Int8
from xlm.backends.torch.ops_invariant import Invariant
from xlm.backends.torch.ops_packed import Packed
from xlm.backends.torch.ops_widening import Widening, quantize_linear
from xlm.checkpoints.published import PREFIX, to_theirs
from xlm.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from xlm.backends.torch.pretrained import PreTrainedModel

QUANTIZATIONS = (None, "int8")
OFFLOADS = (None, "disk")
_WORDS = "embeddings.word_embeddings.weight"
_LOOKED_UP = 1024
"""Words that are looked up before the pages of their table are given back: each may have brought 64 KB with it."""


class Placement:
    """What to do with each weight of a model that is only going to compute.

    Args:
        model: its parameters may still be without memory.
        dtype: of the weights in memory.
        quantization: ``"int8"`` stores the encoder's matrices as int8 with a scale an output channel.
        activations: fixed scales and zeros of what matrices are multiplied with, by the matrices' published names; used
            where the processor multiplies bytes.
        offload: ``"disk"`` leaves the weights in their mapped files and drops each layer's pages after its use.

    Raises:
        ConfigError: an unknown option, or two that contradict each other.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype,
        quantization: str | None = None,
        offload: str | None = None,
        activations: Mapping[str, tuple[np.ndarray, int]] | None = None,
    ) -> None:
        if quantization not in QUANTIZATIONS:
            raise ConfigError(f"quantization={quantization!r}: must be None or 'int8'")
        if offload not in OFFLOADS:
            raise ConfigError(f"offload={offload!r}: must be None or 'disk'")
        if offload and quantization:
            raise ConfigError("offload='disk' and quantization='int8': int8 weights are made in memory; choose one")
        self.model, self.quantization, self.offload = model, quantization, offload
        ops, self.name = ops_cpu.choose(dtype, quantization is not None, bool(activations))
        if offload and isinstance(ops, Packed):  # packed weights would be copies in memory
            ops, self.name = None, "mapped from disk"
        self.ops: Operations | None = ops
        layers = model.encoder_host.encoder
        self._linears = {name: m for name, m in layers.named_modules() if isinstance(m, nn.Linear)}
        # Layers whose weights are packed as one matrix: queries, keys and values of self-attention, each other by itself.
        self._groups: dict[nn.Module, tuple[nn.Linear, ...]] = {m: (m,) for m in self._linears.values()}
        for name, module in layers.named_modules():
            if isinstance(module, SelfAttention) and "crossattention" not in name:
                three = (module.query, module.key, module.value)
                self._groups |= dict.fromkeys(three, three)
        self._waiting: dict[nn.Module, Callable[[], None]] = {}
        self._words_as: torch.dtype | None = None
        self._reads: dict[nn.Module | None, Activations] = {}
        # Whose bytes a layer gives, where an activation function is all that stands between the two.
        self._behind: dict[nn.Module, nn.Module] = {one.intermediate.dense: one.output.dense for one in layers.layer}
        if activations and isinstance(self.ops, Int8):
            self._fix(activations)

    def _fix(self, activations: Mapping[str, tuple[np.ndarray, int]]) -> None:
        """Take over the fixed scales of the encoder's layers."""
        for name, stored in stored_names(self.model).items():
            if stored in activations:
                scale, zero = activations[stored]
                self._reads[self._linears[name]] = Activations(torch.from_numpy(scale), zero)

    def dtype_of(
        self, name: str, tensor: Tensor, dtype: torch.dtype | None, mapped: bool = False
    ) -> torch.dtype | None:
        """What a parameter becomes while it is read: what will be quantized, or is a vector beside it, is not rounded.

        Nor is a word table in a mapped file of which only rows are looked up: it stays there, and its rows are rounded.
        """
        if mapped and name.endswith(_WORDS) and self.model.get_output_embeddings() is None:
            self._words_as = dtype or tensor.dtype
            return None
        exact = self.quantization and (tensor.ndim < 2 or self._module(name) is not None)
        return None if exact else dtype

    def _module(self, name: str, last: str = "weight") -> nn.Linear | None:
        """The encoder's linear layer whose weight has this name; or whose bias, if that is the ``last`` part."""
        path, _, found = name.rpartition(".")
        return self._linears.get(path.removeprefix("roberta.").removeprefix("encoder.")) if found == last else None

    def settle(self, name: str, release: Callable[[], None]) -> None:
        """Called when the parameter ``name`` has taken over its tensor; ``release`` drops the file's pages."""
        if name.endswith(_WORDS) and self._words_as is not None:
            self._look_up(release, self._words_as)
        if (owner := self._module(name, "bias")) is not None:
            self._pack_bytes(owner)
        module = self._module(name)
        if module is None:
            return
        if self.quantization:
            reads = self._reads.get(module)
            quantize_linear(module, None if reads is None else reads.scale)
            release()
            self._pack_bytes(module)
        if not isinstance(self.ops, Packed):
            return
        self._waiting[module] = release
        group = self._groups[module]
        if all(m in self._waiting for m in group):
            self.ops.pack(group)
            for m in group:
                self._waiting.pop(m)()

    def _pack_bytes(self, module: nn.Linear) -> None:
        """Pack a layer's int8 weights, once they and the biases of its group are read."""
        group = self._groups[module]
        read = all(p.device.type != "meta" for m in group for p in (m.weight, m.bias) if p is not None)
        if read and isinstance(self.ops, Int8):
            self.ops.pack(group, self._reads.get(group[0]), self._reads.get(self._behind.get(group[0])))

    def _look_up(self, release: Callable[[], None], dtype: torch.dtype) -> None:
        """Let the word table stay in its file: what is looked up becomes ``dtype``, pages are given back now and then."""
        count = 0

        def after(_: nn.Module, __: Any, rows: Tensor) -> Tensor:
            nonlocal count
            count += rows.numel() // rows.shape[-1]
            if count >= _LOOKED_UP:
                count = 0
                release()
            return rows.to(dtype)

        self.model.get_input_embeddings().register_forward_hook(after)

    def finish(self, source: Any, names: dict[str, str]) -> None:
        """Install the table of operations and, with offloading, the hooks that drop and fetch pages.

        Args:
            source: the open checkpoint.
            names: our parameter names -> names in the checkpoint.
        """
        self.model.computed_by = self.name
        if self.ops is not None:
            use(self.model, self.ops)
        if isinstance(self.ops, Widening | Int8):
            self._widen()
        self.model.requires_grad_(False)
        if self.offload and hasattr(source, "release"):
            self._hook_layers(source, names)

    def _widen(self) -> None:
        """States are float32: so become the vectors of the layers and the small layers of heads.

        The matrices of embeddings and encoder stay, and what is tied to the word table.
        """
        words: Any = self.model.get_input_embeddings()
        host = self.model.encoder_host
        inside = {id(p) for part in ("encoder", "embeddings") for p in getattr(host, part).parameters() if p.ndim > 1}
        for module in self.model.modules():
            for name, p in list(module.named_parameters(recurse=False)):
                if id(p) not in inside and p.is_floating_point() and p.device.type != "meta" and p is not words.weight:
                    setattr(module, name, nn.Parameter(p.detach().float(), requires_grad=False))

    def _hook_layers(self, source: Any, names: dict[str, str]) -> None:
        layers = list(self.model.encoder_host.encoder.layer)
        held = [[theirs for ours, theirs in names.items() if f".layer.{i}." in f".{ours}"] for i in range(len(layers))]

        def before(index: int) -> Callable[..., None]:
            def fetch(*_: Any) -> None:
                for name in held[(index + 1) % len(held)]:
                    source.prefetch(name)

            return fetch

        def after(index: int) -> Callable[..., None]:
            def drop(*_: Any) -> None:
                for name in held[index]:
                    source.release(name)

            return drop

        for i, layer in enumerate(layers):
            layer.register_forward_pre_hook(before(i))
            layer.register_forward_hook(after(i))


def stored_names(model: PreTrainedModel) -> dict[str, str]:
    """The encoder's linear layers, by their names in it -> the published names of their weights."""
    bare = not hasattr(model, model.base_model_prefix)
    prefix = "encoder." if bare else f"{PREFIX}encoder."
    linears = (n for n, m in model.encoder_host.encoder.named_modules() if isinstance(m, nn.Linear))
    return {name: to_theirs(model.family, f"{prefix}{name}.weight", bare) for name in linears}


def observe(model: PreTrainedModel) -> Observer:
    """Let a model note the ranges of what its linear layers read."""
    observer = Observer(model.encoder_host.encoder.ops)
    use(model, observer)
    return observer


def use_gpu(model: PreTrainedModel) -> str | None:
    """Let a model on a GPU compute packed batches without padding; why its attention needs equal lengths, if it does.

    In the whole process PyTorch's dense attention does without cuDNN from then on, whose plan of every new shape takes tens of
    milliseconds to make and is kept for ever: texts have ever new shapes.
    """
    from xlm.backends.torch.ops_cuda import Cuda, why_not_packed

    torch.backends.cuda.enable_cudnn_sdp(False)
    device = next(model.parameters()).device
    why = next((why for part in model.parts().values() if (why := why_not_packed(device, part.spec.head_size))), None)
    specs = [part.spec for part in model.parts().values()]
    unbounded = all(spec.norm_order == "pre" and spec.final_norm for spec in specs)
    ops = Cuda(packed=why is None, wide=unbounded and next(model.parameters()).dtype == torch.float16)
    for part in model.parts().values():
        ops.join(part.encoder_host.encoder)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # the gaps that the separate matrices left
    use(model, ops)
    packed = "packed attention in bfloat16 and float16, runs of equal length in float32"
    model.computed_by = f"CUDA: {packed if why is None else f'attention in runs of equal length ({why})'}"
    return why


def make_invariant(model: PreTrainedModel) -> None:
    """Let a model compute every sequence as if it were alone, to the last bit, whatever table it computes with."""
    use(model, Invariant(model.encoder_host.encoder.ops))


def use(model: PreTrainedModel, ops: Operations) -> None:
    """Let every layer of a model compute with another table of operations."""
    for module in model.modules():
        if isinstance(getattr(module, "ops", None), Operations):
            module.ops = ops  # type: ignore[assignment]


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, where the system says."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = next((line for line in text.splitlines() if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found.split()[1]) * 1024


def give_back() -> None:
    """Return what was freed while reading to the system, where the C library (glibc) would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def need_memory(source: Any, dtype: torch.dtype | None, quantization: str | None, where: str) -> None:
    """Refuse before anything is read what cannot fit: weights that are cast or quantized live in memory.

    Raises:
        CheckpointError: says the bytes needed and available, and what would fit.
    """
    if not hasattr(source, "dtypes"):
        return
    needed = 0
    for name, shape in source.shapes.items():
        count = 1
        for size in shape:
            count *= size
        stored = source.dtypes[name].name
        if quantization and len(shape) == 2 and "embeddings" not in name:
            needed += count
        elif dtype is not None and stored != str(dtype).removeprefix("torch."):
            needed += count * dtype.itemsize
    have = available_memory()
    if have is not None and needed > have:
        raise CheckpointError(
            f"{where}: {needed:,} bytes of memory are needed as {quantization or dtype}, {have:,} are available; "
            "dtype='auto' with offload='disk' needs one layer at a time, quantization='int8' a byte a weight"
        )
