"""Between files and Keras variables: names, initialisation, loading and saving."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xlm.backends.keras.embeddings import sinusoids
from xlm.backends.keras.ops import Table
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.dtypes import is_float
from xlm.checkpoints.matching import match, opened
from xlm.checkpoints.published import PREFIX, to_theirs
from xlm.checkpoints.report import Report
from xlm.errors import CheckpointError, ConfigError, InputError
from xlm.families.loading import settle

log = logging.getLogger("xlm")
_CHUNK = 8_000_000  # elements that are moved at a time
FILLING: ContextVar[bool] = ContextVar("filling", default=False)
"""Whether a model is being built to take the values of a file: then nothing is initialised."""


@dataclass(frozen=True)
class Weight:
    """One variable: the layer that owns it, and whether it is the transpose of the published tensor."""

    layer: Any
    variable: Any
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in files."""
        shape = tuple(self.variable.shape)
        return shape[::-1] if self.transposed else shape

    @property
    def kind(self) -> np.dtype:
        """The type in files."""
        return np.dtype(_numpy(self.variable.dtype))

    def read(self) -> np.ndarray:
        """The values as files hold them, bfloat16 included."""
        array = np.asarray(self.variable.value)
        return np.ascontiguousarray(array.T) if self.transposed else array

    def write(self, array: np.ndarray) -> None:
        """Take the values of a file."""
        array = array.T if self.transposed else array
        kind = self.kind
        put(self.variable, lambda rows: np.ascontiguousarray(array[rows]).astype(kind, copy=False))


class Kernel(Weight):
    """The kernel of a ``Dense`` layer, whatever Keras made of it: low-rank adapters are merged, int8 is widened."""

    @property
    def kind(self) -> np.dtype:
        """The type in files: float32 where the variable holds int8.

        Raises:
            InputError: the layer is quantized in another way.
        """
        mode = self.layer.quantization_mode
        if mode not in (None, "float8", "int8"):
            raise InputError(
                f"{self.layer.path}: is quantized to {mode}, which files here cannot hold; int8 is written as float32"
            )
        return np.dtype(np.float32) if mode == "int8" else super().kind

    def read(self) -> np.ndarray:
        """The weights (outputs, inputs) by which the layer multiplies."""
        layer, kind = self.layer, self.kind
        array = np.asarray(self.variable.value)
        if layer.quantization_mode == "int8":
            array = array.astype(np.float32) / np.asarray(layer.kernel_scale.value).astype(np.float32)
        if layer.lora_enabled:
            low = np.asarray(layer.lora_kernel_a.value) @ np.asarray(layer.lora_kernel_b.value)
            array = array + layer.lora_alpha / layer.lora_rank * low
        return np.ascontiguousarray(array.T).astype(kind, copy=False)

    def write(self, array: np.ndarray) -> None:
        """Take the values of a file."""
        if self.layer.quantization_mode is not None:
            raise InputError(f"{self.layer.path}: is quantized; give it weights before quantize()")
        super().write(array)


