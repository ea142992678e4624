"""The tokenizer class that fits a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xlm.tokenizers.xlm_roberta import XLMRobertaTokenizer


class AutoTokenizer:
    """``AutoTokenizer.from_pretrained(folder or hub name)``."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> XLMRobertaTokenizer:
        return XLMRobertaTokenizer.from_pretrained(name_or_path, **options)
