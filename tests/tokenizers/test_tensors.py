"""Rows as tensors of every framework, each tested where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xlm.errors import InputError, MissingExtraError
from xlm.tokenizers import XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLMTokenizer

PACKAGES = {"pt": "torch", "np": "numpy", "jax": "jax", "tf": "tensorflow"}
BATCH = ["a b c", "Привет, мир! 你好"]


def array_class(kind: str) -> type:
    name = {"pt": "Tensor", "np": "ndarray", "jax": "Array", "tf": "Tensor"}[kind]
    return getattr(pytest.importorskip(PACKAGES[kind]), name)


@pytest.mark.parametrize("name", ["slow", "fast", "xlm"])
@pytest.mark.parametrize("kind", sorted(PACKAGES))
def test_every_row_becomes_a_tensor(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    expected = array_class(kind)
    tokenizer: XLMRobertaTokenizer | XLMRobertaTokenizerFast | XLMTokenizer = request.getfixturevalue(name)
    lists = tokenizer(BATCH, padding=True, return_special_tokens_mask=True, return_token_type_ids=True)
    found = tokenizer(
        BATCH, padding=True, return_special_tokens_mask=True, return_token_type_ids=True, return_tensors=kind
    )
    assert list(found) == list(lists)
    for key, value in found.items():
        assert isinstance(value, expected), key
        assert np.asarray(value).tolist() == lists[key]
        assert np.issubdtype(np.asarray(value).dtype, np.integer)
    single = tokenizer(BATCH[0], return_tensors=kind)["input_ids"]
    assert np.asarray(single).shape == (1, len(tokenizer(BATCH[0])["input_ids"]))
    padded = tokenizer.pad({"input_ids": [[5, 6], [7]]}, return_tensors=kind)
    assert np.asarray(padded["attention_mask"]).tolist() == [[1, 1], [1, 0]]
    again = tokenizer.pad({key: value for key, value in padded.items() if key == "input_ids"})
    assert isinstance(again["input_ids"], expected)


@pytest.mark.parametrize("kind", ["pt", "jax", "tf"])
def test_uneven_rows_are_an_error_that_names_the_key(kind: str, slow: XLMRobertaTokenizer) -> None:
    pytest.importorskip(PACKAGES[kind])
    with pytest.raises(InputError, match=r"input_ids.*padding=True"):
        slow(BATCH, return_tensors=kind)


@pytest.mark.parametrize(("kind", "extra"), [("jax", "jax"), ("tf", "tf"), ("pt", "torch")])
def test_an_absent_framework_names_its_extra(
    kind: str, extra: str, slow: XLMRobertaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    missing: dict[str, Any] = {"pt": "torch", "jax": "jax.numpy", "tf": "tensorflow"}
    monkeypatch.setitem(sys.modules, missing[kind], None)
    with pytest.raises(MissingExtraError, match=rf"xlm\[{extra}\]"):
        slow("a", return_tensors=kind)
