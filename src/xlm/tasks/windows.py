"""Long rows -> windows that a model can take, overlapping so that every token is seen with something on both sides."""

from __future__ import annotations

from bisect import bisect_right

from xlm.errors import InputError

Window = tuple[int, int]


def windows(length: int, size: int, overlap: int = 0) -> list[Window]:
    """Windows ``[start, end)`` of at most ``size`` tokens over ``length``; neighbours share ``overlap`` tokens.

    Raises:
        InputError: ``size`` leaves no room, or the overlap is not smaller than it.
    """
    if size < 1:
        raise InputError(f"size is {size}: at least one token must fit into a window")
    if not 0 <= overlap < size:
        raise InputError(f"overlap is {overlap}: it must lie between 0 and {size - 1}, a window less one token")
    found = [(0, min(size, length))]
    while found[-1][1] < length:
        start = found[-1][0] + size - overlap
        found.append((start, min(start + size, length)))
    return found


def most_context(place: int, spans: list[Window]) -> int:
    """The window in which token ``place`` has the most tokens on its poorer side; the first among equals, or of all where
    none holds it. ``spans`` are as :func:`windows` gives them."""
    best, widest = 0, -1
    for number in range(bisect_right(spans, place, key=lambda span: span[1]), len(spans)):
        start, end = spans[number]
        if place < start:  # so are all behind it: a text may have thousands, of which few hold a token
            break
        room = min(place - start, end - 1 - place)
        if room > widest:
            best, widest = number, room
    return best
