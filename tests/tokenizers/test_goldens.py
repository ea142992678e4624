"""Every documented call answers as transformers 4.37.2 did."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.tokenizers.cases import Case, cases, run
from tests.tokenizers.make_goldens import HERE

from xlm.tokenizers import AddedToken

# Where the project answers otherwise on purpose: an empty batch is an empty answer, not an error.
BETTER: list[Case] = [("__call__", [[]], {})]


@pytest.mark.parametrize("kind", ["slow", "fast", "xlm"])
def test_answers_are_those_of_the_reference(kind: str, makers: dict[str, Callable[[], Any]]) -> None:
    goldens = json.loads(gzip.decompress((HERE / "goldens.json.gz").read_bytes()))[kind]
    shared = makers[kind]()  # keeps the vocabulary in memory between the cases
    wrong: list[str] = []
    for case, golden in zip(cases(kind), goldens, strict=True):
        found = run(makers[kind], AddedToken, case)
        if found != golden and case not in BETTER:
            expected, answer = (json.dumps(value, ensure_ascii=False)[:500] for value in (golden, found))
            wrong.append(f"{case}\n   expected {expected}\n   found    {answer}")
    assert shared is not None
    assert not wrong, f"{len(wrong)} of {len(goldens)}:\n" + "\n".join(wrong[:20])
