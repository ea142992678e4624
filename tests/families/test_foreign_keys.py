"""Configs that were not written by a program of this kind: a typed error that names field and value, for every one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import xlm
from xlm.errors import ConfigError

ALL = {
    "label2id": ["text", [1], {"a": "b"}, {"a": None}],
    "id2label": ["text", [1], {"a": "b"}],
    "pruned_heads": ["text", [1], {"a": [1]}, {"0": 1}, {"0": ["x"]}],
    "architectures": [5, "XLMModel", [5], {"a": 1}],
    "quantization_config": ["x", [1], 5],
    "lang2id": ["en", {"en": "0"}, [1]],
    "validate": [1],
    "to_dict": ["x"],
    "use_return_dict": [True],
    "__class__": ["x"],
    "__dict__": [{}],
    "rules": [{}],
    "from_pretrained": [None],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ALL.items() for value in values])
def test_values_that_no_field_can_have(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta", key: value}))
    with pytest.raises(ConfigError, match=key):
        xlm.AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [5, [], {}, None, "bert"])
def test_kinds_of_models_that_are_none(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ConfigError, match="model_type"):
        xlm.AutoConfig.from_pretrained(tmp_path)


def test_what_is_unknown_but_harmless_is_kept(tmp_path: Path) -> None:
    given = {"model_type": "xlm", "my_key": [1], "architectures": None, "quantization_config": None}
    (tmp_path / "config.json").write_text(json.dumps({**given, "pruned_heads": {"0": [1, 0]}, "id2label": {"0": 7}}))
    config = xlm.AutoConfig.from_pretrained(tmp_path)
    assert config.my_key == [1] and config.pruned_heads == {0: [0, 1]} and config.id2label == {0: "7"}


def test_a_config_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = xlm.XLMConfig()
    config.to_json_file(tmp_path / "config.json")
    before = (tmp_path / "config.json").read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(xlm.OutputError, match="the disk is full"):
        xlm.XLMConfig(emb_dim=64, n_heads=2).to_json_file(tmp_path / "config.json")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == before
