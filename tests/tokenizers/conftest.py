"""The small vocabularies of the goldens, as tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.tokenizers.make_goldens import unpack

from xlm.tokenizers import XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLMTokenizer


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """``model``, ``vocab`` and ``merges``: paths."""
    return unpack(tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(scope="session")
def makers(files: dict[str, str]) -> dict[str, Callable[[], Any]]:
    return {
        "slow": lambda: XLMRobertaTokenizer(files["model"]),
        "fast": lambda: XLMRobertaTokenizerFast(files["model"]),
        "xlm": lambda: XLMTokenizer(files["vocab"], files["merges"]),
    }


@pytest.fixture(scope="session")
def slow(makers: dict[str, Callable[[], Any]]) -> XLMRobertaTokenizer:
    return makers["slow"]()


@pytest.fixture(scope="session")
def fast(makers: dict[str, Callable[[], Any]]) -> XLMRobertaTokenizerFast:
    return makers["fast"]()


@pytest.fixture(scope="session")
def xlm(makers: dict[str, Callable[[], Any]]) -> XLMTokenizer:
    return makers["xlm"]()
