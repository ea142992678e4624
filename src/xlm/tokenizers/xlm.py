"""XLM's tokenizer: Moses normalisation and words, accents and case, then byte-pair encoding.

Where this differs from the reference: ``lang`` (and ``bypass_tokenizer``) are honoured by every call, not by
``_tokenize`` alone; rows know their offsets and words; nothing needs sacremoses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xlm import atomic
from xlm.errors import CheckpointError, InputError
from xlm.jsonfile import read_json
from xlm.pauses import pause
from xlm.tokenizers import moses
from xlm.tokenizers.added import Segment
from xlm.tokenizers.aligned import Aligned
from xlm.tokenizers.assemble import Finished
from xlm.tokenizers.base import Tokenizer
from xlm.tokenizers.bpe import BPE, END, read_merges
from xlm.tokenizers.bpe_batch import BatchBPE
from xlm.tokenizers.rows import Detail, Template
from xlm.tokenizers.unigram import clean
from xlm.tokenizers.xlm_ids import ChunkIds, Part
from xlm.tokenizers.xlm_words import chunks as segment_chunks
from xlm.tokenizers.xlm_words import lower, segmented, strip_accents

# Languages whose chunks are remembered, the last ones used; what is made anew when a token is added.
_LANGUAGES = 4
_DERIVED = ("_protected", "_memos", "_batches")
_SPECIALS = [f"<special{number}>" for number in range(10)]


class XLMTokenizer(Tokenizer):
    """``<s> A </s>`` and ``<s> A </s> B </s>`` with token types 0 and 1. ``lang`` chooses the rules of a language."""

    TEMPLATE = Template(("bos", 0, "sep"), ("bos", 0, "sep", 1, "sep"), (0, 0, 0, 1, 1))
    TEXT_OPTIONS = ("lang", "bypass_tokenizer")
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}
    max_model_input_sizes: ClassVar[dict[str, int]] = dict.fromkeys(
        (
            "xlm-mlm-en-2048", "xlm-mlm-ende-1024", "xlm-mlm-enfr-1024", "xlm-mlm-enro-1024", "xlm-mlm-tlm-xnli15-1024",
            "xlm-mlm-xnli15-1024", "xlm-clm-enfr-1024", "xlm-clm-ende-1024", "xlm-mlm-17-1280", "xlm-mlm-100-1280",
        ),
        512,
    )  # fmt: skip

    def __init__(
        self,
        vocab_file: Any,
        merges_file: Any,
        unk_token: Any = "<unk>",
        bos_token: Any = "<s>",
        sep_token: Any = "</s>",
        pad_token: Any = "<pad>",
        cls_token: Any = "</s>",
        mask_token: Any = "<special1>",
        additional_special_tokens: Sequence[Any] = tuple(_SPECIALS),
        lang2id: dict[str, int] | None = None,
        id2lang: dict[Any, str] | None = None,
        do_lowercase_and_remove_accent: bool = True,
        **options: Any,
    ) -> None:
        if lang2id is not None and id2lang is not None and len(lang2id) != len(id2lang):
            raise AssertionError(f"lang2id has {len(lang2id)} languages, id2lang {len(id2lang)}: they must be inverse")
        self.vocab_file, self.merges_file = str(vocab_file), str(merges_file)
        self.do_lowercase_and_remove_accent = do_lowercase_and_remove_accent
        self.lang2id, self.id2lang = lang2id, id2lang
        self.lang: str | None = None
        encoder = read_json(Path(vocab_file))
        if not isinstance(encoder, dict) or not all(type(index) is int for index in encoder.values()):
            raise CheckpointError(f"vocab_file {vocab_file}: not a mapping of tokens to ids")
        self.encoder: dict[str, int] = encoder
        self.decoder = {index: token for token, index in encoder.items()}
        self._bpe = BPE(read_merges(Path(merges_file)))
        super().__init__(
            unk_token=unk_token, bos_token=bos_token, sep_token=sep_token, pad_token=pad_token, cls_token=cls_token,
            mask_token=mask_token, additional_special_tokens=list(additional_special_tokens), lang2id=lang2id,
            id2lang=id2lang, do_lowercase_and_remove_accent=do_lowercase_and_remove_accent, **options,
        )  # fmt: skip

    # ---- vocabulary --------------------------------------------------------------------------------------------------
    @property
    def do_lower_case(self) -> bool:
        return self.do_lowercase_and_remove_accent

    @property
    def bpe_ranks(self) -> dict[tuple[str, ...], int]:
        return self._bpe.ranks

    @property
    def vocab_size(self) -> int:
        return len(self.encoder)

    def get_vocab(self) -> dict[str, int]:
        return {**self.encoder, **self.added_tokens_encoder}

    def _base_id(self, token: str) -> int | None:
        return self.encoder.get(token)

    def _put(self, index: int, token: Any) -> None:
        super()._put(index, token)
        for name in _DERIVED:
            self.__dict__.pop(name, None)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of a list; what is unknown gets the id of ``unk_token``."""
        if tokens is None:
            return None
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        if tokens in self._encoder:
            return self._encoder[tokens]
        return self.encoder.get(tokens, self.encoder.get(str(self._special["unk_token"])))

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a row; an id outside is ``unk_token``."""
        if isinstance(ids, int | np.integer):
            index = int(ids)
            added = self._decoder.get(index)
            return added.content if added is not None else self.decoder.get(index, self.unk_token)
        special = set(self.all_special_ids) if skip_special_tokens else ()
        return [self.convert_ids_to_tokens(int(index)) for index in ids if int(index) not in special]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).replace(END, " ").strip()

    # ---- text to tokens ----------------------------------------------------------------------------------------------
    def bpe(self, token: str) -> str:
        """The pieces of one word, separated by spaces."""
        return " ".join(self._bpe(token))

    def _language(self, lang: str | None) -> str:
        """A call's language, or else that of the attribute ``lang``, or else English."""
        lang = self.lang if lang is None else lang
        if lang is None:
            return "en"
        known = self.lang2id
        if not isinstance(lang, str) or (known and lang not in known):
            allowed = ", ".join(sorted(known)) if known else "a language code"
            raise InputError(f"lang is {lang!r}: this vocabulary knows {allowed}")
        return lang

    def _words(self, text: Any, lang: str, bypass: bool) -> list[Any]:
        """The words of a chunk, plain or aligned as ``text`` is, ready for byte-pair encoding."""
        if bypass:
            return text.split() if isinstance(text, str) else text.words()
        words = segmented(text, lang)
        if self.do_lowercase_and_remove_accent:
            words = strip_accents(words)
        return [word for word in words if moses.plain(word)]

    def _tokenize(self, text: str, lang: str = "en", bypass_tokenizer: bool = False) -> list[str]:
        """The pieces of a chunk: neither lowercased beforehand nor searched for special tokens, as in the reference."""
        words = self._words(clean(text), self._language(lang), bypass_tokenizer)
        return [piece for word in words for piece in self._bpe(word)]

    @cached_property
    def _protected(self) -> re.Pattern[str] | None:
        """Tokens that lowercasing leaves alone."""
        tokens = [*self.all_special_tokens]
        tokens += [t.content for t in self._decoder.values() if not t.special and t.normalized]
        return re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def _lower(self, text: Any) -> Any:
        """Lower case, character by character, outside special tokens and line ends."""
        if isinstance(text, str):
            if self._protected is None or ("<" not in text and not self._protected.search(text)):
                return lower(text)
            parts, done = [], 0
            for match in self._protected.finditer(text):
                parts += [lower(text[done : match.start()]), match.group()]
                done = match.end()
            return "".join([*parts, lower(text[done:])])
        kept = [False] * len(text.text)
        for match in self._protected.finditer(text.text) if self._protected else ():
            kept[match.start() : match.end()] = [True] * len(match.group())
        flags = iter(kept)
        return text.each(lambda char: char if next(flags) else char.lower())

    def _chunks(self, text: Any, split_special: bool) -> list[Segment]:
        string = moses.plain(text)
        return [Segment(0, len(string))] if split_special and string else self._splitter().split(string)

    def _content(self, texts: list[str], **options: Any) -> list[list[int]]:
        return self._rows(texts, (), (), **options)

    def _finished(self, texts: list[str], **options: Any) -> Finished:
        special = self._special_ids()
        return self._rows(texts, (special["bos"],), (special["sep"],), **options), None

    def _rows(
        self,
        texts: list[str],
        head: tuple[int, ...],
        tail: tuple[int, ...],
        lang: str | None = None,
        bypass_tokenizer: bool = False,
        split_special_tokens: bool | None = None,
    ) -> list[list[int]]:
        """The ids of every text, between ``head`` and ``tail``."""
        language = self._language(lang)
        split_special = bool(self.split_special_tokens if split_special_tokens is None else split_special_tokens)
        return self._chunk_ids(language).rows(
            [head, *self._parts(text, language, bypass_tokenizer, split_special), tail] for text in texts
        )

    def _parts(self, given: str, lang: str, bypass: bool, split_special: bool) -> list[Part]:
        """A text as chunks and, where it has to be seen as a whole, as ids."""
        text = clean(given)
        text = self._lower(text) if self.do_lower_case else text
        parts: list[Part] = []
        for segment in self._chunks(text, split_special):
            if segment.token_id is not None:
                parts.append((segment.token_id,))
                continue
            stretch = text[segment.start : segment.end]
            chunks = None if bypass else segment_chunks(stretch, lang)
            parts.append(self._word_ids(self._words(stretch, lang, bypass)) if chunks is None else chunks)
        return parts

    def _word_ids(self, words: list[str]) -> tuple[int, ...]:
        return tuple([self.convert_tokens_to_ids(piece) for word in words if word for piece in self._bpe(word)])

    def _chunk_ids(self, lang: str) -> ChunkIds:
        """Ids of the chunks of a language, for as long as nothing changes that they depend on."""
        accents, unknown = self.do_lowercase_and_remove_accent, str(self._special["unk_token"])
        key = (lang, accents, unknown)
        found = self._memos.get(key)
        if found is None:
            merges = len(self._bpe.ranks)
            found = ChunkIds(lang, accents, self._word_ids, lambda: self._batch_bpe(unknown), merges)
            while len(self._memos) >= _LANGUAGES:
                self._memos.pop(next(iter(self._memos)), None)
            self._memos[key] = found
        return found

    def _batch_bpe(self, unknown: str) -> BatchBPE | None:
        """The merges for many words at once; None where the vocabulary has no id for the unknown."""
        index = self.encoder.get(unknown)
        if index is not None and unknown not in self._batches:
            self._batches[unknown] = BatchBPE(self._bpe.ranks, {**self.encoder, **self._encoder}, index)
        return self._batches.get(unknown)

    @cached_property
    def _memos(self) -> dict[Any, ChunkIds]:
        return {}

    @cached_property
    def _batches(self) -> dict[str, BatchBPE]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _DERIVED}

    def _details(
        self,
        texts: list[str],
        lang: str | None = None,
        bypass_tokenizer: bool = False,
        split_special_tokens: bool | None = None,
    ) -> list[Detail]:
        language = self._language(lang)
        split_special = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        rows: list[Detail] = []
        for given in texts:
            text = Aligned(clean(given))
            text = self._lower(text) if self.do_lower_case else text
            row = Detail([], [], [], [])
            number = 0
            for segment in self._chunks(text, split_special):
                chunk = Aligned(text.text[segment.start : segment.end], text.spans[segment.start : segment.end])
                if segment.token_id is not None:
                    row.ids.append(segment.token_id)
                    row.tokens.append(self._decoder[segment.token_id].content)
                    row.offsets.append(chunk.span)
                    row.words.append(number)
                    number += 1
                    continue
                for word in self._words(chunk, language, bypass_tokenizer):
                    pause()
                    at = 0
                    for piece in self._bpe(word.text):
                        size = len(piece) - (len(END) if piece.endswith(END) else 0)
                        row.ids.append(self.convert_tokens_to_ids(piece))
                        row.tokens.append(piece)
                        row.offsets.append(Aligned("", word.spans[at : at + size]).span)
                        row.words.append(number)
                        at += size
                    number += 1
            rows.append(row)
        return rows

    # ---- files -------------------------------------------------------------------------------------------------------
    def save_vocabulary(self, save_directory: Any, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write vocab.json, sorted by token, and merges.txt in two columns."""
        folder = self._folder(save_directory)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        vocab, merges = (folder / f"{prefix}{name}" for name in self.vocab_files_names.values())
        atomic.write_json(vocab, self.encoder, sort_keys=True)
        lines = [" ".join(pair) + "\n" for pair, _ in sorted(self._bpe.ranks.items(), key=lambda item: item[1])]
        atomic.write_text(merges, "".join(lines))
        return str(vocab), str(merges)
