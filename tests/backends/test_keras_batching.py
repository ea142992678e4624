"""``prepare_tf_dataset``: columns in, batches out that ``fit`` takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

import tiny
import xlm
from xlm import InputError
from xlm.backends.keras.models import MODELS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
NAMED = {head.name: head for head in tiny.HEADS}
ROWS = tiny.ids(tiny.MODELS[1], batch=10).tolist()
COLUMNS = {"input_ids": ROWS, "attention_mask": [[1] * 7] * 10, "label": [i % 3 for i in range(10)], "text": ["a"] * 10}


def make(name: str) -> Any:
    keras.utils.set_random_seed(0)
    return MODELS["TF" + name](tiny.config(NAMED[name]))


class Padder:
    """What is asked of a tokenizer."""

    model_input_names = ("input_ids", "attention_mask")
    padding_side = "right"

    def pad(self, rows: list[dict[str, Any]], return_tensors: str) -> dict[str, Any]:
        assert return_tensors == "np"
        longest = max(len(row["input_ids"]) for row in rows)
        return {
            "input_ids": [row["input_ids"] + [1] * (longest - len(row["input_ids"])) for row in rows],
            "attention_mask": [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows],
        }


def test_a_classifier_is_fitted() -> None:
    model = make("XLMRobertaForSequenceClassification")
    batches = model.prepare_tf_dataset(COLUMNS, batch_size=4)
    assert isinstance(batches, tf.data.Dataset) and int(batches.cardinality()) == 2  # shuffled: whole batches only
    features, labels = next(iter(batches))
    assert set(features) == {"input_ids", "attention_mask"} and labels.shape == (4,) and labels.dtype == tf.int64
    rows = [tuple(row) for batch, _ in batches for row in batch["input_ids"].numpy().tolist()]
    assert len(set(rows)) == 8 and set(rows) <= {tuple(row) for row in ROWS}
    ordered = model.prepare_tf_dataset(COLUMNS, batch_size=4, shuffle=False)
    assert [len(labels) for _, labels in ordered] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in ordered]), COLUMNS["label"])
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    assert np.isfinite(model.fit(batches, epochs=2, verbose=0).history["loss"]).all()


def test_the_order_is_repeatable_and_new_each_epoch() -> None:
    model = make("XLMRobertaForSequenceClassification")
    batches = model.prepare_tf_dataset(COLUMNS, batch_size=5)

    def order() -> list[int]:
        return [int(label) for _, labels in batches for label in labels]

    keras.utils.set_random_seed(1)
    first, second = order(), order()
    keras.utils.set_random_seed(1)
    assert order() == first != second


def test_data_sets_of_the_package_are_the_same() -> None:
    datasets = pytest.importorskip("datasets")
    model = make("XLMRobertaForSequenceClassification")
    one = model.prepare_tf_dataset(datasets.Dataset.from_dict(COLUMNS), shuffle=False)
    two = model.prepare_tf_dataset(COLUMNS, shuffle=False)
    for (features, labels), (others, more) in zip(one, two, strict=True):
        np.testing.assert_array_equal(features["input_ids"], others["input_ids"])
        np.testing.assert_array_equal(labels, more)


def test_rows_of_different_lengths() -> None:
    model = make("XLMRobertaForTokenClassification")
    columns = {"input_ids": [row[: 3 + i % 4] for i, row in enumerate(ROWS)]}
    columns["labels"] = [[0] * len(row) for row in columns["input_ids"]]
    features, labels = next(iter(model.prepare_tf_dataset(columns, shuffle=False, tokenizer=Padder())))
    assert features["input_ids"].shape == labels.shape == (8, 6)
    assert labels[0].numpy().tolist() == [0, 0, 0, -100, -100, -100]
    with pytest.raises(InputError, match=r"rows of different lengths in a batch; give tokenizer="):
        model.prepare_tf_dataset(columns)
    cut = model.prepare_tf_dataset(
        columns, shuffle=False, collate_fn=lambda rows, most: {"input_ids": [r["input_ids"][:most] for r in rows]},
        collate_fn_args={"most": 3},
    )  # fmt: skip
    assert next(iter(cut))["input_ids"].shape == (8, 3)


def test_answers_have_two_labels() -> None:
    model = make("XLMRobertaForQuestionAnswering")
    columns = {"input_ids": ROWS, "start_positions": [1] * 10, "end_positions": [2] * 10}
    batches = model.prepare_tf_dataset(columns, batch_size=5)
    _, labels = next(iter(batches))
    assert set(labels) == {"start_positions", "end_positions"}
    model.compile(optimizer="sgd")
    assert np.isfinite(model.fit(batches, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"text": ["a"]}, {}, "dataset has the columns text: the model takes input_ids"),
        ({"input_ids": ROWS, "labels": [1]}, {}, "columns of different lengths"),
        (COLUMNS, {"batch_size": 0}, "batch_size=0: must be an integer of at least 1"),
        (COLUMNS, {"batch_size": 11}, "dataset has 10 rows: not one batch of batch_size=11"),
    ],
)
def test_impossible_data(columns: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(xlm.InputError, match=message):
        make("XLMRobertaForSequenceClassification").prepare_tf_dataset(columns, **options)
