"""Translation: sentences -> rows for an encoder-decoder, and the ids that it writes -> text. No framework here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xlm.errors import InputError
from xlm.tokenizers.detokenize import detokenize

Ids = NDArray[np.int64]


class Sentences:
    """Sentences as an encoder-decoder takes them: ``first token, text, </s>``, XLM's first token being ``</s>`` too.

    Args:
        config: an :class:`xlm.EncoderDecoderConfig`.
        max_tokens: of a row, special tokens included.
    """

    def __init__(self, tokenizer: Any, config: Any, max_tokens: int) -> None:
        self.tokenizer, self.config, self.max_tokens = tokenizer, config, max_tokens
        end = config.eos_token_id
        self.end = int(end[0] if isinstance(end, list) else end)
        self.pad = int(config.pad_token_id)
        self._special = set(tokenizer.all_special_ids)

    def encode(self, texts: Sequence[str], language: str | None) -> list[Ids]:
        """The ids of every text without special tokens, by its language's rules where the tokenizer has such."""
        if not texts:
            return []
        options: dict[str, Any] = {}
        if "lang" in self.tokenizer.TEXT_OPTIONS:
            known = self.tokenizer.lang2id
            options["lang"] = language if not known or language in known else None
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False, **options)["input_ids"]
        return [np.asarray(ids, np.int64) for ids in found]

    def row(self, ids: Ids, first: int) -> Ids:
        """A row of the text's ids."""
        return np.concatenate([[first], ids, [self.end]])

    def fits(self, ids: Ids) -> bool:
        """Whether a text has a token, and not more than a row holds."""
        return 0 < len(ids) <= self.max_tokens - 2

    def check(self, texts: Sequence[str], ids: Sequence[Ids], name: str) -> None:
        """Raise InputError naming the first text that is empty or too long to be translated."""
        for number, (text, one) in enumerate(zip(texts, ids, strict=True), 1):
            if not len(one):
                raise InputError(f"{name} {number}: the text is empty ({text!r})")
            if not self.fits(one):
                raise InputError(
                    f"{name} {number}: {len(one) + 2} tokens with the special ones, the limit is {self.max_tokens}"
                )

    def written(self, row: Sequence[int]) -> Ids:
        """The text's ids of a row as it was generated: what stands between the first token and the end."""
        ids = list(row)[1:]
        ids = ids[: ids.index(self.end)] if self.end in ids else ids
        return np.asarray([token for token in ids if token not in self._special], np.int64)

    def text(self, ids: Ids | Sequence[int], language: str | None = None) -> str:
        """Ids without special tokens as text; words that were separated by a language's rules are joined by them again."""
        text = str(self.tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)).strip()
        return detokenize(text.split(), language) if "lang" in self.tokenizer.TEXT_OPTIONS else text
