"""XLM-R's vocabulary: SentencePiece's pieces under XLM-R's ids, with ``<mask>`` behind them and added tokens above."""

from __future__ import annotations

import os
import weakref
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from xlm.errors import CheckpointError
from xlm.tokenizers.base import Tokenizer
from xlm.tokenizers.unigram import UNK, Unigram, clean

# The ids of fairseq, under which the published models know them.
FIXED = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
_NAMES = {index: token for token, index in FIXED.items()}
# One copy of a vocabulary in memory, however many tokenizers use it, as long as one does.
_ENGINES: weakref.WeakValueDictionary[tuple[Any, ...], Unigram] = weakref.WeakValueDictionary()


def engine_of(vocab_file: str, options: dict[str, Any]) -> Unigram:
    """The engine of a model file, shared with every tokenizer of the same unchanged file."""
    path = Path(vocab_file)
    try:
        about = path.stat()
        key = (os.path.realpath(path), about.st_mtime_ns, about.st_size, repr(sorted(options.items())))
        engine = _ENGINES.get(key)
        if engine is None:
            _ENGINES[key] = engine = Unigram(path.read_bytes(), str(path), options)
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"vocab_file {vocab_file}: cannot be read: {error.strerror or error}") from error
    return engine


class XLMRobertaVocabulary(Tokenizer):
    """Abstract: ids and tokens of :class:`xlm.tokenizers.xlm_roberta.XLMRobertaTokenizer`; ``engine`` holds the pieces."""

    engine: Unigram
    sp_model_kwargs: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        return self.engine.size + 1

    @property
    def vocab(self) -> dict[str, int]:
        return self.get_vocab()

    def get_vocab(self) -> dict[str, int]:
        pieces = ["<s>", "<pad>", "</s>", "<unk>", *self.engine.model.pieces()[3:], "<mask>"]
        return {**{piece: index for index, piece in enumerate(pieces)}, **self.added_tokens_encoder}

    def __len__(self) -> int:
        if self.FAST:
            return super().__len__()
        return self.vocab_size + sum(self._base_id(token) is None for token in self._encoder)

    @property
    def sp_model(self) -> sentencepiece.SentencePieceProcessor:
        """SentencePiece's own processor with SentencePiece's own ids; a second copy, made when first asked for."""
        return self._original

    @cached_property
    def _original(self) -> sentencepiece.SentencePieceProcessor:
        processor = sentencepiece.SentencePieceProcessor(**self.sp_model_kwargs)
        processor.LoadFromSerializedProto(self.engine.model.data)
        return processor

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.__dict__.items() if name not in ("_original", "_splitters", "_quirk")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._splitters = {}

    def _base_id(self, token: str) -> int | None:
        if token in FIXED:
            return FIXED[token]
        if token == "<mask>":
            return self.engine.size
        index = self.engine.processor.piece_to_id(clean(token))
        return None if index == UNK else index

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of a list; what is unknown gets the id of ``unk_token``."""
        if tokens is None:
            return None
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        if tokens in self._encoder:
            return self._encoder[tokens]
        index = self._base_id(tokens)
        if index is None:
            unknown = self._special["unk_token"]
            return None if unknown is None else self._encoder.get(str(unknown), self._base_id(str(unknown)))
        return index

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a row. An id outside: ``IndexError``; None in the fast class."""
        if isinstance(ids, int | np.integer):
            return self._token(int(ids))
        special = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._token(int(index)) for index in ids if int(index) not in special]

    def _token(self, index: int) -> str | None:
        if index in self._decoder:
            return self._decoder[index].content
        if 0 <= index < self.engine.size:
            return _NAMES.get(index) or self.engine.processor.id_to_piece(index)
        if index == self.engine.size:
            return "<mask>"
        if self.FAST:
            return None
        raise IndexError(f"id {index}: the vocabulary has ids from 0 to {len(self) - 1}")
