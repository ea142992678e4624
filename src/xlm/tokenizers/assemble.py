"""From the texts of a call to its rows: which texts there are, what their ids are, what is cut and put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from xlm.errors import InputError
from xlm.pauses import in_pieces
from xlm.tokenizers.encoding import BatchEncoding, Encoding, Span
from xlm.tokenizers.options import Options, TruncationStrategy
from xlm.tokenizers.prepare import Preparation
from xlm.tokenizers.rows import Detail, Template, pad_encoding, pad_rows, padded_length
from xlm.tokenizers.special import logger
from xlm.tokenizers.truncate import Plan, fast_plan, slow_plan

# Rows of ids with their special tokens, and the offsets of every token where they were asked for.
Finished = tuple[list[list[int]], list[list[Span]] | None]


class Assembly(Preparation):
    """Abstract: the part of :class:`xlm.tokenizers.base.Tokenizer` between its calls and what a subclass knows of text."""

    TEMPLATE: ClassVar[Template]
    model_max_length: Any
    max_characters: int | None
    padding_side: str
    truncation_side: str

    # ---- what a subclass gives -------------------------------------------------------------------------------------
    def _content(self, texts: list[str], **options: Any) -> list[list[int]]:
        """Ids of every text, without what the template adds."""
        raise NotImplementedError

    def _details(self, texts: list[str], **options: Any) -> list[Detail]:
        """The same ids with tokens, offsets into the text, and words."""
        raise NotImplementedError

    # ---- rows ------------------------------------------------------------------------------------------------------
    def _encode(
        self, items: list[tuple[Any, Any]], options: Options, rest: dict[str, Any], single: bool
    ) -> BatchEncoding:
        texts: list[str] = []
        shapes = [
            (self._shape(a, options, texts), None if b is None else self._shape(b, options, texts)) for a, b in items
        ]
        self._check_sizes(texts)
        ids_of = [ids for low, high in in_pieces(texts) for ids in self._content(texts[low:high], **rest)]
        sides = [(self._ids(a, ids_of), None if b is None else self._ids(b, ids_of)) for a, b in shapes]
        plans = [self._plan(len(a), None if b is None else len(b), options) for a, b in sides]
        details: list[tuple[Detail, Detail | None]] | None = None

        def rows() -> list[Encoding]:
            nonlocal details
            if details is None:
                done = [one for low, high in in_pieces(texts) for one in self._details(texts[low:high], **rest)]
                details = [(_detail(a, done), None if b is None else _detail(b, done)) for a, b in shapes]
            return self._encodings(details, plans, options)

        known = all(shape[0] != "ids" for pair in shapes for shape in pair if shape is not None)
        source: Callable[[], list[Encoding]] | None = rows if known else None
        if options.offsets_mapping and source is None:
            raise InputError("return_offsets_mapping needs texts; ids or tokens have no text to point into")
        build = self._fast_rows if self.FAST else self._slow_rows
        return build(sides, plans, options, single, source)

    def _check_sizes(self, texts: list[str]) -> None:
        """Before anything is done: no text may be longer than ``max_characters`` where that is set."""
        limit = self.max_characters
        if limit is not None and max(map(len, texts), default=0) > limit:
            number, size = next((number, len(text)) for number, text in enumerate(texts) if len(text) > limit)
            raise InputError(
                f"text {number} has {size:,} characters: max_characters is {limit:,}; split or cut the text"
            )

    @staticmethod
    def _plain_batch(options: Options) -> bool:
        """Whether rows are wanted as the model takes them, with offsets or without, and nothing beside them."""
        extras = (options.overflowing_tokens, options.special_tokens_mask, options.length, options.is_split_into_words)
        uncut = options.truncation is TruncationStrategy.DO_NOT_TRUNCATE
        return uncut and options.add_special_tokens and not any(extras)

    def _finished(self, texts: list[str], **options: Any) -> Finished | None:
        """Rows with special tokens made at once, None where that is not possible."""
        return None

    def _spanned(self, texts: list[str], **options: Any) -> Finished | None:
        """The same with offsets."""
        return None

    @staticmethod
    def _in_pieces(
        texts: list[str], finish: Callable[..., Finished | None], options: dict[str, Any]
    ) -> Finished | None:
        """``finish(texts)``, piece by piece where they are long."""
        rows: list[list[int]] = []
        offsets: list[list[Span]] = []
        for low, high in in_pieces(texts):
            finished = finish(texts[low:high], **options)
            if finished is None:
                return None
            rows += finished[0]
            offsets += finished[1] or []
        return rows, offsets if len(offsets) == len(rows) else None

    def _plain_rows(
        self,
        ids: list[list[int]],
        offsets: list[list[Span]] | None,
        texts: list[str],
        options: Options,
        rest: dict[str, Any],
    ) -> BatchEncoding:
        lengths = [len(row) for row in ids]

        def rows() -> list[Encoding]:
            details: list[tuple[Detail, Detail | None]] = [
                (row, None) for low, high in in_pieces(texts) for row in self._details(texts[low:high], **rest)
            ]
            return self._encodings(details, [Plan((0, len(d.ids)), None) for d, _ in details], options)

        data: dict[str, Any] = {"input_ids": ids}
        if options.token_type_ids:
            data["token_type_ids"] = [[0] * length for length in lengths]
        if options.attention_mask:
            data["attention_mask"] = [[1] * length for length in lengths]
        if offsets is not None:
            data["offset_mapping"] = offsets
        self._finish(data, options)
        self._warn_length(max(lengths, default=0), options)
        return BatchEncoding(data, rows, options.return_tensors, fast=self.FAST)

    def _shape(self, value: Any, options: Options, texts: list[str]) -> tuple[Any, ...]:
        """Where the ids of ``value`` will come from: texts ``start:end``, or the ids that it is already."""
        start = len(texts)
        if isinstance(value, str):
            texts.append(value)
            return ("text", start, start + 1)
        if isinstance(value, list | tuple):
            if options.is_split_into_words and all(isinstance(word, str) for word in value):
                texts.extend(value)
                return ("words", start, len(texts))
            if len(value) and all(isinstance(token, str) for token in value):
                return ("ids", [self.convert_tokens_to_ids(token) for token in value])
            if len(value) and all(isinstance(token, int) and not isinstance(token, bool) for token in value):
                return ("ids", list(value))
        raise InputError(
            f"input {value!r:.80} is {type(value).__name__}: a str, a list of str or a list of int is needed"
        )

    @staticmethod
    def _ids(shape: tuple[Any, ...], ids_of: list[list[int]]) -> list[int]:
        if shape[0] == "ids":
            return shape[1]
        rows = ids_of[shape[1] : shape[2]]
        return rows[0] if len(rows) == 1 else [index for row in rows for index in row]

    def _plan(self, first: int, second: int | None, options: Options) -> Plan:
        added = self.TEMPLATE.added(second is not None) if options.add_special_tokens else 0
        limit = options.max_length if options.truncation is not TruncationStrategy.DO_NOT_TRUNCATE else None
        if not limit or first + (second or 0) + added <= limit:
            return Plan((0, first), None if second is None else (0, second))
        if self.FAST:
            return fast_plan(first, second, limit - added, options.truncation, options.stride, self.truncation_side)
        remove = first + (second or 0) + added - limit
        return slow_plan(first, second, remove, options.truncation, options.stride, self.truncation_side)

    def _special_ids(self) -> dict[str, int]:
        names = {part for part in (*self.TEMPLATE.single, *self.TEMPLATE.pair) if isinstance(part, str)}
        return {name: self.convert_tokens_to_ids(str(self._special[f"{name}_token"])) for name in names}

    def _row_specials(self) -> dict[str, tuple[str, int]]:
        """Token and id of every special token that rows are made with."""
        return {name: (str(self._special[f"{name}_token"]), index) for name, index in self._special_ids().items()}

    def _encodings(
        self, details: list[tuple[Detail, Detail | None]], plans: list[Plan], options: Options
    ) -> list[Encoding]:
        special = self._row_specials()
        rows: list[Encoding] = []
        for (first, second), plan in zip(details, plans, strict=True):
            windows = [(plan.first, plan.second), *plan.windows]
            made = [self.TEMPLATE.encode(special, first, second, w, options.add_special_tokens) for w in windows]
            made[0].overflowing = made[1:]
            rows.extend(made if options.overflowing_tokens and self.FAST else made[:1])
        length = padded_length([row.ids for row in rows], options)
        if length is not None:
            pad = (str(self.pad_token), self.pad_token_id, self.pad_token_type_id)
            for row in rows:
                pad_encoding(row, length, self.padding_side, pad)
        return rows

    def _fill(self) -> dict[str, Any]:
        has_pad = self._special["pad_token"] is not None
        return {
            "input_ids": self.pad_token_id if has_pad else 0,
            "attention_mask": 0,
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
            "offset_mapping": (0, 0),
        }

    def _finish(self, data: dict[str, list[Any]], options: Options) -> None:
        pad_rows(data, self._fill(), padded_length(data["input_ids"], options), self.padding_side)

    def _warn_length(self, length: int, options: Options) -> None:
        if options.max_length is None and length > self.model_max_length and options.verbose:
            logger.warning("a row has %d tokens, the model takes %d", length, self.model_max_length)


def _detail(shape: tuple[Any, ...], done: Sequence[Detail]) -> Detail:
    found = done[shape[1] : shape[2]]
    return found[0] if shape[0] == "text" else Detail.of_words(found)
