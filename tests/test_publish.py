"""Uploads to a hub on this machine: models, configs and tokenizers, with the documented arguments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import frameworks
import tiny
import xlm
from loopback_hub import LoopbackHub
from xlm import ArgumentError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
HEAD = tiny.ONE_A_FAMILY[1]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.chdir(tmp_path)
    with LoopbackHub(tmp_path / "uploads") as hub:
        hub.connect(monkeypatch, tmp_path / "cache")
        yield hub


def uploaded(hub: LoopbackHub, name: str) -> set[str]:
    folder = hub.repositories[name].revisions["main"]
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def check_model(hub: LoopbackHub, model: Any, tmp_path: Path) -> None:
    model.push_to_hub(
        "someone/many", True, "By steps", token="hf_x", max_shard_size=4000, private=True, tags=["tiny", "tests"]
    )
    files = uploaded(hub, "someone/many")
    assert "model.safetensors.index.json" in files and "config.json" in files
    card = (hub.repositories["someone/many"].revisions["main"] / "README.md").read_text("utf-8")
    assert "- tiny\n- tests\n" in card and "- xlm\n" in card
    # A folder of the repository's name is used unless told otherwise, and only what was written there goes.
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "notes.txt").write_text("mine", "utf-8")
    model.push_to_hub("someone/here", commit_message="From here")
    assert (tmp_path / "here" / "model.safetensors").is_file()
    assert "model.safetensors" in uploaded(hub, "someone/here") and "notes.txt" not in uploaded(hub, "someone/here")
    # Nothing is asked of the hub where saving fails.
    hub.requests.clear()
    with pytest.raises(InputError):
        model.push_to_hub("someone/never", max_shard_size="nonsense")
    with pytest.raises((ArgumentError, TypeError), match="unheard_of"):
        model.push_to_hub("someone/never", unheard_of=1)
    assert hub.requests == []


def test_models(hub: LoopbackHub, tmp_path: Path) -> None:
    check_model(hub, tiny.model(HEAD), tmp_path)


@pytest.mark.parametrize("framework", frameworks.FRAMEWORKS, ids=lambda f: f.name)
def test_models_of_other_frameworks(framework: Any, hub: LoopbackHub, tmp_path: Path) -> None:
    tiny.model(HEAD).save_pretrained(tmp_path / "model")
    check_model(hub, framework.load(HEAD, tmp_path / "model"), tmp_path)


def test_configs(hub: LoopbackHub, tmp_path: Path) -> None:
    config = tiny.config(HEAD, hidden_dropout_prob=0.25)
    config.push_to_hub("someone/config", max_shard_size="1GB")
    assert uploaded(hub, "someone/config") == {"config.json"}
    assert xlm.AutoConfig.from_pretrained("someone/config").hidden_dropout_prob == 0.25
    config.save_pretrained(tmp_path / "folder", push_to_hub=True, repo_id="someone/saved", token="hf_x")
    assert uploaded(hub, "someone/saved") == {"config.json"}


def test_tokenizers(hub: LoopbackHub, tmp_path: Path) -> None:
    words = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3, "<special0>": 4, "<special1>": 5, "a</w>": 6}
    (tmp_path / "vocab.json").write_text(str(words).replace("'", '"'), "utf-8")
    (tmp_path / "merges.txt").write_text("a b 1\n", "utf-8")
    tokenizer = xlm.XLMTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")
    tokenizer.push_to_hub("someone/tokenizer")
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= uploaded(hub, "someone/tokenizer")
    assert len(xlm.AutoTokenizer.from_pretrained("someone/tokenizer")) == len(tokenizer)
    tokenizer.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="someone/words")
    assert "vocab.json" in uploaded(hub, "someone/words")
    with pytest.raises(ArgumentError, match="unheard_of=1"):
        tokenizer.save_pretrained(tmp_path / "not", unheard_of=1)
    assert not (tmp_path / "not").exists()
