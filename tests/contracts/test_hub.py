"""Models by their hub names: revisions, the cache, working offline, tokens, uploads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tiny
import xlm
from loopback_hub import LoopbackHub
from xlm import CheckpointError

HEAD = tiny.ONE_A_FAMILY[1]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    for seed, name in enumerate(("main", "older")):
        tiny.model(HEAD, seed=seed).save_pretrained(tmp_path / name, max_shard_size=4000)
    with LoopbackHub(tmp_path / "uploads") as hub:
        hub.add("someone/model", tmp_path / "main")
        hub.add("someone/model", tmp_path / "older", revision="v1")
        hub.add("someone/secret", tmp_path / "main", token="hf_right")
        hub.connect(monkeypatch, tmp_path / "cache")
        yield hub


def words(model: torch.nn.Module) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()


def test_a_name_and_its_revisions(hub: LoopbackHub) -> None:
    newest = HEAD.cls.from_pretrained("someone/model")
    older = HEAD.cls.from_pretrained("someone/model", revision="v1")
    assert torch.equal(words(newest), words(tiny.model(HEAD, seed=0)))
    assert torch.equal(words(older), words(tiny.model(HEAD, seed=1)))
    commit = hub.commit("someone/model", "v1")
    assert torch.equal(words(HEAD.cls.from_pretrained("someone/model", revision=commit)), words(older))
    assert newest.config.name_or_path == newest.name_or_path == "someone/model"
    assert type(xlm.AutoModelForMaskedLM.from_pretrained("someone/model", revision="v1")) is HEAD.cls
    assert type(xlm.AutoConfig.from_pretrained("someone/model")) is xlm.XLMRobertaConfig
    with pytest.raises(CheckpointError, match="someone/model: the repository has no revision 'v9'"):
        HEAD.cls.from_pretrained("someone/model", revision="v9")


def test_nothing_is_fetched_twice_and_a_cache_may_be_chosen(hub: LoopbackHub, tmp_path: Path) -> None:
    HEAD.cls.from_pretrained("someone/model", cache_dir=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "models--someone--model").is_dir()
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").glob("models--*"))
    hub.requests.clear()
    HEAD.cls.from_pretrained("someone/model", cache_dir=tmp_path / "elsewhere")
    assert not [line for line in hub.requests if line.startswith("GET") and "/resolve/" in line]


def test_offline(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(CheckpointError, match=r"someone/model: .*offline.*hf download"):
        HEAD.cls.from_pretrained("someone/model", local_files_only=True)
    assert hub.requests == []
    model = HEAD.cls.from_pretrained("someone/model")
    hub.requests.clear()
    assert torch.equal(words(HEAD.cls.from_pretrained("someone/model", local_files_only=True)), words(model))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what the variable of that name sets at start
    assert torch.equal(words(HEAD.cls.from_pretrained("someone/model")), words(model))
    assert hub.requests == []


def test_a_hub_that_does_not_answer(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.hf_api import api

    monkeypatch.setattr(
        "time.sleep", lambda _seconds: None
    )  # the hub library waits longer and longer between its tries
    model = HEAD.cls.from_pretrained("someone/model")
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(api, "endpoint", nowhere)
    assert torch.equal(words(HEAD.cls.from_pretrained("someone/model")), words(model))
    with pytest.raises(CheckpointError, match=r"someone/other: .*cannot be reached"):
        HEAD.cls.from_pretrained("someone/other")


def test_tokens(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"someone/secret.*HF_TOKEN"):
        HEAD.cls.from_pretrained("someone/secret")
    assert HEAD.cls.from_pretrained("someone/secret", token="hf_right") is not None
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert HEAD.cls.from_pretrained("someone/secret", force_download=True) is not None
    assert any(
        headers.get("Authorization", headers.get("authorization")) == "Bearer hf_right" for headers in hub.headers
    )


def test_a_folder_beats_a_name(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.model(HEAD, seed=7).save_pretrained("someone/model")
    assert torch.equal(words(HEAD.cls.from_pretrained("someone/model")), words(tiny.model(HEAD, seed=7)))
    assert hub.requests == []


def test_names_that_are_nothing(hub: LoopbackHub) -> None:
    with pytest.raises(CheckpointError, match="someone/nothing: no such folder here, and no such repository"):
        HEAD.cls.from_pretrained("someone/nothing")
    with pytest.raises(CheckpointError, match="no such folder, and not a hub name"):
        HEAD.cls.from_pretrained("/no/such/folder")


def test_upload_and_back(hub: LoopbackHub) -> None:
    model = tiny.model(HEAD, seed=4)
    address = model.push_to_hub("someone/new", token="hf_right")
    assert "someone/new" in address
    back = HEAD.cls.from_pretrained("someone/new")
    assert torch.equal(words(back), words(model))
    assert "POST api/repos/create" in hub.requests


def test_saving_may_upload(hub: LoopbackHub, tmp_path: Path) -> None:
    model = tiny.model(HEAD, seed=5)
    model.save_pretrained(tmp_path / "here", push_to_hub=True, repo_id="someone/saved", token="hf_right")
    assert torch.equal(words(HEAD.cls.from_pretrained("someone/saved")), words(model))
    assert torch.equal(words(HEAD.cls.from_pretrained(tmp_path / "here")), words(model))
