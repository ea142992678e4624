"""Between files and modules: parameters are made without memory and take over the tensors that a file holds."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xlm.backends.torch.placement import Placement, need_memory
from xlm.checkpoints.published import PREFIX, new_attention, to_ours, to_theirs
from xlm.checkpoints.report import Report, fit, modern_name
from xlm.errors import CheckpointError, ConfigError, InputError
from xlm.families.loading import settle

if TYPE_CHECKING:
    from xlm.backends.torch.pretrained import PreTrainedModel

log = logging.getLogger("xlm")
# Tied names: never in a file, or there as copies of the tensor they are tied to.
COPIES = {"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"}

# Elements of a matrix that are cast at a time: 16 MB of float32 pages of its file are held.
_AT_ONCE = 1 << 22
_WORDS = "word_embeddings.weight"


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


class Part:
    """The tensors of an open checkpoint, or of a mapping, that belong to one side of a model: names without its prefix.

    Args:
        source: an open checkpoint, or a mapping of names to tensors.
        prefix: of the side's names.
        shared: names of the side -> names in ``source`` that hold the same tensor, read where the side's own is absent.
    """

    def __init__(self, source: Any, prefix: str, shared: Mapping[str, str]) -> None:
        shapes = source.shapes if hasattr(source, "shapes") else {k: tuple(v.shape) for k, v in source.items()}
        self.whole: dict[str, str] = {n.removeprefix(prefix): n for n in shapes if n.startswith(prefix)}
        for name, other in shared.items():
            if other in shapes:
                self.whole.setdefault(name, other)
        self.source = source
        self.shapes = {name: shapes[full] for name, full in self.whole.items()}
        if hasattr(source, "dtypes"):
            self.dtypes = {name: source.dtypes[full] for name, full in self.whole.items()}

    def read(self, name: str) -> Any:
        """A tensor."""
        return self.source[self.whole[name]]

    def release(self, name: str) -> None:
        """Give a mapped tensor's pages back, where there are any."""
        if hasattr(self.source, "release"):
            self.source.release(self.whole[name])

    def prefetch(self, name: str) -> None:
        """Read a mapped tensor's pages soon."""
        if hasattr(self.source, "prefetch"):
            self.source.prefetch(self.whole[name])


def assign_all(model: PreTrainedModel, source: Any, placements: Mapping[str, Placement], **options: Any) -> Report:
    """:meth:`assign` for every part of a model, with one report under the whole model's names."""
    parts = model.parts()
    if list(parts) == [""]:
        return assign(model, source, placement=placements.get(""), **options)
    names = list(source.shapes if hasattr(source, "shapes") else source)
    whole = Report(source=options.get("where", ""))
    whole.unexpected = [name for name in names if not name.startswith(tuple(parts)) and modern_name(name) is not None]
    for prefix, part in parts.items():
        shared = {
            _published(part, one.removeprefix(prefix)): _published_in(parts, two)
            for one, two in model.copies().items()
            if one.startswith(prefix) and not two.startswith(prefix)
        }
        report = assign(part, Part(source, prefix, shared), placement=placements.get(prefix), **options)
        whole.extend(report, prefix)
    return whole


def _published(part: PreTrainedModel, name: str) -> str:
    return to_theirs(part.family, name, not hasattr(part, part.base_model_prefix))


def _published_in(parts: Mapping[str, PreTrainedModel], name: str) -> str:
    prefix = next(p for p in parts if name.startswith(p))
    return prefix + _published(parts[prefix], name.removeprefix(prefix))


