"""Models from folders and into folders: parameters are made without memory and take over the tensors that a file holds."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xlm.backends.torch.arrays import dtype_of
from xlm.backends.torch.assign import assign_all, published_tensors
from xlm.backends.torch.placement import Placement, need_memory
from xlm.checkpoints.published import PREFIX
from xlm.checkpoints.report import Report
from xlm.errors import CheckpointError, ConfigError, InputError
from xlm.families.loading import settle

if TYPE_CHECKING:
    from xlm.backends.torch.pretrained import PreTrainedModel

log = logging.getLogger("xlm")


class _Unfilled(TorchFunctionMode):
    """Parameters without memory are not filled: to draw for them, PyTorch would import its compiler, more than a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def load(cls: type[Any], name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any) -> Any:
    """Load a model: config, then parameters without memory, then one tensor after the other from the mapped files.

    Args:
        name_or_path: a folder, else a hub name; ``None`` with ``config`` and ``state_dict``.
        config: a config to use instead of the folder's, of which a copy is taken, or the folder or hub name of one.
        state_dict: published names -> tensors, used instead of files.
        dtype (or torch_dtype): ``None`` and float32 unless given; ``"auto"`` keeps the files' type.
        device_map, device: where the parameters go (``"cpu"``, ``"cuda"``, ``{"": "cuda:0"}``, ``"auto"``).
        ignore_mismatched_sizes: start tensors of another shape fresh instead of raising.
        output_loading_info: also return the report as a dictionary.
        for_inference: choose the fastest operations of this processor; such a model computes, but is not trained or saved.
        quantization: ``"int8"``: the encoder's matrices in one byte a weight, quantized while they are read.
        offload: ``"disk"``: weights stay in their files, each layer is read when it computes.
        strict_finite: refuse NaN and infinite weights, of which else a warning tells.
        variant: of the weights: ``"fp16"`` reads ``model.fp16.safetensors``.
        Hub options (``revision``, ``cache_dir``, ``token``, ``local_files_only``, ``subfolder``, ``force_download``),
        and any config field, which overrides the file's. Beside a config object there are arguments of the class instead.

    Raises:
        ArgumentError: a keyword is none of these; names it.
        CheckpointError: no such checkpoint, damaged or unsafe files, tensors missing or of another shape.
        ConfigError: an option or config value is impossible.
    """
    from xlm.checkpoints.files import open_checkpoint
    from xlm.hub import resolve, take_hub_options

    hub = take_hub_options(kwargs)
    config = kwargs.pop("config", None)
    state = kwargs.pop("state_dict", None)
    asked = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)
    ignore_mismatched = kwargs.pop("ignore_mismatched_sizes", False)
    info = kwargs.pop("output_loading_info", False)
    strict_finite = kwargs.pop("strict_finite", False)
    device = _device(kwargs.pop("device_map", None), kwargs.pop("device", None))
    rest = {k: kwargs.pop(k, None) for k in ("quantization", "offload")}
    fast = bool(kwargs.pop("for_inference", False)) or any(rest.values())
    trust = {k: kwargs.pop(k) for k in ("use_safetensors", "allow_pickle") if k in kwargs}
    variant = kwargs.pop("variant", None)
    folder = None
    if name_or_path is not None and (state is None or config is None):
        folder = resolve(name_or_path, **hub, variant=variant)
    config, kwargs = settle(cls, config, name_or_path, folder, kwargs, hub)
    with torch.device("meta"), _Unfilled():
        model = cls(config, *model_args, **kwargs)
    source: Any = state
    if source is None:
        if folder is None:
            raise InputError("name_or_path=None: give a folder or hub name, or a state_dict with the config")
        source = open_checkpoint(folder, **trust, variant=variant)
    dtype = dtype_of(asked) if asked is not None else torch.float32
    if asked == "auto":
        dtype = dtype_of(config.torch_dtype)
    where = "state_dict" if name_or_path is None else str(name_or_path)
    need_memory(source, dtype, rest["quantization"], where)
    on_cpu = device is None or torch.device(device).type == "cpu"
    if any(rest.values()) and not on_cpu:
        raise ConfigError(f"device={device!r}: quantization and offload are for the CPU")
    placements: dict[str, Placement] = {}
    if fast and on_cpu:
        stored = dtype or _stored_dtype(source)
        fixed = getattr(source, "extras", {}).get("activations")
        placements = {
            prefix: Placement(part, stored, **rest, activations=fixed) for prefix, part in model.parts().items()
        }
    # With a placement, reading what stays on the disk would undo its purpose.
    check = "read" if placements and not strict_finite else "all"
    report = assign_all(model, source, placements, dtype=dtype, device=device, where=where, check=check)
    if report.mismatched and ignore_mismatched:
        report.initialised += [name for name, _, _ in report.mismatched]
    _refuse_misfits(report, model, ignore_mismatched)
    if placements:
        model.computed_by = next(iter(model.parts().values())).computed_by
    model.tie_weights()  # what is tied to a tensor that was read is not made anew
    _materialise(model, dtype, device)
    model.tie_weights()
    if report.initialised:
        log.warning("%s", report)
    if report.nonfinite:
        message = f"{where}: NaN or infinite values in {', '.join(report.nonfinite[:10])}"
        if strict_finite:
            raise CheckpointError(message)
        log.warning("%s: what is computed with them is wrong", message)
    config.torch_dtype = str(model.dtype).removeprefix("torch.")
    model.eval()
    if not info:
        return model
    return model, {
        "missing_keys": sorted({*report.missing, *report.initialised} - {n for n, _, _ in report.mismatched}),
        "unexpected_keys": sorted(report.unexpected),
        "mismatched_keys": report.mismatched,
        "error_msgs": [],
    }


