"""Text to ids and back, with offsets into the user's own text."""

from __future__ import annotations

from xlm.tokenizers.added import AddedToken
from xlm.tokenizers.align import align_labels, word_predictions
from xlm.tokenizers.auto import AutoTokenizer
from xlm.tokenizers.encoding import BatchEncoding, CharSpan, Encoding, TokenSpan
from xlm.tokenizers.options import PaddingStrategy, TruncationStrategy
from xlm.tokenizers.train import train_sentencepiece
from xlm.tokenizers.train_bpe import train_bpe
from xlm.tokenizers.xlm import XLMTokenizer
from xlm.tokenizers.xlm_roberta import XLMRobertaTokenizer
from xlm.tokenizers.xlm_roberta_fast import XLMRobertaTokenizerFast

__all__ = [
    "AddedToken",
    "AutoTokenizer",
    "BatchEncoding",
    "CharSpan",
    "Encoding",
    "PaddingStrategy",
    "TokenSpan",
    "TruncationStrategy",
    "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
    "XLMTokenizer",
    "align_labels",
    "train_bpe",
    "train_sentencepiece",
    "word_predictions",
]
