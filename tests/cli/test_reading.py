"""What the commands read: bytes that are not UTF-8 are refused, or replaced and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import toytasks
from xlm.cli import main

LINES = b"the film was good .\nAna \xff\xfe was in Rome\n\xc3\n"


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(toytasks.checkpoint(tmp_path / "model"))


def test_a_file_that_is_not_utf8(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(LINES)
    assert main(["embed", "-m", model, "--file", str(path)]) == 1
    told = capsys.readouterr().err
    assert "lines.txt:2: invalid UTF-8: byte 0xff at byte 4 of the line, byte 24 of the text" in told
    assert main(["embed", "-m", model, "--file", str(path), "--errors", "replace", "--json"]) == 0
    out, told = capsys.readouterr()
    assert [json.loads(line)["text"] for line in out.splitlines()][1:] == ["Ana \ufffd\ufffd was in Rome", "\ufffd"]
    assert told.startswith("2 lines with U+FFFD for what is not UTF-8: ") and "lines.txt:2" in told
