"""Which files of a repository are fetched, and what is said when they cannot be had."""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loopback_hub import LoopbackHub
from xlm.checkpoints.files import open_checkpoint, save_safetensors
from xlm.errors import CheckpointError, InputError
from xlm.hub import resolve, take_hub_options, wanted_files
from xlm.publish import push_folder


def fetched(hub: LoopbackHub) -> list[str]:
    return sorted(line.rpartition("/")[2] for line in hub.requests if line.startswith("GET") and "/resolve/" in line)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    folder = tmp_path / "served"
    for place in (folder, folder / "inner"):
        save_safetensors(place, {"w": np.arange(6.0)}, max_shard_size="5GB")
        (place / "config.json").write_text("{}")
        for name in ("pytorch_model.bin", "tf_model.h5", "README.md", "training_args.bin", "model.onnx", "vocab.json"):
            (place / name).write_text(f"{place.name} {name}")
    with LoopbackHub() as hub:
        hub.add("some/model", folder)
        hub.connect(monkeypatch, tmp_path / "cache")
        yield hub


def test_only_one_kind_of_weights_is_fetched(hub: LoopbackHub) -> None:
    folder = resolve("some/model")
    assert fetched(hub) == ["README.md", "config.json", "model.safetensors", "vocab.json"]
    assert list(open_checkpoint(folder)["w"]) == [0, 1, 2, 3, 4, 5]


def test_a_folder_inside_the_repository(hub: LoopbackHub) -> None:
    assert (resolve("some/model", subfolder="inner") / "config.json").is_file()
    assert all("inner/" in line for line in hub.requests if "/resolve/" in line)
    hub.requests.clear()
    assert resolve("some/model", subfolder="inner", allow_patterns=["tf_model.h5"]).name == "inner"
    assert fetched(hub) == ["tf_model.h5"]
    with pytest.raises(CheckpointError, match="has no folder 'absent'"):
        resolve("some/model", subfolder="absent")
    for subfolder in ("../x", "/etc"):
        with pytest.raises(InputError, match="inside the checkpoint's"):
            resolve("some/model", subfolder=subfolder)


def test_offline_after_a_part_of_it(hub: LoopbackHub) -> None:
    resolve("some/model", allow_patterns=["config.json"])
    hub.requests.clear()
    folder = resolve("some/model", allow_patterns=["config.json"], local_files_only=True)
    assert (folder / "config.json").is_file()
    with pytest.raises(
        CheckpointError, match=r"offline, and not in the cache .*looked for vocab.json.*hf download some/model"
    ):
        resolve("some/model", allow_patterns=["vocab.json"], local_files_only=True)
    # The weights were never fetched: opening says what is looked for.
    with pytest.raises(CheckpointError, match=r"no weights found; looked for model\.safetensors"):
        open_checkpoint(resolve("some/model", local_files_only=True))
    assert hub.requests == []


def test_a_cache_that_cannot_be_written(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"the cache .*file.* cannot be written .*set HF_HOME or cache_dir"):
        resolve("some/model", cache_dir=tmp_path / "file")
    folder = resolve("some/model")
    real = huggingface_hub.snapshot_download

    def readonly(*args, local_files_only=False, **options):
        if not local_files_only:
            raise PermissionError(13, "Permission denied")
        return real(*args, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", readonly)
    assert resolve("some/model") == folder  # what is there can be read


@pytest.mark.parametrize("patterns", [None, ["config.json"]])
@pytest.mark.parametrize(("status", "said"), [(401, "refuses it (401)"), (429, "answers 429"), (500, "answers 500")])
def test_what_a_hub_answers_is_named(
    hub: LoopbackHub,
    patterns: list[str] | None,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not that it cannot be reached; and an old copy is never used without a word, where the token is wrong not at all."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    class Answer:
        status_code, headers, request = status, {}, None

    def refuse(*_: object, **__: object) -> None:
        error = HfHubHTTPError.__new__(HfHubHTTPError)
        error.response = Answer()  # type: ignore[assignment]
        raise error

    names = ("list_repo_files", "model_info")
    real = {name: getattr(huggingface_hub.HfApi, name) for name in names}
    for name in names:
        monkeypatch.setattr(huggingface_hub.HfApi, name, refuse)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        resolve("some/model", allow_patterns=patterns)
    for name in names:
        monkeypatch.setattr(huggingface_hub.HfApi, name, real[name])
    folder = resolve("some/model", allow_patterns=patterns)
    assert not caplog.records
    for name in names:
        monkeypatch.setattr(huggingface_hub.HfApi, name, refuse)
    if status == 401:
        with pytest.raises(CheckpointError, match="refuses it"):
            resolve("some/model", allow_patterns=patterns)
        return
    with caplog.at_level(logging.WARNING, logger="xlm"):
        assert resolve("some/model", allow_patterns=patterns) == folder
    assert said in caplog.text and "what is in the cache is used" in caplog.text


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_cache_without_room(hub: LoopbackHub, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*_: object, local_files_only: bool = False, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(CheckpointError, match=rf"cannot be written \({os.strerror(number)}\); set HF_HOME"):
        resolve("some/model")


def test_many_readers_one_download(hub: LoopbackHub) -> None:
    found: list[object] = []

    def read() -> None:
        try:
            found.append(open_checkpoint(resolve("some/model"))["w"].tolist())
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]] * 6
    assert fetched(hub).count("model.safetensors") == 1


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            [
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "x.bin",
            ],
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["model.safetensors.index.json", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
        ),
        (["tf_model.h5", "flax_model.msgpack"], ["tf_model.h5"]),
        (["model.pt", "optimizer.pt"], ["model.pt"]),
        (["adapter_model.safetensors", "onnx/model.onnx"], []),
    ],
)
def test_which_weights(files: list[str], weights: list[str]) -> None:
    small = ["config.json", "sentencepiece.bpe.model", "1_Pooling/config.json"]
    others = ["logs/events.json", ".gitattributes", "a.py"]
    assert sorted(wanted_files([*files, *small, *others])) == sorted([*small, *weights])


def test_options_are_taken_out() -> None:
    options = {"revision": "v1", "cache_dir": None, "use_auth_token": "t", "dtype": "float32"}
    assert take_hub_options(options) == {"revision": "v1", "token": "t"} and options == {"dtype": "float32"}


def test_an_upload_that_is_refused(hub: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder to upload"):
        push_folder(tmp_path / "absent", "some/model")
