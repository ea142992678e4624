"""The name of XLM-R's compiled tokenizer: the same engine, and what that reference does differently, fact by fact.

- Normalisation goes by grapheme cluster (:meth:`CharsMap.by_grapheme`); it is done in Python for the few texts where that
  makes a difference, which :class:`xlm.tokenizers.clusters.Clusters` finds.
- ``<mask>`` is looked for in the normalised text, and the white space before it belongs to it. Where ``tokenizer.json`` says
  that it is not normalised, ``＜mask＞`` is still the mask, being a piece of the vocabulary, but no white space belongs to it.
- A token's span includes the white space before it, unless ``tokenizer.json`` splits at white space first.
- Overflowing tokens become rows of their own; ids outside the vocabulary become None.
"""

from __future__ import annotations

import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from xlm import atomic
from xlm.errors import ArgumentError, InputError, MissingExtraError
from xlm.tokenizers import fastfile
from xlm.tokenizers.persist import FAST_FILE
from xlm.tokenizers.rows import Detail
from xlm.tokenizers.unigram import SPACE, clean
from xlm.tokenizers.xlm_roberta import XLMRobertaTokenizer

_SPACES = re.compile(" {2,}")
_MASK = "<mask>"


class XLMRobertaTokenizerFast(XLMRobertaTokenizer):
    """See the module. Takes ``vocab_file``, ``tokenizer_file`` or both."""

    FAST = True
    slow_tokenizer_class = XLMRobertaTokenizer

    def __init__(self, vocab_file: Any = None, tokenizer_file: Any = None, *args: Any, **options: Any) -> None:
        super().__init__(vocab_file, *args, tokenizer_file=tokenizer_file, **options)

    @property
    def can_save_slow_tokenizer(self) -> bool:
        return self.vocab_file is not None and os.path.isfile(self.vocab_file)

    # ---- where the two references normalise differently ----------------------------------------------------------------
    def _row_specials(self) -> dict[str, tuple[str, int]]:
        # The compiled reference fixes them when it is made: another sep_token later changes no row.
        return {"cls": ("<s>", self.convert_tokens_to_ids("<s>")), "sep": ("</s>", self.convert_tokens_to_ids("</s>"))}

    @property
    def _mask_piece(self) -> bool:
        """Whether ``<mask>`` is found in normalised text as a piece: it is one of the compiled reference's vocabulary."""
        token = self._decoder.get(self.engine.size)
        return token is not None and token.content == _MASK and not token.normalized

    @cached_property
    def _disguised(self) -> tuple[list[str], re.Pattern[str] | None, bool]:
        """``(firsts, pattern, composed)``: with what a token that is found in normalised text may begin, and what becomes it;
        ``composed`` if such a token may come of sequences that are one character when normalised."""
        tokens = {token.content for token in self._decoder.values() if token.normalized and token.content}
        tokens |= {_MASK} if self._mask_piece else set()
        ways = [self.engine.charsmap.spellings(token) for token in sorted(tokens)]
        firsts = sorted({char for first, _ in ways for char in first})
        pattern = re.compile("|".join(pattern for _, pattern in ways)) if ways else None
        return firsts, pattern, not all(map(str.isascii, tokens))

    def _in_clusters(self, texts: list[str], joined: str) -> list[int]:
        """Places of the texts that have to be normalised cluster by cluster; ``joined`` are all of them."""
        firsts, pattern, composed = self._disguised
        found = set(self.engine.charsmap.clusters.odd(texts))
        if pattern is not None and any(char in joined for char in firsts):
            found.update([i for i, text in enumerate(texts) if pattern.search(text)])
        if composed:
            found.update([i for i, text in enumerate(texts) if not unicodedata.is_normalized("NFC", text)])
        return sorted(found)

    def _put(self, index: int, token: Any) -> None:
        super()._put(index, token)
        for name in ("_disguised", "backend_tokenizer"):
            self.__dict__.pop(name, None)

    def _odd(self, texts: list[str], split_special: bool) -> list[int]:
        joined = "".join(texts)
        return sorted({*self._splitter("raw").among(texts, joined), *self._in_clusters(texts, joined)})

    def _treated(self, texts: list[str], split_special: bool) -> list[list[int]]:
        splitter = self._splitter("raw", not split_special)
        segments = [splitter.split(text) for text in texts]
        raw = [t[s.start : s.end] for t, of in zip(texts, segments, strict=True) for s in of if s.token_id is None]
        odd = set(self._in_clusters(raw, "".join(raw)))
        plain = iter(self.engine.ids([text for i, text in enumerate(raw) if i not in odd]))
        found = iter(
            [self._cluster_ids(text, split_special) if i in odd else next(plain) for i, text in enumerate(raw)]
        )
        return [
            [index for s in of for index in (next(found) if s.token_id is None else [s.token_id])] for of in segments
        ]

    def _cluster_ids(self, text: str, split_special: bool = False) -> list[int]:
        """The ids of :meth:`_clusters`."""
        normal = _SPACES.sub(SPACE, self.engine.charsmap.text_by_grapheme(clean(text)).rstrip())
        row: list[int] = []
        for segment in self._splitter("normalized", not split_special).split(normal):
            if segment.token_id is not None:
                row.append(segment.token_id)
                continue
            part = normal[segment.start : segment.end].replace(" ", SPACE)
            row += self._pieces(part if part.startswith(SPACE) else SPACE + part, split_special)[0]
        return row

    def _pieces(self, text: str, split_special: bool) -> tuple[list[int], list[str]]:
        """``(ids, pieces)`` of normalised text in which ``▁`` stands for every space."""
        if split_special or not self._mask_piece:
            return self.engine.encode_normalized(text)
        ids, pieces = self.engine.encode_normalized((parts := text.split(_MASK))[0])
        for part in parts[1:]:
            more_ids, more_pieces = self.engine.encode_normalized(part)
            ids, pieces = [*ids, self.engine.size, *more_ids], [*pieces, _MASK, *more_pieces]
        return ids, pieces

    @property
    def _trim(self) -> bool:
        return self._fast_parts is not None and self._fast_parts.splits_whitespace

    def _details(self, texts: list[str], split_special_tokens: bool | None = None) -> list[Detail]:
        split_special = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        splitter = self._splitter("raw", not split_special)
        segments = [splitter.split(text) for text in texts]
        return self._assemble(texts, segments, split_special)

    def _raw_details(self, texts: list[str], split_special: bool) -> list[Detail]:
        odd = set(self._in_clusters(texts, "".join(texts)))
        plain = iter(super()._raw_details([text for i, text in enumerate(texts) if i not in odd], split_special))
        return [self._clusters(text, split_special) if i in odd else next(plain) for i, text in enumerate(texts)]

    def _clusters(self, text: str, split_special: bool) -> Detail:
        """One text as the compiled reference does it, normalised cluster by cluster."""
        normal, starts, ends = self.engine.charsmap.by_grapheme(clean(text))
        normal = normal.rstrip()
        for match in reversed(list(_SPACES.finditer(normal))):
            low, high = match.span()
            normal = f"{normal[:low]}{SPACE}{normal[high:]}"
            starts[low:high], ends[low:high] = [starts[high - 1]], [ends[high - 1]]
        row, trim = Detail([], [], [], []), self._trim
        word = 0
        for segment in self._splitter("normalized", not split_special).split(normal):
            part = normal[segment.start : segment.end]
            low, high = starts[segment.start : segment.end], ends[segment.start : segment.end]
            if segment.token_id is not None:
                row.ids.append(segment.token_id)
                row.tokens.append(part)
                row.offsets.append((low[0], high[-1]))
                row.words.append(word)
                word += 1
                continue
            part = part.replace(" ", SPACE)
            inserted = not part.startswith(SPACE)
            if inserted:
                part, low, high = SPACE + part, [low[0], *low], [high[0], *high]
            ids, pieces = self._pieces(part, split_special)
            at = 0
            for index, piece in zip(ids, pieces, strict=True):
                stop = at + len(piece)
                begins = piece.startswith(SPACE)
                if at and begins:
                    word += 1
                first = min(at + 1, len(low) - 1) if trim and begins and not (at == 0 and inserted and stop > 1) else at
                row.ids.append(index)
                row.tokens.append(piece)
                row.offsets.append((low[first], high[stop - 1] if stop > first else low[first]))
                row.words.append(word)
                at = stop
            word += 1
        return row

    # ---- decoding and files --------------------------------------------------------------------------------------------
    def _decode(self, ids: list[int], skip_special: bool, spaces: bool) -> str:
        special = {index for index, token in self._decoder.items() if token.special}
        tokens = [self._token(index) for index in ids if not (skip_special and index in special)]
        return self.convert_tokens_to_string([token for token in tokens if token is not None])

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        if not tokens:
            return ""
        return tokens[0].replace(SPACE, "") + "".join(tokens[1:]).replace(SPACE, " ")

    def save_vocabulary(self, save_directory: Any, filename_prefix: str | None = None) -> tuple[str, ...]:
        if not self.can_save_slow_tokenizer:
            raise InputError(
                "vocab_file is not there: this tokenizer was read from tokenizer.json alone; save_pretrained it"
            )
        return super().save_vocabulary(save_directory, filename_prefix)

    def _as_file(self) -> str:
        """The text of ``tokenizer.json``."""
        ids = {"</s>": self.convert_tokens_to_ids("</s>"), "<s>": self.convert_tokens_to_ids("<s>")}
        pipeline = None if self._fast_parts is None else self._fast_parts.pipeline
        return fastfile.text_of(self.engine, self.added_tokens_decoder, pipeline, ids)

    @cached_property
    def backend_tokenizer(self) -> Any:
        """A ``tokenizers.Tokenizer`` of the same file: for programs that ask for one; what is changed in it changes nothing
        here.

        Raises:
            MissingExtraError: the package is not installed.
        """
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise MissingExtraError("backend_tokenizer", "tokenizers", "corpus") from error
        return Tokenizer.from_str(self._as_file())

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str | Sequence[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[Any] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        *,
        character_coverage: float = 0.9995,
        num_threads: int | None = None,
    ) -> Self:
        """A tokenizer of the same settings with a vocabulary of its own, trained on texts.

        Args:
            text_iterator: texts, or lists of texts.
            vocab_size: ids in all, special tokens included.
            length: not needed.
            new_special_tokens: added to the special tokens there are.
            character_coverage, num_threads: of the trainer; see :func:`xlm.tokenizers.train.train_sentencepiece`.

        Raises:
            ArgumentError: ``special_tokens_map``: XLM-R's special tokens have fixed names.
            ConfigError: the size is impossible, or does not fit the text.
        """
        from xlm.tokenizers.train import check_size, cut_line, train_pieces

        del length
        if special_tokens_map:
            raise ArgumentError(
                f"special_tokens_map={dict(special_tokens_map)!r}: XLM-R's special tokens have fixed names"
            )
        special = [*self.additional_special_tokens, *(new_special_tokens or ())]
        check_size(vocab_size - len(special))
        texts = (text for item in text_iterator for text in ([item] if isinstance(item, str) else item))
        lines = (part for text in texts for line in text.splitlines() for part in cut_line(line))
        settings = {k: v for k, v in self.init_kwargs.items() if k not in ("added_tokens_decoder", "name_or_path")}
        if special:
            settings["additional_special_tokens"] = special
        with tempfile.TemporaryDirectory() as folder:
            model = train_pieces(lines, vocab_size - len(special), Path(folder), character_coverage, num_threads)
            new = type(self)(model, **settings)
        new.vocab_file = None  # it was written for the occasion
        return new

    def _save_vocabularies(self, folder: Path, prefix: str | None, legacy: bool | None) -> tuple[str, ...]:
        written: tuple[str, ...] = ()
        if legacy is not False and self.can_save_slow_tokenizer:
            written = (*self.save_vocabulary(folder, prefix), self._save_added(folder, prefix))
        if legacy is not True:
            path = folder / f"{prefix + '-' if prefix else ''}{FAST_FILE}"
            atomic.write_text(path, self._as_file())
            written = (*written, str(path))
        return written
