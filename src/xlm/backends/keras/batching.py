"""Rows in columns -> batches that ``fit`` takes, as a ``tf.data.Dataset``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from xlm.backends.keras.losses import IGNORED
from xlm.errors import InputError

LABELS = ("labels", "start_positions", "end_positions")
_RENAMED = {"label": "labels", "label_ids": "labels"}
Row = dict[str, Any]


def dataset_of(
    model: Any,
    dataset: Any,
    batch_size: int = 8,
    shuffle: bool = True,
    tokenizer: Any = None,
    collate_fn: Callable[..., Mapping[str, Any]] | None = None,
    collate_fn_args: Mapping[str, Any] | None = None,
    drop_remainder: bool | None = None,
    prefetch: bool = True,
) -> tf.data.Dataset:
    """See :meth:`xlm.backends.keras.pretrained.TFPreTrainedModel.prepare_tf_dataset`."""
    if type(batch_size) is not int or batch_size < 1:
        raise InputError(f"batch_size={batch_size!r}: must be an integer of at least 1")
    names = [name for name in inspect.signature(model.call).parameters if name not in ("self", "training")]
    columns = list(getattr(dataset, "column_names", None) or dataset)
    kept = [name for name in columns if _RENAMED.get(name, name) in names]
    if not kept:
        raise InputError(f"dataset has the columns {', '.join(map(str, columns))}: the model takes {', '.join(names)}")
    count = _count(dataset, kept)
    whole = shuffle if drop_remainder is None else drop_remainder
    batches = count // batch_size if whole else math.ceil(count / batch_size)
    if not batches:
        raise InputError(f"dataset has {count} rows: not one batch of batch_size={batch_size}")
    collate = collate_fn or (default_collate if tokenizer is None else _padding(tokenizer))

    def batch(places: Sequence[int]) -> Any:
        made = collate(_rows(dataset, kept, places), **(collate_fn_args or {}))
        features = {_RENAMED.get(name, name): _array(name, value) for name, value in made.items()}
        labels = {name: features.pop(name) for name in LABELS if name in features}
        return (features, next(iter(labels.values())) if len(labels) == 1 else labels) if labels else features

    def run() -> Any:
        # NumPy's own source, so that keras.utils.set_random_seed makes the order repeatable; a new one each epoch.
        order = np.random.permutation(count) if shuffle else np.arange(count)
        for number in range(batches):
            yield batch(order[number * batch_size : (number + 1) * batch_size].tolist())

    def signature(array: np.ndarray) -> tf.TensorSpec:
        rows = batch_size if whole else None
        return tf.TensorSpec((rows, *[None] * (array.ndim - 1)), tf.as_dtype(array.dtype))

    specs = tf.nest.map_structure(signature, batch(range(min(batch_size, count))))
    made = tf.data.Dataset.from_generator(run, output_signature=specs)
    made = made.apply(tf.data.experimental.assert_cardinality(batches))
    return made.prefetch(tf.data.AUTOTUNE) if prefetch else made


def default_collate(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows of equal lengths as arrays."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _padding(tokenizer: Any) -> Callable[..., dict[str, Any]]:
    """Rows padded to the longest by a tokenizer; labels of tokens with what no loss counts."""

    def collate(rows: Sequence[Row]) -> dict[str, Any]:
        known = set(tokenizer.model_input_names)
        padded = tokenizer.pad([{k: v for k, v in row.items() if k in known} for row in rows], return_tensors="np")
        rest = {name: [row[name] for row in rows] for name in rows[0] if name not in known}
        longest = np.asarray(padded[tokenizer.model_input_names[0]]).shape[-1]
        for name in rest.keys() & {"labels", *_RENAMED}:
            if hasattr(rest[name][0], "__len__"):
                left = tokenizer.padding_side == "left"
                fill = [[IGNORED] * (longest - len(row)) for row in rest[name]]
                pairs = zip(fill, map(list, rest[name]), strict=True)
                rest[name] = [more + row if left else row + more for more, row in pairs]
        return {**padded, **rest}

    return collate


def _count(dataset: Any, kept: Sequence[str]) -> int:
    if not isinstance(dataset, Mapping):
        return len(dataset)
    counts = {name: len(dataset[name]) for name in kept}
    if len(set(counts.values())) > 1:
        raise InputError(f"dataset has columns of different lengths: {counts}")
    return next(iter(counts.values()))


def _rows(dataset: Any, kept: Sequence[str], places: Sequence[int]) -> list[Row]:
    if isinstance(dataset, Mapping):
        return [{name: dataset[name][place] for name in kept} for place in places]
    columns = dataset[list(places)]
    return [{name: columns[name][row] for name in kept} for row in range(len(places))]


def _array(name: str, value: Any) -> np.ndarray:
    """A column of a batch: integers in 64 bits, numbers in float32."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"{name}: rows of different lengths in a batch; give tokenizer= to pad them, or a collate_fn"
        ) from error
    if array.dtype.kind not in "iufb":
        raise InputError(f"{name}: of dtype {array.dtype}; numbers are needed")
    return array.astype({"i": np.int64, "u": np.int64, "f": np.float32}.get(array.dtype.kind, array.dtype))
