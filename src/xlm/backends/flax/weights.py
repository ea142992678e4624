"""Between the three forms of a model's weights.

- *stacked*, in memory: an ``nnx.State`` under XLM-R's names, each tensor of a layer once, with a leading axis of layers;
- *nested*, for users: the reference's dictionary, a ``kernel`` (in, out) for a ``weight`` (out, in), a dictionary a layer;
- *published*, in files: the names and layouts of the PyTorch models, so that one file serves every framework.

A model's :class:`Slots` say where each tensor stands in each of them.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xlm.backends.flax.embeddings import sinusoids
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.matching import match, opened
from xlm.checkpoints.published import PREFIX, to_theirs
from xlm.checkpoints.report import Report
from xlm.errors import CheckpointError, ConfigError, InputError
from xlm.families.loading import settle
from xlm.families.registry import Family
from xlm.families.spec import EncoderSpec

log = logging.getLogger("xlm")
Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Slot:
    """One published tensor: where it stands in each form."""

    path: Path_
    """In the stacked tree."""
    layer: int | None
    """Its place on the axis of layers."""
    ours: str
    """Its name in memory, as PyTorch would spell it, with the prefix of the trunk."""
    theirs: str
    """Its published name."""
    nested: Path_
    """In the nested tree."""
    shape: tuple[int, ...]
    """As published: a kernel's axes are reversed."""

    @property
    def transposed(self) -> bool:
        """Whether the published tensor is the transpose."""
        return self.path[-1] == "kernel"


