"""What a tokenizer returns: a mapping of lists or tensors, and for every row where its tokens lie in the text."""

from __future__ import annotations

import importlib
from collections import UserDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from xlm.errors import InputError, MissingExtraError

Span = tuple[int, int]


class CharSpan(NamedTuple):
    """Characters ``start`` up to, not including, ``end`` of the original text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens ``start`` up to, not including, ``end`` of a row."""

    start: int
    end: int


@dataclass(slots=True)
class Encoding:
    """One row, token by token. ``offsets`` point into the original text (into its word, for split input)."""

    ids: list[int]
    tokens: list[str]
    offsets: list[Span]
    word_ids: list[int | None]
    sequence_ids: list[int | None]
    type_ids: list[int]
    special_tokens_mask: list[int]
    attention_mask: list[int]
    overflowing: list[Encoding] = field(default_factory=list)
    n_sequences: int = 1

    @property
    def words(self) -> list[int | None]:
        return self.word_ids

    def __len__(self) -> int:
        return len(self.ids)

    def token_to_sequence(self, index: int) -> int | None:
        return self.sequence_ids[index] if 0 <= index < len(self.ids) else None

    def token_to_word(self, index: int) -> int | None:
        return self.word_ids[index] if 0 <= index < len(self.ids) else None

    def token_to_chars(self, index: int) -> Span | None:
        in_text = 0 <= index < len(self.ids) and self.sequence_ids[index] is not None
        return self.offsets[index] if in_text else None

    def _has(self, sequence: int) -> bool:
        return 0 <= sequence < self.n_sequences

    def _of_word(self, word: int, sequence: int) -> list[int]:
        known = self._has(sequence)
        both = enumerate(zip(self.word_ids, self.sequence_ids, strict=True))
        return [index for index, (w, s) in both if w == word and (not known or s == sequence)]

    def word_to_tokens(self, word: int, sequence: int = 0) -> Span | None:
        found = self._of_word(word, sequence)
        return (found[0], found[-1] + 1) if found else None

    def word_to_chars(self, word: int, sequence: int = 0) -> Span | None:
        found = self._of_word(word, sequence)
        return (self.offsets[found[0]][0], self.offsets[found[-1]][1]) if found else None

    def char_to_token(self, char: int, sequence: int = 0) -> int | None:
        # As in the reference: a sequence that the row does not have means the whole row.
        known = self._has(sequence)
        for index, (start, end) in enumerate(self.offsets):
            if start <= char < end and (not known or self.sequence_ids[index] == sequence):
                return index
        return None

    def char_to_word(self, char: int, sequence: int = 0) -> int | None:
        token = self.char_to_token(char, sequence)
        return None if token is None else self.word_ids[token]


_PACKAGE = {"pt": ("torch", "torch"), "tf": ("tensorflow", "tf"), "jax": ("jax.numpy", "jax"), "np": ("numpy", "numpy")}


def converter(kind: Any) -> Callable[[Any], Any]:
    """Nested lists to a tensor of ``pt``, ``tf``, ``jax`` or ``np``; the framework is imported here and nowhere else."""
    kind = getattr(kind, "value", kind)
    if kind not in _PACKAGE:
        raise InputError(f"return_tensors is {kind!r}: it must be one of {', '.join(_PACKAGE)} or None")
    package, extra = _PACKAGE[kind]
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"return_tensors={kind!r}", package, extra) from error
    if kind == "pt":
        return lambda value: module.from_numpy(_rectangle(value).copy())
    if kind == "tf":
        return lambda value: module.constant(value)
    if kind == "jax":
        return lambda value: module.asarray(_rectangle(value))
    return _ragged


def _rectangle(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError("rows of different lengths")
    return array.astype(np.int64) if array.size == 0 and array.dtype == np.float64 else array


def _ragged(value: Any) -> np.ndarray:
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple | np.ndarray):
        if len({len(row) for row in value}) > 1:
            rows = np.empty(len(value), dtype=object)
            rows[:] = [np.asarray(row) for row in value]
            return rows
    return np.asarray(value)


