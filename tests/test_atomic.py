"""Folders that are there whole or not at all: flushed before their name is given, with the rights that the umask leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xlm.atomic import new_folder
from xlm.errors import OutputError


def test_a_new_folder_is_flushed_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def note_replace(source: Path, target: Path) -> None:
        done.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    with new_folder(tmp_path / "out") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("a")
        (folder / "b").write_text("b")
    at = done.index("renamed")
    assert {"a", "b", "inner", folder.name} <= set(done[:at]) and done[at + 1 :] == [tmp_path.name]


@pytest.mark.parametrize("umask", [0o077, 0o027])
def test_a_new_folder_has_the_rights_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "out" / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_that_fails_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "out"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("mine")
    with pytest.raises(OutputError, match="is there already"), new_folder(tmp_path / "out"):
        raise AssertionError
