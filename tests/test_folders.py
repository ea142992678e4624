"""Folders that are there whole or not at all: flushed before their name is given, with the rights that the umask leaves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from xlm import folders
from xlm.errors import OutputError
from xlm.folders import atomic_folder, foreign_files, manifest_of, new_folder, remove_folder


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


def made(folder: Path, content: str) -> Path:
    with atomic_folder(folder) as temporary:
        (temporary / "weights").write_text(content, "utf-8")
    return folder


def test_a_process_killed_while_a_folder_is_replaced_has_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every call that changes the folder, one of both contents is whole on the disk."""
    made(tmp_path / "model", "first")
    whole: list[list[str]] = []

    def watched(call: Any) -> Any:
        def stopped(*arguments: Any, **options: Any) -> Any:
            whole.append(sorted(path.read_text() for path in tmp_path.rglob("weights")))
            return call(*arguments, **options)

        return stopped

    monkeypatch.setattr(folders.os, "rename", watched(os.rename))
    monkeypatch.setattr(folders.shutil, "rmtree", watched(folders.shutil.rmtree))
    made(tmp_path / "model", "second")
    assert all(found == ["first", "second"] for found in whole[:3]) and len(whole) >= 3
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "second"


def test_a_replacement_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "model", "first")
    rename = os.rename

    def full(source: Any, target: Any) -> None:
        if str(source).endswith(".tmp"):
            raise OSError("the disk is gone")
        rename(source, target)

    monkeypatch.setattr(folders.os, "rename", full)
    with pytest.raises(OSError, match="the disk is gone"):
        made(tmp_path / "model", "second")
    assert (tmp_path / "model" / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_knows_what_was_written_into_it(tmp_path: Path) -> None:
    folder = made(tmp_path / "one", "ours")
    assert set(manifest_of(folder) or {}) == {"weights"} and foreign_files(folder) == []
    (folder / "sub").mkdir()
    (folder / "sub" / "mine").write_text("", "utf-8")
    assert foreign_files(folder) == ["sub/mine"]
    (folder / "manifest.json").write_text('["weights"]', "utf-8")
    assert manifest_of(folder) is None and foreign_files(folder) == ["manifest.json", "sub/mine", "weights"]
    remove_folder(folder)
    assert folder.is_dir()
