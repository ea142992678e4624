"""What a caller gives the engine -> checked rows of ids, in the caller's order."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np

from xlm.errors import InputError

Ids: TypeAlias = Sequence[int]
Input: TypeAlias = str | tuple[str, str] | Ids
"""A text, a pair of texts, or ids that are taken exactly as they are."""


class Rows:
    """Inputs as rows of ids.

    Args:
        tokenizer: how texts become ids.
        vocab_size: rows of the word table; every id must lie below.
        max_tokens: the longest row, special tokens included.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_tokens = max_tokens

    def __call__(
        self, inputs: Sequence[Input], *, truncate: bool, name: str = "inputs", check: bool = True, marks: bool = False
    ) -> list[list[int]]:
        """One row of ids for each input; without ``check`` rows may be longer than the model; with ``marks`` special tokens
        in texts are tokens, whatever the tokenizer's setting.

        Raises:
            InputError: not a list; an item that is neither text, pair nor ids; an id outside the vocabulary; a row longer
                than the model, unless ``truncate`` cuts it.
        """
        if isinstance(inputs, str) or not isinstance(inputs, Sequence | np.ndarray):
            raise InputError(f"{name} is {_type(inputs)}: a list of texts, pairs of texts or lists of ids is needed")
        rows: list[list[int] | None] = [None] * len(inputs)
        texts: list[int] = []
        pairs: list[int] = []
        for index, item in enumerate(inputs):
            if isinstance(item, str):
                texts.append(index)
            elif isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(side, str) for side in item):
                pairs.append(index)
            else:
                rows[index] = self._ids(item, truncate, f"{name}[{index}]", check)
        options: dict[str, Any] = {"verbose": False}  # what is too long is told here, by its place
        options |= {"truncation": True, "max_length": self.max_tokens} if truncate else {}
        if marks:
            options["split_special_tokens"] = False
        # The two kinds go through the tokenizer as two batches: a pair's options differ from a single text's.
        for group, sides in ((texts, 1), (pairs, 2)):
            if not group:
                continue
            columns = [[inputs[index] for index in group]]
            if sides == 2:
                columns = [[inputs[index][side] for index in group] for side in (0, 1)]
            for index, ids in zip(group, self.tokenizer(*columns, **options)["input_ids"], strict=True):
                if check:
                    self.check_length(len(ids), f"{name}[{index}]")
                rows[index] = list(ids)
        return [row for row in rows if row is not None]

    def check_length(self, tokens: int, where: str) -> None:
        """Raise InputError for a row longer than the model."""
        if tokens > self.max_tokens:
            raise InputError(
                f"{where}: {tokens:,} tokens with the special ones, the model's limit is {self.max_tokens:,}: "
                "shorten the text, or cut it with truncate=True (--truncate)"
            )

    def _ids(self, item: Any, truncate: bool, where: str, check: bool) -> list[int]:
        if isinstance(item, np.ndarray):
            item = item.tolist()
        if not isinstance(item, Sequence) or isinstance(item, bytes | bytearray):
            raise InputError(f"{where} is {_type(item)}: a text, a pair of texts or a list of ids is needed")
        if not item:
            raise InputError(f"{where} is empty: at least one id is needed")
        quick = set(map(type, item)) == {int} and min(item) >= 0 and max(item) < self.vocab_size
        for position, value in enumerate(() if quick else item):
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise InputError(f"{where}[{position}] is {value!r} ({_type(value)}): an id is an integer")
            if not 0 <= int(value) < self.vocab_size:
                raise InputError(f"{where}[{position}] is {value}: ids must lie between 0 and {self.vocab_size - 1}")
        if truncate:
            item = item[: self.max_tokens]
        if check:
            self.check_length(len(item), where)
        return list(item) if quick else [int(value) for value in item]


def _type(value: object) -> str:
    return f"of type {type(value).__name__}"