class Slots:
    """The forms of one model's weights.

    Args:
        graph, shapes: the module, split, with shapes instead of arrays.
        base: whether the model is a trunk without a head: then nothing has a prefix.
    """

    def __init__(self, shapes: Mapping[str, Any], family: Family, spec: EncoderSpec, base: bool) -> None:
        self.shapes = {path: tuple(leaf.shape) for path, leaf in flatten(shapes)}
        self.family, self.spec, self.base = family, spec, base

    @cached_property
    def all(self) -> list[Slot]:
        """Every published tensor."""
        return [slot for path, shape in self.shapes.items() for slot in self._of(path, shape)]

    def _of(self, path: Path_, shape: tuple[int, ...]) -> Iterator[Slot]:
        leaf = path[-1]
        torch_leaf = "bias" if leaf == "bias" else "weight"
        layered = self._at_layer(path)
        for layer in range(shape[0]) if layered else (None,):
            parts = list(path[:-1])
            if layer is not None:
                parts.insert(parts.index("layer") + 1, str(layer))
            ours = ".".join([*parts, torch_leaf])
            theirs = to_theirs(self.family, ours, self.base)
            own = shape[1:] if layered else shape
            yield Slot(
                path,
                layer,
                PREFIX + ours if self.base else ours,
                theirs,
                (*theirs.split(".")[:-1], leaf),
                own[::-1] if leaf == "kernel" else own,
            )

    def _at_layer(self, path: Path_) -> bool:
        return "layer" in path

    # -- nested <-> stacked -------------------------------------------------------------------------------------------

    def stack(self, nested: Mapping[str, Any]) -> nnx.State[Any, Any]:
        """The nested dictionary as the stacked state; pure, so it may stand inside ``jit`` and ``grad``.

        Raises:
            InputError: names what is missing, unknown or of another shape.
        """
        found = dict(flatten(nested))
        wanted = {slot.nested for slot in self.all}
        if found.keys() != wanted:
            raise InputError(
                f"params: missing {_names(wanted - found.keys())}; unknown {_names(found.keys() - wanted)}"
            )
        parts: dict[Path_, list[Any]] = {}
        for slot in self.all:
            value, shape = found[slot.nested], slot.shape[::-1] if slot.transposed else slot.shape
            if tuple(value.shape) != shape:
                raise InputError(f"params: {'/'.join(slot.nested)} has the shape {tuple(value.shape)}, not {shape}")
            parts.setdefault(slot.path, []).append(value)
        stacked = {p: jnp.stack(v) if self._at_layer(p) else jnp.asarray(v[0]) for p, v in parts.items()}
        for path, shape in self.shapes.items():  # a model without layers has nothing to stack
            stacked.setdefault(path, jnp.zeros(shape))
        return nnx.State(unflatten(stacked))

    def unstack(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The stacked state as the nested dictionary."""
        found = dict(flatten(state))
        return unflatten({s.nested: found[s.path] if s.layer is None else found[s.path][s.layer] for s in self.all})

    # -- fresh values -------------------------------------------------------------------------------------------------

    def fresh(self, key: Any, only: Iterable[Path_] | None = None) -> dict[Path_, jax.Array]:
        """Values of a model that has learned nothing, as the papers' code draws them: normal tables and kernels, zero
        biases and padding. A tensor's values depend on the key and its name alone.
        """
        return {path: self._fresh(path, key) for path in (self.shapes if only is None else only)}

    def _fresh(self, path: Path_, key: Any) -> jax.Array:
        spec, shape, leaf = self.spec, self.shapes[path], path[-1]
        if leaf == "bias":
            return jnp.zeros(shape)
        if leaf == "scale":
            return jnp.ones(shape)
        name = ".".join(path).removeprefix(PREFIX)
        table = path[-2] if leaf == "embedding" else ""
        if table == "position_embeddings" and spec.sinusoidal:
            return jnp.asarray(sinusoids(*shape))
        std = spec.embedding_init_std if "embeddings" in table else spec.init_std
        drawn = std * jax.random.normal(jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF), shape)
        padded = table == "word_embeddings" or (table == "position_embeddings" and spec.positions_skip_padding)
        return drawn.at[spec.pad_id].set(0.0) if padded else drawn

    # -- files --------------------------------------------------------------------------------------------------------

    def published(self, state: Mapping[str, Any]) -> Iterator[tuple[Slot, Stored]]:
        """Every tensor as published, read when it is asked for."""
        found = {path: np.asarray(jax.device_get(leaf)) for path, leaf in flatten(state)}
        for slot in self.all:
            array = found[slot.path] if slot.layer is None else found[slot.path][slot.layer]
            yield slot, Stored.of(array.T if slot.transposed else array)

    def fill(
        self, source: Any, new: tuple[str, ...], dtype: Any, where: str
    ) -> tuple[dict[Path_, np.ndarray], set[Path_], Report]:
        """Read a checkpoint of published names into stacked arrays.

        Args:
            source: an open checkpoint, or name -> array.
            new: prefixes of head tensors that it may lack.
            dtype: of the arrays; ``None`` keeps the file's.

        Returns:
            the arrays, the paths of those that lack tensors (and hold zeros there), and the report.
        """
        shapes, read = opened(source)
        release = getattr(source, "release", lambda _name: None)
        wanted = {slot.ours: slot.shape for slot in self.all}
        pairs, report = match(shapes, wanted, self.family, self.spec, new, where)
        # A pooler or the head of a language model may be absent from files of models that never had one.
        fresh = [n for n in report.missing if n.startswith((PREFIX + "pooler.", "lm_head."))]
        report.missing = [n for n in report.missing if n not in fresh]
        report.initialised += fresh
        arrays: dict[Path_, np.ndarray] = {}
        lacking: set[Path_] = set()
        for slot in self.all:
            stored = pairs.get(slot.ours)
            if stored is None:
                lacking.add(slot.path)
                continue
            tensor = np.asarray(read(stored))
            tensor = tensor.T if slot.transposed else tensor
            if slot.path not in arrays:
                arrays[slot.path] = np.zeros(self.shapes[slot.path], dtype or tensor.dtype)
            (arrays[slot.path] if slot.layer is None else arrays[slot.path][slot.layer])[...] = tensor
            release(stored)
        return arrays, lacking, report


def flatten(tree: Any, at: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every leaf of nested mappings with its path."""
    for key, value in tree.items():
        if isinstance(value, Mapping | nnx.State):
            yield from flatten(value, (*at, str(key)))
        elif isinstance(value, nnx.Variable):
            yield (*at, str(key)), value.get_value()
        else:
            yield (*at, str(key)), value


def unflatten(leaves: Mapping[Path_, Any]) -> dict[str, Any]:
    """Nested dictionaries of leaves with paths."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def _names(paths: set[Path_]) -> str:
    shown = sorted("/".join(path) for path in paths)
    return ", ".join(shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "") if shown else "nothing"


def dtype_of(value: Any, argument: str = "dtype") -> Any:
    """A floating JAX type from itself or its name.

    Raises:
        ConfigError: not a floating data type.
    """
    try:
        found = jnp.dtype(str(value).removeprefix("torch.") if isinstance(value, str) else value)
    except TypeError as error:
        raise ConfigError(f"{argument}={value!r}: must be float32, bfloat16, float16 or float64") from error
    if not jnp.issubdtype(found, jnp.floating):
        raise ConfigError(f"{argument}={value!r}: must be float32, bfloat16, float16 or float64")
    return found


def load(cls: type[Any], name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any) -> Any:
    """Load a model; see ``FlaxPreTrainedModel.from_pretrained``."""
    from xlm.checkpoints.files import open_checkpoint
    from xlm.hub import resolve, take_hub_options

    hub = take_hub_options(kwargs)
    config = kwargs.pop("config", None)
    state = kwargs.pop("state_dict", None)
    kept = kwargs.pop("param_dtype", jnp.float32)
    kept = None if kept == "auto" else dtype_of(kept, "param_dtype")
    ignore_mismatched = kwargs.pop("ignore_mismatched_sizes", False)
    info = kwargs.pop("output_loading_info", False)
    strict_finite = kwargs.pop("strict_finite", False)
    want_init = kwargs.pop("_do_init", True)
    trust = {k: kwargs.pop(k) for k in ("use_safetensors", "allow_pickle") if k in kwargs}
    own = ("dtype", "input_shape", "seed", "gradient_checkpointing", "add_pooling_layer")
    options = {k: kwargs.pop(k) for k in own if k in kwargs}
    variant = kwargs.pop("variant", None)
    folder = None
    if name_or_path is not None and (state is None or config is None):
        folder = resolve(name_or_path, **hub, variant=variant)
    config, more = settle(cls, config, name_or_path, folder, kwargs, hub)
    options |= more
    model = cls(config, *args, **options, _do_init=False)
    if state is None and folder is None:
        raise InputError("name_or_path=None: give a folder or hub name, or a state_dict with the config")
    source = state if folder is None or state is not None else open_checkpoint(folder, **trust, variant=variant)
    slots: Slots = model.slots
    arrays, lacking, report = slots.fill(source, model.net_class.new_head, kept, str(name_or_path or "state_dict"))
    if report.mismatched and ignore_mismatched:
        report.initialised += [name for name, _, _ in report.mismatched]
    report.raise_for(ignore_mismatched=ignore_mismatched)
    if report.initialised:
        log.warning("%s", report)
    _check_finite(slots, arrays, report, strict_finite)
    # One tensor after the other leaves NumPy's memory, so that the model is never held twice.
    values: dict[Path_, Any] = {path: jnp.asarray(arrays.pop(path)) for path in list(arrays) if path not in lacking}
    drawn = slots.fresh(jax.random.key(model.seed), [path for path in slots.shapes if path not in values])
    for path, fresh in drawn.items():
        fresh = fresh if kept is None else fresh.astype(kept)
        if path in arrays:  # some layers were there
            fresh = jnp.asarray(np.where(_present(slots, path, report), arrays[path], fresh))
        values[path] = fresh
    params = nnx.State(unflatten(values))
    found = {
        "missing_keys": sorted({*report.missing, *report.initialised} - {n for n, _, _ in report.mismatched}),
        "unexpected_keys": sorted(report.unexpected),
        "mismatched_keys": report.mismatched,
        "error_msgs": [],
    }
    if not want_init:
        answer: Any = (model, slots.unstack(params))
    else:
        model.set_stacked(params)
        answer = model
    if not info:
        return answer
    return (*answer, found) if isinstance(answer, tuple) else (answer, found)


def _present(slots: Slots, path: Path_, report: Report) -> np.ndarray:
    """For each layer of a stacked tensor, whether the file had it; shaped to broadcast."""
    absent = {*report.initialised, *report.missing, *(name for name, _, _ in report.mismatched)}
    there = np.array([slot.ours not in absent for slot in slots.all if slot.path == path])
    return there.reshape(-1, *[1] * (len(slots.shapes[path]) - 1)) if slots.all else there


def _check_finite(slots: Slots, arrays: Mapping[Path_, np.ndarray], report: Report, strict: bool) -> None:
    for path, array in arrays.items():
        # A sum is quick and not finite where an element is not; it may overflow by itself, so elements decide.
        with np.errstate(over="ignore", invalid="ignore"):
            total = array.sum(dtype=np.float64 if array.dtype.kind == "f" else np.float32)
        if not np.isfinite(total) and not np.isfinite(array.astype(np.float32)).all():
            wide = np.isfinite(array.astype(np.float32))
            report.nonfinite += [
                slot.ours
                for slot in slots.all
                if slot.path == path and not (wide if slot.layer is None else wide[slot.layer]).all()
            ]
    if report.nonfinite:
        message = f"{report.source}: NaN or infinite values in {', '.join(report.nonfinite[:10])}"
        if strict:
            raise CheckpointError(message)
        log.warning("%s", message)


def save(
    model: Any, folder: Path, state: Any, max_shard_size: int | str, safe: bool, variant: str | None = None
) -> None:
    """Write config, weights and model card; see ``FlaxPreTrainedModel.save_pretrained``."""
    from xlm.atomic import make_folder, write_text
    from xlm.checkpoints.foreign.msgpack_out import FLAX_WEIGHTS, save_msgpack
    from xlm.checkpoints.writer import remove_safetensors, save_safetensors
    from xlm.hub import with_variant

    make_folder(folder)
    config, slots = model.config, model.slots
    config.architectures = [type(model).__name__.removeprefix("Flax")]
    leaves = [leaf for _, leaf in flatten(state)]
    config.torch_dtype = str(leaves[0].dtype)
    beside = {"config.json": config.to_json_string()}
    published = list(slots.published(state))
    if safe:
        named = ((s.theirs, stored) for s, stored in published)
        save_safetensors(folder, named, {"format": "pt"}, max_shard_size, variant, beside)
    else:
        kernels = {s.nested: stored.transposed() if s.transposed else stored for s, stored in published}
        save_msgpack(folder / with_variant(FLAX_WEIGHTS, variant), unflatten(kernels), beside)
        remove_safetensors(folder, variant)
    if not (folder / "README.md").exists():
        from xlm.checkpoints.card import model_card

        write_text(folder / "README.md", model_card(config, sum(int(leaf.size) for leaf in leaves)))
