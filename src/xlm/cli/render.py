"""Text of every script, percentages and shades as rich prints them."""

from __future__ import annotations

import unicodedata

from rich.text import Text

_RIGHT_TO_LEFT = {"R", "AL", "AN"}
_MARK = "\u200e"
"""The left-to-right mark: no width, no ink."""


def anchored(text: str) -> str:
    """The text, with a mark behind it when it runs from right to left.

    On terminals that reorder such texts, the mark keeps the numbers and columns behind it where they are.
    """
    return text + _MARK if any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in text) else text


def percent(share: float) -> Text:
    """``12.3 %``; what rounds to zero is ``<0.1 %``."""
    return Text("<0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %"))


def shade(value: float, low: float, high: float) -> str:
    """A rich style: a background from dark blue (``low``) to yellow (``high``), with a text colour that can be read on it."""
    stops = [(13, 22, 70), (30, 80, 140), (40, 140, 130), (130, 190, 70), (250, 225, 60)]
    at = min(max((value - low) / (high - low or 1.0), 0.0), 1.0) * (len(stops) - 1)
    left = min(int(at), len(stops) - 2)
    red, green, blue = (round(a + (b - a) * (at - left)) for a, b in zip(stops[left], stops[left + 1], strict=True))
    ink = "rgb(0,0,0)" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "rgb(255,255,255)"
    return f"{ink} on rgb({red},{green},{blue})"
