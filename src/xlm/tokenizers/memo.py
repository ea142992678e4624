"""What a function of a string returned, remembered for a bounded number of strings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")

# Strings longer than this are rare, rarely come again, and would make the bound on entries no bound on memory.
LONGEST = 64


class Memo(dict[str, Value], Generic[Value]):
    """``memo[key]`` is ``function(key)``; known keys cost one look-up in C, so ``map(memo.__getitem__, keys)`` is quick.

    Two generations of at most ``size`` entries: when the young one is full it becomes the old one, and what is asked for
    again comes back, so that frequent words stay whatever passes through.
    """

    def __init__(self, function: Callable[[str], Value], size: int) -> None:
        super().__init__()
        self._function, self._size = function, size
        self._old: dict[str, Value] = {}

    def __missing__(self, key: str) -> Value:
        old = self._old.pop(key, None)
        value = self._function(key) if old is None else old
        if len(key) <= LONGEST:
            self.remember({key: value})
        return value

    def remember(self, found: dict[str, Value]) -> None:
        """Take in what was found elsewhere."""
        if len(self) + len(found) > self._size:
            self._old = dict(self)
            self.clear()
        self.update(found)