def put(variable: Any, produce: Callable[[slice], Any]) -> None:
    """Give a variable what ``produce`` makes of some of its rows at a time: a word table has no room for two."""
    count = variable.shape[0]
    step = max(1, _CHUNK // max(1, math.prod(variable.shape[1:])))
    if count <= step:
        variable.assign(produce(slice(0, count)))
        return
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        variable.value[rows].assign(tf.cast(produce(rows), variable.dtype))


def _numpy(name: str) -> Any:
    if name != "bfloat16":
        return name
    import ml_dtypes

    return ml_dtypes.bfloat16


def walk(layer: Any, prefix: str = "") -> Iterator[tuple[str, Weight]]:
    """Names in memory and weights of a layer and all below it, in the order of their making."""
    if isinstance(layer, list | tuple):
        for number, inner in enumerate(layer):
            yield from walk(inner, f"{prefix}{number}.")
    elif isinstance(layer, keras.layers.Dense):
        # With adapters ``kernel`` is computed, and of other shape in some quantizations.
        yield prefix + "weight", Kernel(layer, layer._kernel, True)
        if layer.bias is not None:
            yield prefix + "bias", Weight(layer, layer.bias)
    elif isinstance(layer, keras.layers.LayerNormalization):
        yield prefix + "weight", Weight(layer, layer.gamma)
        yield prefix + "bias", Weight(layer, layer.beta)
    elif isinstance(layer, keras.layers.Layer) and not isinstance(layer, keras.layers.Dropout):
        published = getattr(layer, "published", {})
        for name, inner in list(vars(layer).items()):
            if name.startswith("_"):
                continue
            name = prefix + published.get(name, name)
            if isinstance(inner, keras.Variable):
                yield name, Weight(layer, inner)
            else:
                yield from walk(inner, name + ".")


def initialise(model: Any, names: Iterable[str] | None = None) -> None:
    """Fresh values for all weights or those named; keras.utils.set_random_seed makes them repeatable."""
    spec, found = model.spec, model.named_weights()
    for name in found if names is None else names:
        weight = found[name]
        variable, scale = weight.variable, spec.init_std
        if isinstance(weight.layer, keras.layers.LayerNormalization):
            variable.assign(keras.ops.full(variable.shape, float(name.endswith("weight")), variable.dtype))
        elif len(variable.shape) == 1:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        elif spec.sinusoidal and name.endswith("position_embeddings.weight"):
            weight.write(sinusoids(*weight.shape))
        else:
            if isinstance(weight.layer, Table) and "embeddings." in name:
                scale = spec.embedding_init_std
            width = tuple(variable.shape[1:])
            put(variable, partial(_drawn, width, scale))
            pad = getattr(weight.layer, "pad", None)
            if pad is not None:  # in place: the word table is the largest thing there is
                row = tf.zeros((1, variable.shape[1]), variable.dtype)
                variable.value.scatter_update(tf.IndexedSlices(row, tf.constant([pad])))


def _drawn(width: tuple[int, ...], scale: float, rows: slice) -> Any:
    return keras.random.normal((rows.stop - rows.start, *width), stddev=scale, dtype="float32")


def assign(model: Any, source: Any, where: str = "") -> Report:
    """Give a model's weights the tensors of a mapping with published names, one at a time.

    Args:
        source: name -> array, or an open checkpoint (``shapes``, ``read``).
        where: the source's name in the report.
    """
    shapes, read = opened(source)
    wanted = {_full(model, name): weight for name, weight in model.named_weights().items()}
    needed = {name: weight.shape for name, weight in wanted.items()}
    pairs, report = match(shapes, needed, model.family, model.spec, model.new_head, where)
    for ours, stored in pairs.items():
        array = np.asarray(read(stored))
        # The extremes are not finite where an element is not, and need no second array.
        if is_float(array.dtype) and array.size and not np.isfinite([array.min(), array.max()]).all():
            report.nonfinite.append(ours)
        wanted[ours].write(array)
        if hasattr(source, "release"):
            source.release(stored)
    return report


def _full(model: Any, name: str) -> str:
    return name if model.trunk() is not model else PREFIX + name


def load(cls: type[Any], name_or_path: str | os.PathLike[str], *model_args: Any, **kwargs: Any) -> Any:
    """Load a model: config, then weights one tensor after the other from the mapped files, whatever wrote them.

    Args:
        name_or_path: a folder, else a hub name; safetensors, ``.bin``, ``tf_model.h5``, ``flax_model.msgpack``, ...
        config: a config to use instead of the folder's, of which a copy is taken, or the folder or hub name of one.
        dtype (or torch_dtype): a type or Keras policy (``"mixed_bfloat16"``, ``"bfloat16"``); ``None``: the global policy.
        ignore_mismatched_sizes: start tensors of another shape fresh instead of raising.
        output_loading_info: also return the report as a dictionary.
        strict_finite: refuse NaN and infinite weights, of which else a warning tells.
        from_pt, from_flax: accepted and not needed: what wrote a file is found out.
        variant: of the weights: ``"fp16"`` reads ``model.fp16.safetensors``.
        Hub options (``revision``, ``cache_dir``, ``token``, ``local_files_only``, ``subfolder``, ``force_download``),
        and any config field, which overrides the file's.

    Raises:
        ArgumentError: a keyword is none of these; names it.
        CheckpointError: no such checkpoint, damaged or unsafe files, tensors missing or of another shape.
        ConfigError: an option or config value is impossible.
    """
    from xlm.checkpoints.files import open_checkpoint
    from xlm.hub import resolve, take_hub_options

    hub = take_hub_options(kwargs)
    config = kwargs.pop("config", None)
    asked = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)
    ignore_mismatched = kwargs.pop("ignore_mismatched_sizes", False)
    info = kwargs.pop("output_loading_info", False)
    strict_finite = kwargs.pop("strict_finite", False)
    trust = {k: kwargs.pop(k) for k in ("use_safetensors", "allow_pickle") if k in kwargs}
    variant = kwargs.pop("variant", None)
    policy = {} if asked is None else {"dtype": _policy(asked)}
    folder = resolve(name_or_path, **hub, variant=variant)
    config, own = settle(cls, config, name_or_path, folder, kwargs, hub)
    token = FILLING.set(True)
    try:
        model = cls(config, *model_args, **own, **policy)
    finally:
        FILLING.reset(token)
    report = assign(model, open_checkpoint(folder, **trust, variant=variant), str(name_or_path))
    # A pooler may be absent from files of models that never had one: it starts fresh like a head.
    fresh = [n for n in report.missing if n.startswith((PREFIX + "pooler.", "lm_head."))]
    report.missing = [n for n in report.missing if n not in fresh]
    report.initialised += fresh
    if ignore_mismatched:
        report.initialised += [name for name, _, _ in report.mismatched]
    report.raise_for(ignore_mismatched=ignore_mismatched)
    wanted = model.named_weights()
    initialise(model, [n if n in wanted else n.removeprefix(PREFIX) for n in report.initialised])
    if report.nonfinite and strict_finite:
        raise CheckpointError(str(report))
    if report.initialised or report.nonfinite:
        log.warning("%s", report)
    if not info:
        return model
    return model, {
        "missing_keys": sorted({*report.missing, *report.initialised} - {n for n, _, _ in report.mismatched}),
        "unexpected_keys": sorted(report.unexpected),
        "mismatched_keys": report.mismatched,
        "error_msgs": [],
    }


