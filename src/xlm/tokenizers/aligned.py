"""Text that remembers where each of its characters came from, through substitutions, case and decomposition."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from xlm.pauses import pause

_GROUP = re.compile(r"\\(\d)")


@lru_cache(maxsize=512)
def _template(replacement: str) -> tuple[str | int, ...]:
    """``"\\1 , "`` as ``("", 1, " , ")`` without empty strings."""
    parts = _GROUP.split(replacement)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts) if i % 2 or part)


class Aligned:
    """``text`` and for every character the span ``start, end`` of the original that it stands for.

    Every operation does to ``text`` exactly what the plain string operation of the same name does.
    """

    __slots__ = ("spans", "text")

    def __init__(self, text: str, spans: list[tuple[int, int]] | None = None) -> None:
        self.text = text
        self.spans = [(i, i + 1) for i in range(len(text))] if spans is None else spans

    def _cover(self, low: int, high: int) -> tuple[int, int]:
        """The original span of characters ``low:high``; of nothing, the point where it would be."""
        if low < high:
            return self.spans[low][0], max(self.spans[low][1], self.spans[high - 1][1])
        if low < len(self.spans):
            return self.spans[low][0], self.spans[low][0]
        return (self.spans[-1][1], self.spans[-1][1]) if self.spans else (0, 0)

    def sub(self, pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str]) -> Aligned:
        pause()
        text: list[str] = []
        spans: list[tuple[int, int]] = []
        done = 0
        for match in pattern.finditer(self.text):
            low, high = match.span()
            text.append(self.text[done:low])
            spans.extend(self.spans[done:low])
            parts = _template(replacement) if isinstance(replacement, str) else (replacement(match),)
            for part in parts:
                if isinstance(part, int):
                    begin, end = match.span(part)
                    text.append(self.text[begin:end])
                    spans.extend(self.spans[begin:end])
                else:
                    text.append(part)
                    spans.extend([self._cover(low, high)] * len(part))
            done = high
        if not text:
            return self
        text.append(self.text[done:])
        spans.extend(self.spans[done:])
        return Aligned("".join(text), spans)

    def strip(self) -> Aligned:
        low = len(self.text) - len(self.text.lstrip())
        return Aligned(self.text.strip(), self.spans[low : low + len(self.text.strip())])

    def keep(self, wanted: Callable[[str], bool], joined: bool = False) -> Aligned:
        """The wanted characters; with ``joined`` each stands for the unwanted ones behind it as well."""
        text: list[str] = []
        spans: list[tuple[int, int]] = []
        for char, span in zip(self.text, self.spans, strict=True):
            if wanted(char):
                text.append(char)
                spans.append(span)
            elif joined and spans:
                spans[-1] = (spans[-1][0], max(spans[-1][1], span[1]))
        return Aligned("".join(text), spans)

    def each(self, change: Callable[[str], str]) -> Aligned:
        """Every character replaced by what ``change`` makes of it."""
        pause()
        new = [change(char) for char in self.text]
        return Aligned("".join(new), [s for part, s in zip(new, self.spans, strict=True) for _ in part])

    def lower(self) -> Aligned:
        whole = self.text.lower()
        changed = self.each(str.lower)
        # Only a final sigma depends on its neighbours, and it does not change the length.
        return Aligned(whole, changed.spans) if len(whole) == len(changed.text) else changed

    def decompose(self) -> Aligned:
        """Canonical decomposition: every character by itself, then marks in canonical order."""
        plain = self.each(lambda char: unicodedata.normalize("NFD", char))
        pairs = list(zip(plain.text, plain.spans, strict=True))
        low = 0
        while low < len(pairs):
            high = low
            while high < len(pairs) and unicodedata.combining(pairs[high][0]):
                high += 1
            if high - low > 1:
                pairs[low:high] = sorted(pairs[low:high], key=lambda pair: unicodedata.combining(pair[0]))
            low = high + 1
        return Aligned("".join(char for char, _ in pairs), [span for _, span in pairs])

    def words(self, separator: str | None = None) -> list[Aligned]:
        """``text.split(separator)``, empty words of a given separator included."""
        if separator is not None:
            pieces, at = self.text.split(separator), 0
            found: list[Aligned] = []
            for piece in pieces:
                found.append(Aligned(piece, self.spans[at : at + len(piece)]))
                at += len(piece) + len(separator)
            return found
        return [Aligned(m.group(), self.spans[m.start() : m.end()]) for m in re.finditer(r"\S+", self.text)]

    @property
    def span(self) -> tuple[int, int]:
        """What the whole covers: from the first original character to the last."""
        if not self.spans:
            return 0, 0
        return min(start for start, _ in self.spans), max(end for _, end in self.spans)


def join(words: list[Aligned]) -> Aligned:
    """``" ".join(words)``; a space stands for the point after the word before it."""
    text = " ".join(word.text for word in words)
    spans: list[tuple[int, int]] = []
    for number, word in enumerate(words):
        if number:
            end = spans[-1][1] if spans else 0
            spans.append((end, end))
        spans.extend(word.spans)
    return Aligned(text, spans)
