"""Which texts the two references of XLM-R might normalise differently, as one regular expression."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

_BMP = 0x10000
# Astral characters that extend a cluster: skin tones, tags, variation selectors.
_ASTRAL = "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef"
_PREPENDED = "[\u0600-\u0605\u06dd\u070f\u08e2\u0d4e]"


def cluster_pattern(ruled: NDArray[np.bool_], followers: NDArray[np.bool_]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """``(quick, exact)``: both are found in every text for which normalisation by clusters might give another result.

    ``quick`` is one class of characters, which most texts lack; ``exact`` looks at neighbours.
    ``ruled`` (0x10000,) marks characters with an entry of their own, ``followers`` those that may come later in an entry of
    several. The results can differ where a mark (or another extender of clusters) follows a ruled character or a composed
    one, where a follower makes a cluster of six bytes, at a CR LF, and at U+0085 and U+2581, which only one of them strips.
    """
    extenders = np.zeros(_BMP, bool)
    extenders[[c for c in range(0x300, _BMP) if unicodedata.category(chr(c))[0] == "M"]] = True
    extenders[[0x200C, 0x200D, 0xFF9E, 0xFF9F]] = True
    jamo = np.zeros(_BMP, bool)
    jamo[0x1160:0x1200] = jamo[0xD7B0:0xD7FC] = True
    extenders |= jamo
    real = ruled.copy()
    real[0xD800:0xE000] = False
    extending, composing = _class(extenders), _class(followers & extenders | jamo)
    quick = re.compile(f"[{extending}{composing}{_ASTRAL}{_PREPENDED[1:-1]}\r\x85\u2581]")
    return quick, re.compile(
        f"[{_class(real)}][{extending}{_ASTRAL}]|[{composing}][{extending}{_ASTRAL}]|[\u0800-\uffff][{composing}]"
        f"|{_PREPENDED}|\r\n|\x85\\s*$|\u2581"
    )


def _class(mask: NDArray[np.bool_]) -> str:
    """The inside of brackets."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return "".join(f"{re.escape(chr(low))}-{re.escape(chr(high - 1))}" for low, high in edges.reshape(-1, 2).tolist())
