"""Long work in pieces: between two of them whoever waits for its end may call it off.

A server says with :func:`asked` what to ask, which raises where nobody waits any more; code that may take seconds calls
:func:`pause` between its pieces. Where nothing is asked a pause costs next to nothing, and it never changes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_ask: ContextVar[Callable[[], None] | None] = ContextVar("ask", default=None)
PIECE = 1 << 17
"""Characters between two pauses: some tenths of a second of the slowest work on text."""


@contextmanager
def asked(ask: Callable[[], None]) -> Iterator[None]:
    """Call ``ask`` at every pause of this thread (or task) while the block runs; what it raises ends the work."""
    token = _ask.set(ask)
    try:
        yield
    finally:
        _ask.reset(token)


def pause() -> None:
    """Between two pieces of work: whether it is still wanted."""
    ask = _ask.get()
    if ask is not None:
        ask()


def in_pieces(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges of texts of about :data:`PIECE` characters, with a pause before each but the first; few texts are one range."""
    low = size = 0
    for number, text in enumerate(texts):
        size += len(text) + 1
        if size > PIECE:
            yield low, number + 1
            low, size = number + 1, 0
            if low < len(texts):
                pause()
    if low < len(texts):
        yield low, len(texts)
