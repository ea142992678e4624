"""From token ids of one or two sequences to the rows that a model takes: special tokens, padding, and rows token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xlm.errors import InputError
from xlm.tokenizers.encoding import Encoding, Span
from xlm.tokenizers.options import Options, PaddingStrategy
from xlm.tokenizers.truncate import Range


@dataclass(slots=True)
class Detail:
    """The tokens of one sequence: what they are, where they lie in its text, to which word they belong."""

    ids: list[int]
    tokens: list[str]
    offsets: list[Span]
    words: list[int | None]

    @classmethod
    def of_words(cls, parts: Sequence[Detail]) -> Detail:
        """Words tokenized one by one: offsets stay within their word, the word's number is its place in the list."""
        joined = cls([], [], [], [])
        for number, part in enumerate(parts):
            joined.ids.extend(part.ids)
            joined.tokens.extend(part.tokens)
            joined.offsets.extend(part.offsets)
            joined.words.extend([number] * len(part.ids))
        return joined


@dataclass(frozen=True, slots=True)
class Template:
    """What stands around one sequence and around two, as names of special tokens and the numbers 0 and 1 of the sequences.

    ``pair_types`` are the token types of the parts of a pair; a single sequence has type 0 throughout.
    """

    single: tuple[str | int, ...]
    pair: tuple[str | int, ...]
    pair_types: tuple[int, ...]

    def parts(self, pair: bool, special: bool) -> list[tuple[str | int, int]]:
        parts = list(zip(self.pair, self.pair_types, strict=True)) if pair else [(part, 0) for part in self.single]
        return parts if special else [(part, 0) for part, _ in parts if not isinstance(part, str)]

    def added(self, pair: bool) -> int:
        return sum(isinstance(part, str) for part in (self.pair if pair else self.single))

    def assemble(
        self, special_ids: dict[str, int], first: list[int], second: list[int] | None, special: bool
    ) -> list[int]:
        sides = (first, second or [])
        row: list[int] = []
        for part, _ in self.parts(second is not None, special):
            if isinstance(part, str):
                row.append(special_ids[part])
            else:
                row.extend(sides[part])
        return row

    def types(self, first: int, second: int | None, special: bool) -> list[int]:
        sizes = (first, second or 0)
        row: list[int] = []
        for part, kind in self.parts(second is not None, special):
            row.extend([kind] * (1 if isinstance(part, str) else sizes[part]))
        return row

    def special_mask(self, first: int, second: int | None, special: bool) -> list[int]:
        sizes = (first, second or 0)
        row: list[int] = []
        for part, _ in self.parts(second is not None, special):
            row.extend([1] if isinstance(part, str) else [0] * sizes[part])
        return row

    def spread(self, first: list[Any], second: list[Any] | None, special: bool, filler: Any) -> list[Any]:
        """A value for every token of the row: those given for the sequences, ``filler`` for special tokens."""
        sides = (first, second or [])
        row: list[Any] = []
        for part, _ in self.parts(second is not None, special):
            row.extend([filler] if isinstance(part, str) else sides[part])
        return row

    def encode(
        self,
        special_tokens: dict[str, tuple[str, int]],
        first: Detail,
        second: Detail | None,
        window: tuple[Range, Range | None],
        special: bool,
    ) -> Encoding:
        a = slice(*window[0])
        b = slice(*window[1]) if window[1] is not None else slice(0, 0)
        pair = second is not None
        ids = self.assemble(
            {n: i for n, (_, i) in special_tokens.items()}, first.ids[a], second.ids[b] if second else None, special
        )
        tokens: list[str] = []
        for part, _ in self.parts(pair, special):
            if isinstance(part, str):
                tokens.append(special_tokens[part][0])
            else:
                tokens.extend(first.tokens[a] if part == 0 or second is None else second.tokens[b])
        size_a, size_b = len(first.ids[a]), len(second.ids[b]) if second else None

        def spread(name: str, filler: Any) -> list[Any]:
            other = None if second is None else getattr(second, name)[b]
            return self.spread(getattr(first, name)[a], other, special, filler)

        return Encoding(
            ids=ids,
            tokens=tokens,
            offsets=spread("offsets", (0, 0)),
            word_ids=spread("words", None),
            sequence_ids=self.spread([0] * size_a, None if size_b is None else [1] * size_b, special, None),
            type_ids=self.types(size_a, size_b, special),
            special_tokens_mask=self.special_mask(size_a, size_b, special),
            attention_mask=[1] * len(ids),
            n_sequences=2 if pair else 1,
        )


def padded_length(rows: Sequence[Sequence[int]], options: Options) -> int | None:
    """The length every row gets, None where rows stay as they are."""
    if options.padding is PaddingStrategy.DO_NOT_PAD:
        return None
    if options.padding is PaddingStrategy.LONGEST:
        length = max(map(len, rows), default=0)
    else:
        length = options.max_length or 0
    multiple = options.pad_to_multiple_of
    if multiple:
        length = -(-length // multiple) * multiple
    return length


def pad_rows(data: dict[str, list[Any]], fill: dict[str, Any], length: int | None, side: str) -> None:
    """Lengthen in place the lists of every key in ``fill`` to ``length``; longer rows stay."""
    if length is None:
        return
    if side not in ("left", "right"):
        raise InputError(f"padding_side is {side!r}: it must be 'left' or 'right'")
    for key, value in fill.items():
        if key not in data:
            continue
        rows = data[key]
        for index, row in enumerate(rows):
            missing = length - len(row)
            if missing > 0:
                rows[index] = row + [value] * missing if side == "right" else [value] * missing + row


def pad_encoding(row: Encoding, length: int | None, side: str, pad: tuple[str, int, int]) -> None:
    """Lengthen a row's every list in place; ``pad`` is the padding token, its id and its type."""
    missing = 0 if length is None else length - len(row.ids)
    if missing <= 0:
        return
    fillers: dict[str, Any] = {
        "ids": pad[1], "tokens": pad[0], "offsets": (0, 0), "word_ids": None, "sequence_ids": None,
        "type_ids": pad[2], "special_tokens_mask": 1, "attention_mask": 0,
    }  # fmt: skip
    for name, filler in fillers.items():
        extra = [filler] * missing
        value = getattr(row, name)
        setattr(row, name, value + extra if side == "right" else extra + value)
