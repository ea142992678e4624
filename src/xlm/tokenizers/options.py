"""``padding``, ``truncation`` and their older spellings resolved to one strategy each, checked together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from xlm.errors import InputError

logger = logging.getLogger("xlm")

VERY_LARGE = int(1e30)
_LARGE = int(1e20)


class PaddingStrategy(StrEnum):
    """To the longest row, to ``max_length``, or not at all."""

    LONGEST = "longest"
    MAX_LENGTH = "max_length"
    DO_NOT_PAD = "do_not_pad"


class TruncationStrategy(StrEnum):
    """Which sequence of a pair is shortened."""

    ONLY_FIRST = "only_first"
    ONLY_SECOND = "only_second"
    LONGEST_FIRST = "longest_first"
    DO_NOT_TRUNCATE = "do_not_truncate"


_Kind = TypeVar("_Kind", PaddingStrategy, TruncationStrategy)


def _strategy(kind: type[_Kind], name: str, value: Any) -> _Kind:
    try:
        return kind(getattr(value, "value", value))
    except ValueError:
        raise InputError(f"{name} is {value!r}: it must be True, False or one of {', '.join(kind)}") from None


@dataclass(frozen=True, slots=True)
class Options:
    """One call's settings, resolved."""

    padding: PaddingStrategy = PaddingStrategy.DO_NOT_PAD
    truncation: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE
    max_length: int | None = None
    stride: int = 0
    add_special_tokens: bool = True
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    return_tensors: Any = None
    token_type_ids: bool = False
    attention_mask: bool = True
    overflowing_tokens: bool = False
    special_tokens_mask: bool = False
    offsets_mapping: bool = False
    length: bool = False
    asked_token_type_ids: bool | None = None
    verbose: bool = True


def resolve(
    padding: Any,
    truncation: Any,
    max_length: int | None,
    multiple: int | None,
    model_max_length: float,
    old: dict[str, Any],
) -> tuple[PaddingStrategy, TruncationStrategy, int | None]:
    """The strategies and the length that hold. ``old`` may carry ``truncation_strategy`` and ``pad_to_max_length``."""
    old_truncation = old.pop("truncation_strategy", "do_not_truncate")
    old_padding = old.pop("pad_to_max_length", False)
    if max_length is not None and padding is False and truncation is None:
        logger.debug("max_length %s was given without truncation: longest_first is used", max_length)
        truncation = "longest_first"
    if padding is False and old_padding:
        pad = PaddingStrategy.LONGEST if max_length is None else PaddingStrategy.MAX_LENGTH
    elif padding is False:
        pad = PaddingStrategy.DO_NOT_PAD
    else:
        pad = PaddingStrategy.LONGEST if padding is True else _strategy(PaddingStrategy, "padding", padding)
    if truncation is None and getattr(old_truncation, "value", old_truncation) != "do_not_truncate":
        cut = _strategy(TruncationStrategy, "truncation_strategy", old_truncation)
    elif truncation is None or truncation is False:
        cut = TruncationStrategy.DO_NOT_TRUNCATE
    elif truncation is True:
        cut = TruncationStrategy.LONGEST_FIRST
    else:
        cut = _strategy(TruncationStrategy, "truncation", truncation)
    if max_length is None:
        known = model_max_length <= _LARGE
        if pad is PaddingStrategy.MAX_LENGTH:
            if known:
                max_length = int(model_max_length)
            else:
                logger.warning("padding='max_length' without a maximum length: rows are not padded")
                pad = PaddingStrategy.DO_NOT_PAD
        if cut is not TruncationStrategy.DO_NOT_TRUNCATE:
            if known:
                max_length = int(model_max_length)
            else:
                logger.warning("truncation without a maximum length: rows are not truncated")
                cut = TruncationStrategy.DO_NOT_TRUNCATE
    both = cut is not TruncationStrategy.DO_NOT_TRUNCATE and pad is not PaddingStrategy.DO_NOT_PAD
    if both and multiple is not None and max_length is not None and max_length % multiple:
        raise InputError(
            f"max_length {max_length} is not a multiple of pad_to_multiple_of {multiple}: rows are cut and padded"
        )
    return pad, cut, max_length
