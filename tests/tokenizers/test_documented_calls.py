"""Calls as they are documented: options by position, a config that chooses the class, training anew, the compiled object."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import xlm as library
from xlm import ArgumentError, ConfigError, InputError
from xlm.assets import DEMO_TEXTS

TEXTS = ["Hello world!", "Ein längerer Satz über Bücher und Bäume."]
EVERY = pytest.mark.parametrize("which", ["slow", "fast", "xlm"])


@EVERY
def test_options_by_position(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(which)
    named: dict[str, Any] = {"add_special_tokens": False, "padding": "max_length", "truncation": True, "max_length": 9}
    positional = (False, "max_length", True, 9)
    assert tokenizer(TEXTS, None, None, None, *positional).data == tokenizer(TEXTS, **named).data
    assert tokenizer.encode_plus(TEXTS[0], None, *positional).data == tokenizer.encode_plus(TEXTS[0], **named).data
    assert tokenizer.batch_encode_plus(TEXTS, *positional).data == tokenizer.batch_encode_plus(TEXTS, **named).data
    assert tokenizer.encode(TEXTS[0], TEXTS[1], False) == tokenizer.encode(TEXTS[0], TEXTS[1], add_special_tokens=False)
    assert tokenizer.encode(TEXTS[0], None, True, False, True, 5, 0, None) == tokenizer.encode(
        TEXTS[0], truncation=True, max_length=5
    )
    rows = tokenizer(TEXTS)["input_ids"]
    assert tokenizer.batch_decode(rows, True, False) == tokenizer.batch_decode(
        rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    with pytest.raises(ArgumentError, match="add_special_tokens: is given twice, by position and by name"):
        tokenizer(TEXTS, None, None, None, True, add_special_tokens=True)
    with pytest.raises(ArgumentError, match="7 options by position: at most 6"):
        tokenizer.encode(TEXTS[0], None, *range(7))


def test_a_config_chooses_the_class_and_is_not_kept(files: dict[str, str], tmp_path: Path) -> None:
    for name, key in (("sentencepiece.bpe.model", "model"), ("vocab.json", "vocab"), ("merges.txt", "merges")):
        (tmp_path / name).write_bytes(Path(files[key]).read_bytes())
    load = library.AutoTokenizer.from_pretrained
    for config, wanted in (
        (library.XLMRobertaXLConfig(), library.XLMRobertaTokenizerFast),
        (library.XLMConfig(), library.XLMTokenizer),
        (library.XLMConfig(tokenizer_class="XLMRobertaTokenizer"), library.XLMRobertaTokenizerFast),
    ):
        tokenizer = load(tmp_path, config=config)
        assert type(tokenizer) is wanted and "config" not in tokenizer.init_kwargs
        tokenizer.save_pretrained(tmp_path / wanted.__name__)
        # What the folder itself says wins.
        assert type(load(tmp_path / wanted.__name__, config=library.XLMConfig())) is wanted
    assert "config" not in library.XLMTokenizer.from_pretrained(tmp_path, config=library.XLMConfig()).init_kwargs
    with pytest.raises(InputError, match="tokenizer_type='bert': must be one of xlm"):
        load(tmp_path, tokenizer_type="bert")


def test_training_anew(fast: Any, tmp_path: Path) -> None:
    demo = tomllib.loads(DEMO_TEXTS.read_text("utf-8"))
    lines = [text for entry in demo["same"] for text in entry.values()]
    batches = (lines[i : i + 3] for i in range(0, len(lines), 3))
    new = fast.train_new_from_iterator(batches, 500, len(lines), ["<new>"], num_threads=1)
    assert type(new) is type(fast) and len(new) == 500 and new.additional_special_tokens == ["<new>"]
    assert new.unk_token_id not in new(lines[0])["input_ids"]
    assert new.decode(new(f"{lines[0]}<new>")["input_ids"], skip_special_tokens=True) == lines[0]
    new.save_pretrained(tmp_path)
    back = library.AutoTokenizer.from_pretrained(tmp_path)
    assert back(lines)["input_ids"] == new(lines)["input_ids"]
    with pytest.raises(ConfigError, match="vocab_size"):
        fast.train_new_from_iterator(lines, 5)
    with pytest.raises(ConfigError, match="does not fit the text"):
        fast.train_new_from_iterator(lines, 50_000)
    with pytest.raises(ArgumentError, match="special_tokens_map"):
        fast.train_new_from_iterator(lines, 60, special_tokens_map={"<mask>": "[MASK]"})


def test_the_compiled_object(fast: Any) -> None:
    pytest.importorskip("tokenizers")
    backend = fast.backend_tokenizer
    for text in TEXTS:
        assert backend.encode(text).ids == fast(text)["input_ids"]
    assert backend is fast.backend_tokenizer
    assert json.loads(backend.to_str())["model"]["type"] == "Unigram"