def assign(
    model: PreTrainedModel,
    source: Any,
    *,
    dtype: torch.dtype | None = None,
    device: Any = None,
    copy: bool = False,
    where: str = "",
    placement: Placement | None = None,
    check: Literal["none", "read", "all"] = "none",
) -> Report:
    """Give the parameters of a model of one family the tensors of a mapping with published names, one at a time.

    Args:
        source: name -> tensor or array, or an open checkpoint (``names``, ``shapes``, ``read``).
        dtype, device: what each tensor becomes while it is read; ``None`` leaves it as it is.
        copy: write into the parameters' memory instead of taking over the tensors.
        where: the source's name in the report.
        placement: what becomes of each weight once it is read.
        check: which tensors are looked through for NaN and infinities, whose names the report then has: ``read``: all but
            those that a placement leaves on the disk.
    """
    family = model.family
    shapes = source.shapes if hasattr(source, "shapes") else {k: tuple(v.shape) for k, v in source.items()}
    read = source.read if hasattr(source, "read") else source.__getitem__
    theirs: dict[str, str] = {}
    unknown: list[str] = []
    wanted = _wanted(model)
    full = {_full(model, name) for name in wanted}
    for name in shapes:
        if modern_name(name) is None:
            continue
        # A state dict that was saved as it stands in memory has our names already.
        ours = to_ours(family, name) or (name if name in COPIES or _full(model, name) in full else None)
        if ours is None:
            unknown.append(name)
        else:
            theirs[ours] = name
    found = {ours: tuple(shapes[name]) for ours, name in theirs.items()}
    for copied, original in COPIES.items():
        # A tied copy that a file holds wins over the original, as in the references: it was loaded last. Where the
        # model does not tie it, it is a tensor of its own.
        if copied in found and copied not in wanted and original in wanted:
            theirs[original] = theirs.pop(copied)
            found[original] = found.pop(copied)
    pairs, report = fit(
        found,
        {_full(model, k): v for k, v in wanted.items()},
        prefix=PREFIX,
        new=(*model.new_head, *new_attention(model.spec)),
        optional=("lm_head.", "classifier.", "qa_outputs.", "sequence_summary.", "logits_proj.", PREFIX + "pooler."),
        source=where,
    )
    report.unexpected = [theirs.get(k, k) for k in report.unexpected] + unknown
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for ours, key in pairs.items():
        name = ours if ours in parameters else ours.removeprefix(PREFIX)
        tensor = tensor_of(read(theirs[key]))
        old = parameters[name]
        if copy:
            with torch.no_grad():
                old.copy_(tensor)
            continue
        mapped = hasattr(source, "mapped") and source.mapped(theirs[key])
        become = dtype if placement is None else placement.dtype_of(name, tensor, dtype, mapped)
        release = partial(source.release, theirs[key]) if hasattr(source, "release") else _nothing
        left = mapped and placement is not None and (placement.offload or (name.endswith(_WORDS) and become is None))
        if (check == "all" or (check == "read" and not left)) and not _is_finite(tensor, release):
            report.nonfinite.append(theirs[key])
        tensor = _cast(tensor, become if tensor.is_floating_point() else None, device, release)
        _set(model, name, nn.Parameter(tensor, requires_grad=old.requires_grad))
        if placement is not None:
            placement.settle(name, release)
    if placement is not None:
        placement.finish(source, {ours: theirs[key] for ours, key in pairs.items()})
    return report


def _cast(tensor: Tensor, dtype: torch.dtype | None, device: Any, release: Callable[[], None]) -> Tensor:
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


def _is_finite(tensor: Tensor, release: Callable[[], None]) -> bool:
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


def _nothing() -> None:
    """Tensors in memory have no pages to drop."""


def _wanted(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters; of those that are one in memory, the first name."""
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def _full(model: PreTrainedModel, name: str) -> str:
    return name if hasattr(model, model.base_model_prefix) else PREFIX + name


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, parameter)


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


def published_tensors(model: PreTrainedModel, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Any]]:
    """Published names and arrays of a model's parameters; of tied ones, the first."""
    parts, seen = model.parts(), set(_wanted(model))
    for name, p in model.named_parameters() if state is None else state.items():
        if name in seen:
            yield _published_in(parts, name), array_of(p)


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
