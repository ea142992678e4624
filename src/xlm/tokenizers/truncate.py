"""Which tokens of a sequence or pair stay when there is room for fewer, and which windows the rest makes.

Everything is said in index ranges, so the same plan cuts ids, offsets and words.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from xlm.errors import InputError
from xlm.tokenizers.options import TruncationStrategy

logger = logging.getLogger("xlm")
Range = tuple[int, int]


@dataclass(slots=True)
class Plan:
    """``first`` and ``second`` stay; ``overflow`` (of the sequence ``side``) is what the list of overflowing tokens holds."""

    first: Range
    second: Range | None
    overflow: Range = (0, 0)
    side: int = 0
    windows: list[tuple[Range, Range | None]] = field(default_factory=list)


def _cut(length: int, remove: int, left: bool) -> Range:
    return (remove, length) if left else (0, length - remove)


def slow_plan(
    first: int, second: int | None, remove: int, strategy: TruncationStrategy, stride: int, side: str
) -> Plan:
    """The reference's Python rule: remove ``remove`` tokens; too short a sequence is left alone (and logged)."""
    if side not in ("left", "right"):
        raise InputError(f"truncation_side is {side!r}: it must be 'left' or 'right'")
    left = side == "left"
    plan = Plan((0, first), None if second is None else (0, second))
    if remove <= 0 or strategy is TruncationStrategy.DO_NOT_TRUNCATE:
        return plan
    if strategy is TruncationStrategy.LONGEST_FIRST and second is not None:
        alone = min(abs(second - first), remove)
        shared = remove - alone
        from_first = shared // 2 + (alone if first > second else 0)
        from_second = remove - from_first
        if first > second:
            from_first, from_second = alone + shared // 2, shared - shared // 2
        plan.first = _cut(first, from_first, left) if from_first < first or left else (0, 0)
        plan.second = _cut(second, from_second, left) if from_second < second or left else (0, 0)
        return plan
    chosen = 1 if strategy is TruncationStrategy.ONLY_SECOND else 0
    length = (first, second)[chosen]
    if length is None:
        return plan
    if length <= remove:
        name = ("first", "second")[chosen]
        logger.error("%d tokens must go, but the %s sequence has only %d: nothing is cut", remove, name, length)
        return plan
    window = min(length, stride + remove)
    plan.overflow, plan.side = ((0, window) if left else (length - window, length)), chosen
    if chosen:
        plan.second = _cut(length, remove, left)
    else:
        plan.first = _cut(length, remove, left)
    return plan


def _windows(length: int, room: int, stride: int, left: bool) -> list[Range]:
    """Windows of ``room`` tokens that overlap by ``stride``, from the side that stays."""
    if room >= length:
        return [(0, length)]
    if room <= 0:
        return [(0, 0), (0, length)]
    if stride >= room:
        raise InputError(f"stride is {stride}: it must be less than {room}, the room that max_length leaves for text")
    step = room - stride
    found: list[Range] = []
    if left:
        for stop in range(length, 0, -step):
            found.append((max(0, stop - room), stop))
            if found[-1][0] == 0:
                break
    else:
        for start in range(0, length, step):
            found.append((start, min(start + room, length)))
            if found[-1][1] == length:
                break
    return found


def fast_plan(first: int, second: int | None, room: int, strategy: TruncationStrategy, stride: int, side: str) -> Plan:
    """The reference's compiled rule: ``room`` tokens stay in all, the rest becomes windows."""
    whole = Plan((0, first), None if second is None else (0, second))
    total = first + (second or 0)
    if strategy is TruncationStrategy.DO_NOT_TRUNCATE or total <= room:
        return whole
    if room < stride or (room == stride and room > 0):
        raise InputError(f"stride is {stride}: it must be less than {room}, the room that max_length leaves for text")
    left = side == "left"
    if room <= 0:
        room = 0
        keep_first, keep_second = 0, 0 if second is not None else None
    elif strategy is TruncationStrategy.LONGEST_FIRST and second is not None:
        short, long = sorted((first, second))
        long = short if short > room else max(short, room - short)
        if short + long > room:
            short = room // 2
            long = short + room % 2
        keep_first, keep_second = (short, long) if first <= second else (long, short)
    else:
        keep_first, keep_second = first, second
        remove = total - room
        if strategy is TruncationStrategy.ONLY_SECOND:
            if second is None:
                raise InputError("truncation is 'only_second', but there is no second sequence")
            keep_second = second - remove
        else:
            keep_first = first - remove
        on_second = strategy is TruncationStrategy.ONLY_SECOND
        if ((keep_second or 0) if on_second else keep_first) <= 0:
            name = "second" if on_second else "first"
            raise InputError(
                f"the {name} sequence is too short to lose {remove} tokens: max_length leaves room for {room}"
            )
    firsts = _windows(first, keep_first, stride, left)
    seconds: list[Range | None] = [None] if second is None else [*_windows(second, keep_second or 0, stride, left)]
    whole.first, whole.second = firsts[0], seconds[0]
    whole.windows = [(a, b) for a in firsts[1:] for b in seconds] + [(firsts[0], b) for b in seconds[1:]]
    return whole