class BatchEncoding(UserDict):
    """``input_ids``, ``attention_mask`` and what else was asked for; also reachable as attributes.

    ``encodings`` holds a row's tokens, offsets and words. They are computed when first looked at.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | Callable[[], list[Encoding]] | None = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
        fast: bool = True,
    ) -> None:
        super().__init__(data)
        self._source = [encoding] if isinstance(encoding, Encoding) else encoding
        self._n_sequences, self._fast = n_sequences, fast
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    @property
    def encodings(self) -> list[Encoding] | None:
        source: Any = self._source
        if callable(source):
            self._source = source = source()
        return None if source is None else list(source)

    @property
    def n_sequences(self) -> int | None:
        if self._n_sequences is None and self.encodings:
            self._n_sequences = self.encodings[0].n_sequences
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether the row came from a class whose reference is the compiled tokenizer."""
        return self._fast and self._source is not None

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        if self.encodings is not None:
            return self.encodings[item]
        raise KeyError(f"key {item!r}: a name, or the number of a row where the rows know their text, is needed")

    def __getattr__(self, item: str) -> Any:
        if item in ("data", "_source"):
            raise AttributeError(item)
        try:
            return self.data[item]
        except KeyError:
            raise AttributeError(item) from None

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "encodings": self.encodings, "n": self._n_sequences, "fast": self._fast}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data, self._source = state["data"], state["encodings"]
        self._n_sequences, self._fast = state["n"], state["fast"]

    def keys(self) -> Any:
        return self.data.keys()

    def values(self) -> Any:
        return self.data.values()

    def items(self) -> Any:
        return self.data.items()

    def _row(self, index: int, what: str) -> Encoding:
        rows = self.encodings
        if not rows:
            raise ValueError(f"{what}() needs rows that were made from text; these were made from ids")
        return rows[index]

    def _pick(self, first: int, second: int | None, what: str) -> tuple[Encoding, int]:
        row = self._row(0 if second is None else first, what)
        index = first if second is None else second
        return row, index + len(row) if index < 0 else index

    def tokens(self, batch_index: int = 0) -> list[str]:
        return self._row(batch_index, "tokens").tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        return self._row(batch_index, "sequence_ids").sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        return self._row(batch_index, "word_ids").word_ids

    words = word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        row, index = self._pick(batch_or_token_index, token_index, "token_to_sequence")
        return row.token_to_sequence(index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        row, index = self._pick(batch_or_token_index, token_index, "token_to_word")
        return row.token_to_word(index)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        row, index = self._pick(batch_or_token_index, token_index, "token_to_chars")
        span = row.token_to_chars(index)
        return None if span is None else CharSpan(*span)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        row, index = self._pick(batch_or_word_index, word_index, "word_to_tokens")
        span = row.word_to_tokens(index, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan:
        row, index = self._pick(batch_or_word_index, word_index, "word_to_chars")
        span = row.word_to_chars(index, sequence_index)
        if span is None:
            raise InputError(f"word {index} of sequence {sequence_index} has no token in this row")
        return CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        row = self._row(0 if char_index is None else batch_or_char_index, "char_to_token")
        return row.char_to_token(batch_or_char_index if char_index is None else char_index, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        row = self._row(0 if char_index is None else batch_or_char_index, "char_to_word")
        return row.char_to_word(batch_or_char_index if char_index is None else char_index, sequence_index)

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turn every list into a tensor. ``ValueError`` names the key whose rows differ in length."""
        if tensor_type is None:
            return self
        convert = converter(tensor_type)
        for key, value in self.data.items():
            if hasattr(value, "shape"):
                continue
            try:
                self.data[key] = convert([value] if prepend_batch_axis else value)
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{key} cannot become a tensor: its rows differ in length; ask for padding=True and truncation=True"
                ) from error
        return self

    def to(self, device: Any) -> BatchEncoding:
        """Move PyTorch tensors to ``device``, in place."""
        self.data = {key: value.to(device) if hasattr(value, "to") else value for key, value in self.data.items()}
        return self
