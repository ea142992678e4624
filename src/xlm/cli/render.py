"""Text of every script, percentages and shades as rich prints them."""

from __future__ import annotations

import unicodedata

from rich.text import Text

_RIGHT_TO_LEFT = {"R", "AL", "AN"}
# Zero-width: they keep a right-to-left text from reordering the columns beside it on terminals that reorder at all.
_ISOLATE, _END = "\u2068", "\u2069"


def isolated(text: str) -> str:
    """The text, marked as one piece when letters in it run from right to left."""
    if any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in text):
        return f"{_ISOLATE}{text}{_END}"
    return text


def percent(share: float) -> Text:
    """``12.3 %``; what rounds to zero is ``<0.1 %``."""
    return Text("<0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %"))


def shade(value: float, low: float, high: float) -> str:
    """A rich style: a background from dark blue (``low``) to yellow (``high``), with a text colour that can be read on it."""
    stops = [(13, 22, 70), (30, 80, 140), (40, 140, 130), (130, 190, 70), (250, 225, 60)]
    at = min(max((value - low) / (high - low or 1.0), 0.0), 1.0) * (len(stops) - 1)
    left = min(int(at), len(stops) - 2)
    red, green, blue = (round(a + (b - a) * (at - left)) for a, b in zip(stops[left], stops[left + 1], strict=True))
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"
    return f"{ink} on rgb({red},{green},{blue})"
