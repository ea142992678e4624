"""The one reader of JSON: what Python's parser lets through, or ends with, is a typed error that names the file."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from xlm.errors import CheckpointError, ConfigError
from xlm.jsonfile import read_json, read_object


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_faults_name_the_file(tmp_path: Path, raw: bytes, message: str) -> None:
    file = tmp_path / "some.json"
    file.write_bytes(raw)
    for kind in (CheckpointError, ConfigError):
        with pytest.raises(kind, match=rf"some\.json: {message}"):
            read_json(file, kind)


def test_objects_and_marks(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    file.write_text('{"a": [1]}', "utf-8-sig")
    assert read_object(file) == {"a": [1]}
    file.write_text("[]")
    assert read_json(file) == []
    with pytest.raises(CheckpointError, match="holds a list, not an object"):
        read_object(file)
    with pytest.raises(CheckpointError, match=r"no such file; a checkpoint folder needs a absent\.json"):
        read_json(tmp_path / "absent.json")


def test_a_stale_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "some.json"
    file.write_text('{"a": 1}')
    read, faults = Path.read_bytes, [errno.ESTALE, errno.EIO]

    def flaky(path: Path) -> Any:
        if faults:
            raise OSError(faults.pop(), "passes")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", flaky)
    assert read_json(file) == {"a": 1}
    faults += [errno.EIO] * 10
    with pytest.raises(CheckpointError, match="cannot be read: passes"):
        read_json(file)
