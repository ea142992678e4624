"""Which stored tensor fills which parameter: names of every kind, tied copies, what is left over."""

from __future__ import annotations

import numpy as np

from xlm.checkpoints.matching import match, opened
from xlm.families.registry import FAMILIES

FAMILY = FAMILIES["xlm-roberta"]
SPEC = FAMILY.spec(FAMILY.config_class())
WORDS = "roberta.embeddings.word_embeddings.weight"
HEAD = {WORDS: (9, 4), "lm_head.bias": (9,)}


def test_a_tied_copy_wins_in_a_model_with_a_head_and_counts_for_nothing_in_one_without() -> None:
    stored = {WORDS: (9, 4), "lm_head.decoder.weight": (9, 4), "lm_head.bias": (9,)}
    pairs, report = match(stored, HEAD, FAMILY, SPEC)
    assert pairs == {WORDS: "lm_head.decoder.weight", "lm_head.bias": "lm_head.bias"} and not report.unexpected
    pairs, _ = match(stored, {WORDS: (9, 4)}, FAMILY, SPEC)
    assert pairs == {WORDS: WORDS}
    untied = HEAD | {"lm_head.decoder.weight": (9, 4)}
    pairs, _ = match(stored, untied, FAMILY, SPEC)
    assert pairs == {name: name for name in untied}


def test_what_is_left_over_has_its_stored_name() -> None:
    stored = {"embeddings.word_embeddings.weight": (9, 4), "lm_head.bias": (8,), "mine.weight": (1,)}
    pairs, report = match(stored, HEAD, FAMILY, SPEC, source="here")
    assert pairs == {WORDS: "embeddings.word_embeddings.weight"} and report.source == "here"
    assert report.unexpected == ["mine.weight"] and report.mismatched == [("lm_head.bias", (8,), (9,))]


def test_mappings_and_open_checkpoints_are_read_alike() -> None:
    shapes, read = opened({"a": np.zeros((2, 3))})
    assert shapes == {"a": (2, 3)} and read("a").shape == (2, 3)
