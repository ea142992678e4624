"""Text to ids and back, with offsets into the user's own text."""

from __future__ import annotations

from xlm.tokenizers.auto import AutoTokenizer
from xlm.tokenizers.train import train_sentencepiece
from xlm.tokenizers.xlm_roberta import XLMRobertaTokenizer

__all__ = ["AutoTokenizer", "XLMRobertaTokenizer", "train_sentencepiece"]
