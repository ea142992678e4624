"""The capacity-dilution study: its languages are there, and its table and picture say what the runs said."""

from __future__ import annotations

from pathlib import Path

import pytest

dilution = pytest.importorskip("benchmarks.dilution")


def test_languages_are_nested_and_all_different() -> None:
    assert len(dilution.LANGUAGES) == len(set(dilution.LANGUAGES)) >= 80
    assert set(dilution.LANGUAGES[:5]) == {*dilution.HIGH, *dilution.LOW} == set(dilution.SIB)


def test_every_language_has_its_text(shared: Path) -> None:
    for language in dilution.LANGUAGES:
        assert (shared / "data" / "pretrain" / f"{language}.txt.gz").is_file(), language
    for name in dilution.SIB.values():
        assert (shared / "data" / "classify" / "sib200" / f"{name}.jsonl.gz").is_file(), name


def test_table_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = []
    for languages, alpha in ((5, 0.3), (15, 0.3), (15, 0.7)):
        values = {name: 5.0 + languages / 10 + index for index, name in enumerate(dilution.SIB)}
        transfer = dict.fromkeys(dilution.SIB, 0.3) | {"chance": 0.25}
        runs.append(
            {
                "languages": languages,
                "alpha": alpha,
                "tokens": 100,
                "minutes": 1.0,
                "loss": values,
                "top1": transfer,
                "transfer": transfer,
            }
        )
    table = dilution.rows(runs)
    assert [row["loss high"] for row in table] == [6.5, 7.5, 7.5] and table[0]["loss low"] == 9.0
    assert table[0]["topics chance"] == 25.0
    dilution.plot(runs, tmp_path / "dilution.png", 0.3, 15)
    assert (tmp_path / "dilution.png").stat().st_size > 10_000
