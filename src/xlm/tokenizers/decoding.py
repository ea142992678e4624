"""Ids back to text."""

from __future__ import annotations

from typing import Any

from xlm.tokenizers.special import SpecialTokens

_CLEANUP = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"))
_CLEANUP += ((" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))


class Decoding(SpecialTokens):
    """``decode`` and ``batch_decode``. Mixed into :class:`xlm.tokenizers.base.Tokenizer`."""

    clean_up_tokenization_spaces: bool

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> list[str]:
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, **options) for row in sequences]

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> str:
        """The text of a row of ids; ``clean_up_tokenization_spaces`` takes away spaces before English punctuation."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, int):
            # As in the reference, one id by itself is shown even if it is special.
            ids, skip_special_tokens = [ids], skip_special_tokens and self.FAST
        else:
            ids = [int(index) for index in ids]
        text = self._decode(ids, skip_special_tokens, options.get("spaces_between_special_tokens", True))
        cleanup = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        return self.clean_up_tokenization(text) if cleanup else text

    def _decode(self, ids: list[int], skip_special: bool, spaces: bool) -> str:
        """The reference's Python rule: tokens added by the user stand apart from the text between them."""
        special = set(self.all_special_tokens)
        apart = set(self._encoder) - special
        apart |= {t for t in self.additional_special_tokens if self.convert_tokens_to_ids(t) >= self.vocab_size}
        texts: list[str] = []
        run: list[str] = []
        for token in [*self.convert_ids_to_tokens(ids, skip_special), None]:
            if token is not None and token not in apart:
                run.append(token)
                continue
            if run:
                string = self.convert_tokens_to_string(run)
                if string or token is None:
                    texts.append(string)
                run = []
            if token is not None:
                texts.append(token)
        return (" " if spaces else "").join(texts)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        raise NotImplementedError

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        for spaced, closed in _CLEANUP:
            out_string = out_string.replace(spaced, closed)
        return out_string