def _policy(value: Any) -> Any:
    """A Keras policy from itself or a name; data types of other frameworks go by their names."""
    if isinstance(value, keras.DTypePolicy):
        return value
    name = getattr(value, "name", str(value)).removeprefix("torch.")
    if name.removeprefix("mixed_") not in ("float64", "float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype={value!r}: must be a floating type or a Keras policy")
    return keras.DTypePolicy(name)


def published_tensors(model: Any) -> Iterator[tuple[str, Stored]]:
    """Published names and tensors of a model's weights, each read when it is written; tied ones once."""
    base = model.trunk() is model
    for name, weight in model.named_weights().items():
        yield to_theirs(model.family, name, base), Stored(weight.shape, weight.kind, weight.read)


def save(model: Any, folder: Path, max_shard_size: int | str, safe: bool, variant: str | None = None) -> None:
    """Write config, weights and model card into a folder; see ``TFPreTrainedModel.save_pretrained``."""
    from xlm.atomic import make_folder, write_text
    from xlm.checkpoints.card import model_card
    from xlm.checkpoints.writer import remove_safetensors, save_safetensors
    from xlm.hub import with_variant

    make_folder(folder)
    config = model.config
    config.architectures = [type(model).__name__.removeprefix("TF")]
    config.torch_dtype = model.variable_dtype
    beside = {"config.json": config.to_json_string()}
    if safe:
        save_safetensors(folder, published_tensors(model), {"format": "pt"}, max_shard_size, variant, beside)
    else:
        from xlm.checkpoints.foreign.h5_out import save_h5

        save_h5(
            folder / with_variant("tf_model.h5", variant),
            model.family,
            published_tensors(model),
            model.trunk() is model,
            beside,
        )
        remove_safetensors(folder, variant)
    if not (folder / "README.md").exists():
        write_text(folder / "README.md", model_card(config, model.num_parameters(), []))
