"""Tensors of a source with published names -> the parameters of a model, one at a time, with a report of what fits where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from xlm.backends.torch.arrays import array_of, cast, is_finite, tensor_of
from xlm.backends.torch.placement import Placement
from xlm.checkpoints.matching import match, opened
from xlm.checkpoints.published import PREFIX, to_theirs
from xlm.checkpoints.report import Report, modern_name

if TYPE_CHECKING:
    from xlm.backends.torch.pretrained import PreTrainedModel

_WORDS = "word_embeddings.weight"


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
    shapes, read = opened(source)
    wanted = {_full(model, name): shape for name, shape in _wanted(model).items()}
    pairs, report = match(shapes, wanted, model.family, model.spec, model.new_head, where)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for ours, stored in pairs.items():
        name = ours if ours in parameters else ours.removeprefix(PREFIX)
        tensor = tensor_of(read(stored))
        old = parameters[name]
        if copy:
            with torch.no_grad():
                old.copy_(tensor)
            continue
        mapped = hasattr(source, "mapped") and source.mapped(stored)
        become = dtype if placement is None else placement.dtype_of(name, tensor, dtype, mapped)
        release = partial(source.release, stored) if hasattr(source, "release") else _nothing
        left = mapped and placement is not None and (placement.offload or (name.endswith(_WORDS) and become is None))
        if (check == "all" or (check == "read" and not left)) and not is_finite(tensor, release):
            report.nonfinite.append(stored)
        tensor = cast(tensor, become if tensor.is_floating_point() else None, device, release)
        _set(model, name, nn.Parameter(tensor, requires_grad=old.requires_grad))
        if placement is not None:
            placement.settle(name, release)
    if placement is not None:
        placement.finish(source, pairs)
    return report


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


def published_tensors(model: PreTrainedModel, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Any]]:
    """Published names and arrays of a model's parameters; of tied ones, the first."""
    parts, seen = model.parts(), set(_wanted(model))
    for name, p in model.named_parameters() if state is None else state.items():
        if name in seen:
            yield _published_in(parts, name), array_of(p)
