"""The noise of denoising auto-encoding (Lample et al. 2018, arXiv:1711.00043): words moved, left out or blanked.

Whole words, never parts of one: the pieces of a word share their fate. NumPy only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlm.errors import ConfigError

Ids = NDArray[np.int64]
_END = "</w>"  # XLM's pieces mark the end of a word, SentencePiece's its beginning
_BEGIN = "▁"
# Of scripts that put no spaces between words: Thai and Lao, Myanmar, Khmer, kana, Han. Marks on a letter are none of these.
_UNSPACED = re.compile(
    "[\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e50-\u0e59\u0e81-\u0eb0\u0eb2\u0eb3\u0ec0-\u0ec6\u0ed0-\u0edf"
    "\u1000-\u102a\u103f-\u1055\u1780-\u17b3\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Noise:
    """How a sentence is damaged: XLM's constants.

    Attributes:
        shuffle: a word moves by less than so many places; 0: none moves.
        dropout: the chance of a word to be left out; one word always stays.
        blank: the chance of a word's pieces to become the mask token.
    """

    shuffle: float = 3.0
    dropout: float = 0.1
    blank: float = 0.1

    def __post_init__(self) -> None:
        if not self.shuffle >= 0:
            raise ConfigError(f"noise.shuffle is {self.shuffle}: it must be at least 0 words")
        for name in ("dropout", "blank"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"noise.{name} is {getattr(self, name)}: it must be at least 0 and below 1")

    def __call__(self, ids: Ids, words: NDArray[np.int64], mask_id: int, rng: np.random.Generator) -> Ids:
        """A damaged copy of ``ids`` (tokens,), which are without special tokens; ``words`` (tokens,) numbers their words."""
        if not len(ids):
            return ids
        count = int(words[-1]) + 1
        if self.shuffle:
            # A word's key is its number and up to ``shuffle`` more; the pieces of a word keep their order.
            keys = np.arange(count) + rng.uniform(0, self.shuffle, count)
            order = np.argsort(keys[words], kind="stable")
            ids, words = ids[order], words[order]
        if self.dropout:
            kept = rng.random(count) >= self.dropout
            if not kept.any():
                kept[rng.integers(count)] = True
            ids, words = ids[kept[words]], words[kept[words]]
        if self.blank:
            ids = np.where((rng.random(count) < self.blank)[words], mask_id, ids)
        return ids


class Words:
    """Which word each piece of a sentence belongs to.

    SentencePiece does not say where words begin in scripts without spaces: a piece that begins with a letter of one is taken
    for a word.

    Args:
        pieces: the text of every id of the vocabulary.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        ends = np.array([piece.endswith(_END) for piece in pieces], bool)
        self._ends: NDArray[np.bool_] | None = ends if ends.any() else None
        self._begins = np.array([piece.startswith(_BEGIN) for piece in pieces], bool)
        self._unspaced = np.array([_UNSPACED.match(piece) is not None for piece in pieces], bool)
        self._bare = np.array([piece == _BEGIN for piece in pieces], bool)

    def __call__(self, ids: Ids) -> NDArray[np.int64]:
        """Numbers (tokens,) from 0, the same for the pieces of one word."""
        if self._ends is None:
            begins = self._begins[ids]
            begins[1:] |= self._unspaced[ids[1:]] & ~self._bare[ids[:-1]]  # a bare mark belongs to what follows
        else:
            begins = np.concatenate([[True], self._ends[ids[:-1]]]) if len(ids) else np.zeros(0, bool)
        begins[:1] = True
        return np.cumsum(begins) - 1
