"""The tokenizer class that fits a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xlm.errors import CheckpointError, InputError
from xlm.hub import resolve, take_hub_options
from xlm.jsonfile import read_object
from xlm.tokenizers.base import Tokenizer
from xlm.tokenizers.persist import CONFIG_FILE, PATTERNS
from xlm.tokenizers.xlm import XLMTokenizer
from xlm.tokenizers.xlm_roberta import XLMRobertaTokenizer
from xlm.tokenizers.xlm_roberta_fast import XLMRobertaTokenizerFast

_CLASSES: dict[str, tuple[type[Tokenizer], type[Tokenizer]]] = {
    "XLMTokenizer": (XLMTokenizer, XLMTokenizer),
    "XLMRobertaTokenizer": (XLMRobertaTokenizer, XLMRobertaTokenizerFast),
}
_MODEL_TYPES = {"xlm": "XLMTokenizer", "xlm-roberta": "XLMRobertaTokenizer", "xlm-roberta-xl": "XLMRobertaTokenizer"}
_FILES = {
    "vocab.json": "XLMTokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
    "tokenizer.json": "XLMRobertaTokenizer",
}


class AutoTokenizer:
    """``AutoTokenizer.from_pretrained(folder or hub name)`` chooses the class; ``use_fast=False`` the Python one."""

    def __init__(self) -> None:
        raise OSError(
            "AutoTokenizer is not made by itself: AutoTokenizer.from_pretrained(folder or name) makes a tokenizer"
        )

    @classmethod
    def from_pretrained(cls, name_or_path: Any, *inputs: Any, use_fast: bool = True, **options: Any) -> Any:
        """As the tokenizer's own class, found in tokenizer_config.json, ``config``, config.json or by the files there."""
        hub = take_hub_options(options)
        folder = resolve(name_or_path, **hub, allow_patterns=PATTERNS)
        name, config = options.pop("tokenizer_type", None), options.pop("config", None)
        name = _MODEL_TYPES.get(name, name) or _class_name(folder, config)
        if name not in _CLASSES:
            raise InputError(f"tokenizer_type={name!r}: must be one of {', '.join(_MODEL_TYPES)}")
        chosen = _CLASSES[name][int(use_fast)]
        return chosen.from_pretrained(name_or_path, *inputs, **hub, **options)


def _class_name(folder: Path, config: Any = None) -> str:
    if (folder / CONFIG_FILE).is_file():
        stored = str(read_object(folder / CONFIG_FILE).get("tokenizer_class") or "").removesuffix("Fast")
        if stored in _CLASSES:
            return stored
    for stored in (getattr(config, "tokenizer_class", None), getattr(config, "model_type", None)):
        name = _MODEL_TYPES.get(stored or "", str(stored).removesuffix("Fast"))
        if name in _CLASSES:
            return name
    if (folder / "config.json").is_file():
        kind = read_object(folder / "config.json").get("model_type")
        if isinstance(kind, str) and kind in _MODEL_TYPES:
            return _MODEL_TYPES[kind]
    for file, name in _FILES.items():
        if (folder / file).is_file():
            return name
    raise CheckpointError(f"{folder}: no tokenizer there: one of {', '.join(_FILES)} is needed")