def _refuse_misfits(report: Report, model: PreTrainedModel, ignore_mismatched: bool) -> None:
    # A pooler may be absent from files of models that never had one: it starts fresh like a head.
    fresh = [n for n in report.missing if n.removeprefix("decoder.").startswith((PREFIX + "pooler.", "lm_head."))]
    report.missing = [n for n in report.missing if n not in fresh]
    report.initialised += fresh
    report.raise_for(ignore_mismatched=ignore_mismatched)


def _materialise(model: PreTrainedModel, dtype: torch.dtype | None, device: Any) -> None:
    """Initialise the parameters that no file filled, as a fresh model would be."""
    tied = {id(p) for p in model.parameters() if p.device.type != "meta"}
    for name, module in model.named_modules():
        own = [(k, p) for k, p in module.named_parameters(recurse=False) if p.device.type == "meta"]
        if not own:
            continue
        kept = {k: p for k, p in module.named_parameters(recurse=False) if id(p) in tied}
        for key, p in own:
            new = torch.zeros(p.shape, dtype=dtype or torch.float32, device=device or "cpu")
            setattr(module, key, nn.Parameter(new, requires_grad=p.requires_grad))
        saved = {k: p.detach().clone() for k, p in kept.items()}
        model._init_module(name, module)
        with torch.no_grad():
            for k, value in saved.items():
                getattr(module, k).copy_(value)


def _stored_dtype(source: Any) -> torch.dtype:
    """The type that most numbers of an open checkpoint or a state dict have."""
    if not hasattr(source, "dtypes"):
        counted = Counter[torch.dtype]()
        for tensor in source.values():
            counted[tensor.dtype] += tensor.numel()
        return counted.most_common(1)[0][0]
    numbers = Counter[str]()
    for name, dtype in source.dtypes.items():
        numbers[dtype.name] += math.prod(source.shapes[name])
    return dtype_of(numbers.most_common(1)[0][0]) or torch.float32


def _device(device_map: Any, device: Any) -> Any:
    if device_map is None:
        return device
    if isinstance(device_map, Mapping):
        places = set(device_map.values())
        if len(places) != 1:
            raise ConfigError(f"device_map={dict(device_map)}: a model is placed on one device, e.g. {{'': 'cuda:0'}}")
        return places.pop()
    if device_map in ("auto", "balanced", "sequential"):
        return "cuda" if torch.cuda.is_available() else None
    return device_map


def save(
    model: PreTrainedModel,
    folder: Path,
    state: dict[str, Tensor] | None,
    max_shard_size: int | str,
    safe: bool,
    variant: str | None = None,
) -> None:
    """Write config, weights and model card into a folder; see ``PreTrainedModel.save_pretrained``."""
    from xlm.atomic import make_folder, write_text
    from xlm.checkpoints.files import save_safetensors

    if not safe:
        raise InputError(
            "safe_serialization=False: weights are written as safetensors only; `torch.save` writes pickles"
        )
    if any(p.numel() == 0 and p.ndim == 1 for n, p in model.named_parameters() if n.endswith(".weight")):
        raise InputError(
            "the model was loaded for inference: its weights lie in the processor's own layout; load it without "
            "for_inference and quantization to save it"
        )
    make_folder(folder)
    config = model.config
    config.architectures = [type(model).__name__]
    config.torch_dtype = str(model.dtype).removeprefix("torch.")
    text = config.to_json_string()
    save_safetensors(
        folder, published_tensors(model, state), {"format": "pt"}, max_shard_size, variant, {"config.json": text}
    )
    if not (folder / "README.md").exists():
        from xlm.checkpoints.card import model_card

        write_text(folder / "README.md", model_card(config, model.num_parameters(), getattr(model, "model_tags", [])))
