"""A request as those see it who work for it: wanted until when, and how it may end without an answer."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

from xlm.errors import XLMError


class Overloaded(XLMError):
    """Too much waits already; ``seconds`` is when to try again."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = max(1, round(seconds))


class Abandoned(XLMError):
    """Nobody waits for the answer any more: the client has gone or its time is over."""


class Died(XLMError):
    """The model's thread has ended; nothing can be computed any more."""


class Ticket:
    """One request: whether anybody still wants it, until when, and what it cost."""

    def __init__(self, seconds: float = float("inf")) -> None:
        self.deadline = time.monotonic() + seconds
        self.tokens = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Nobody wants it any more; rows that still wait are dropped."""
        self._cancelled.set()

    @property
    def over(self) -> bool:
        """Cancelled, or too late."""
        return self._cancelled.is_set() or time.monotonic() > self.deadline


current_ticket: ContextVar[Ticket | None] = ContextVar("current_ticket", default=None)
