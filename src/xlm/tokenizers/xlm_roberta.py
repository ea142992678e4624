"""XLM-R's tokenizer under its two names. One engine, SentencePiece with XLM-R's ids; the names differ by a few facts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xlm import atomic
from xlm.errors import InputError
from xlm.tokenizers import fastfile
from xlm.tokenizers.added import AddedToken, Segment
from xlm.tokenizers.assemble import Finished
from xlm.tokenizers.rows import Detail, Template
from xlm.tokenizers.unigram import SPACE, UNK, Unigram
from xlm.tokenizers.xlm_roberta_vocabulary import FIXED, XLMRobertaVocabulary, engine_of

_MAX_LENGTHS: dict[str, int] = dict.fromkeys(
    (
        "xlm-roberta-base",
        "xlm-roberta-large",
        "xlm-roberta-large-finetuned-conll02-dutch",
        "xlm-roberta-large-finetuned-conll02-spanish",
        "xlm-roberta-large-finetuned-conll03-english",
        "xlm-roberta-large-finetuned-conll03-german",
    ),
    512,
)


_SAMPLING = ("enable_sampling", "nbest_size", "alpha", "num_threads", "add_bos", "add_eos", "reverse", "emit_unk_piece")


def _checked(options: Any) -> dict[str, Any]:
    """SentencePiece's options, as a call or a file gives them; none of them names a file."""
    if not isinstance(options or {}, Mapping):
        raise InputError(f"sp_model_kwargs={options!r}: a mapping of SentencePiece's options is needed")
    for key, value in (options or {}).items():
        if key not in _SAMPLING or not isinstance(value, int | float):
            raise InputError(
                f"sp_model_kwargs: {key}={value!r}: must be a number or switch named {', '.join(_SAMPLING)}"
            )
    return dict(options or {})


class XLMRobertaTokenizer(XLMRobertaVocabulary):
    """``<s> A </s>`` and ``<s> A </s></s> B </s>``; ids are SentencePiece's plus one, ``<mask>`` is the last.

    Offsets, words and the rest of a row are there for this class as well as for the fast one; here a token's span leaves
    out the white space before it.
    """

    TEMPLATE = Template(("cls", 0, "sep"), ("cls", 0, "sep", "sep", 1, "sep"), (0,) * 6)
    vocab_files_names: ClassVar[dict[str, str]] = {
        "vocab_file": "sentencepiece.bpe.model",
        "tokenizer_file": "tokenizer.json",
    }
    max_model_input_sizes: ClassVar[dict[str, int]] = _MAX_LENGTHS
    model_input_names: list[str] = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        bos_token: Any = "<s>",
        eos_token: Any = "</s>",
        sep_token: Any = "</s>",
        cls_token: Any = "<s>",
        unk_token: Any = "<unk>",
        pad_token: Any = "<pad>",
        mask_token: Any = "<mask>",
        sp_model_kwargs: dict[str, Any] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self.sp_model_kwargs = _checked(sp_model_kwargs)
        self.vocab_file = None if vocab_file is None else os.fspath(vocab_file)
        self._fast_parts: fastfile.Parts | None = None
        if tokenizer_file is not None and (self.FAST or vocab_file is None):
            self._fast_parts = fastfile.read(Path(tokenizer_file), with_model=vocab_file is None)
        if self.vocab_file is not None:
            self.engine = engine_of(self.vocab_file, self.sp_model_kwargs)
        elif self._fast_parts is not None:
            self.engine = Unigram(self._fast_parts.model, os.fspath(tokenizer_file or ""), self.sp_model_kwargs)
        else:
            raise InputError(f"{type(self).__name__} needs vocab_file (sentencepiece.bpe.model) or tokenizer_file")
        if self._fast_parts is not None:
            options["added_tokens_decoder"] = {**self._fast_parts.added, **(options.get("added_tokens_decoder") or {})}
        if isinstance(mask_token, str):
            mask_token = AddedToken(mask_token, lstrip=True, special=True, normalized=self.FAST)
        tokens = {
            "bos_token": bos_token, "eos_token": eos_token, "unk_token": unk_token, "sep_token": sep_token,
            "pad_token": pad_token, "cls_token": cls_token, "mask_token": mask_token,
        }  # fmt: skip
        if not self.FAST or sp_model_kwargs is not None:
            options["sp_model_kwargs"] = self.sp_model_kwargs
        super().__init__(**tokens, **options)

    def _add_init_tokens(self) -> None:
        if self.FAST:
            # The compiled reference marks its vocabulary's own special tokens as added ones, by id.
            for token, index in FIXED.items():
                if token in self.all_special_tokens and token not in self._encoder:
                    self._put(index, AddedToken(token, special=True, normalized=False))
        super()._add_init_tokens()

    @classmethod
    def _missing_files(cls, present: set[str]) -> str:
        return "" if present else " or ".join(cls.vocab_files_names.values())

    # ---- text to tokens ----------------------------------------------------------------------------------------------
    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        """Ids of plain lines: no special tokens are added, and none are looked for in the text."""
        return self.engine.ids(lines)

    @property
    def _trim(self) -> bool:
        """Whether a token's span leaves out the white space before it."""
        return True

    def _split(self, text: str, split_special: bool) -> list[Segment]:
        return [Segment(0, len(text))] if split_special and text else self._splitter().split(text)

    def _content(self, texts: list[str], split_special_tokens: bool | None = None) -> list[list[int]]:
        return self._rows(texts, split_special_tokens, special=False)

    def _finished(self, texts: list[str], split_special_tokens: bool | None = None) -> Finished | None:
        # SentencePiece itself puts <s> and </s> around: right as long as those are what rows begin and end with.
        if {name: index for name, (_, index) in self._row_specials().items()} != {"cls": 0, "sep": 2}:
            return None
        return self._rows(texts, split_special_tokens, special=True), None

    def _spanned(self, texts: list[str], split_special_tokens: bool | None = None) -> Finished | None:
        if self._odd(texts, False):  # where no text has a special token, it does not matter how one would be read
            return None
        ids, starts, ends, edges = self._columns(texts)
        flat, pairs = ids.tolist(), list(zip(starts.tolist(), ends.tolist(), strict=True))
        cuts = list(pairwise(edges))
        return [flat[low:high] for low, high in cuts], [pairs[low:high] for low, high in cuts]

    def _columns(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], list[int]]:
        """Ids, starts and ends of all rows one after another, special tokens included, and where the rows begin and end."""
        special = self._row_specials()
        spans = self.engine.spans(texts, self._trim)
        # Every row gets one place more at either end.
        edges = np.concatenate([[0], np.cumsum(spans.counts + 2)])
        inner = np.ones(int(edges[-1]), bool)
        inner[edges[:-1]] = inner[edges[1:] - 1] = False
        ids = np.empty(len(inner), np.int32)
        ids[edges[:-1]], ids[edges[1:] - 1] = special["cls"][1], special["sep"][1]
        ids[inner] = spans.ids
        starts, ends = np.zeros(len(inner), np.int64), np.zeros(len(inner), np.int64)
        starts[inner], ends[inner] = spans.starts, spans.ends
        return ids, starts, ends, edges.tolist()

    def _rows(self, texts: list[str], given: bool | None, special: bool) -> list[list[int]]:
        """Ids of every text, with ``special`` between ``<s>`` and ``</s>``: nearly all at once, odd ones by themselves."""
        split_special = bool(self.split_special_tokens if given is None else given)
        odd = self._odd(texts, split_special)
        if not odd:
            return self.engine.ids(texts, special)
        chosen = set(odd)
        plain = iter(self.engine.ids([text for i, text in enumerate(texts) if i not in chosen], special))
        treated = iter(self._treated([texts[i] for i in odd], split_special))
        head, tail = ([0], [2]) if special else ([], [])
        return [[*head, *next(treated), *tail] if i in chosen else next(plain) for i in range(len(texts))]

    def _odd(self, texts: list[str], split_special: bool) -> list[int]:
        """Places of the texts that must not go to SentencePiece as they are."""
        return [] if split_special else self._splitter().among(texts, "".join(texts))

    def _treated(self, texts: list[str], split_special: bool) -> list[list[int]]:
        """Ids of odd texts."""
        segments = [self._split(text, split_special) for text in texts]
        raw = [t[s.start : s.end] for t, of in zip(texts, segments, strict=True) for s in of if s.token_id is None]
        found = iter(self.engine.ids(raw))
        rows: list[list[int]] = []
        for of in segments:
            row: list[int] = []
            for segment in of:
                row.extend(next(found) if segment.token_id is None else [segment.token_id])
            rows.append(row)
        return rows

    def _details(self, texts: list[str], split_special_tokens: bool | None = None) -> list[Detail]:
        split_special = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        segments = [self._split(text, split_special) for text in texts]
        return self._assemble(texts, segments, bool(split_special))

    def _assemble(self, texts: list[str], segments: Sequence[Sequence[Segment]], split_special: bool) -> list[Detail]:
        raw = [t[s.start : s.end] for t, of in zip(texts, segments, strict=True) for s in of if s.token_id is None]
        found = iter(self._raw_details(raw, split_special))
        rows: list[Detail] = []
        for text, of in zip(texts, segments, strict=True):
            row = Detail([], [], [], [])
            word = 0
            for segment in of:
                if segment.token_id is None:
                    part = next(found)
                    start = segment.start
                    row.offsets.extend([(a + start, b + start) for a, b in part.offsets] if start else part.offsets)
                    row.words.extend([w + word for w in part.words if w is not None])
                    row.ids.extend(part.ids)
                    row.tokens.extend(part.tokens)
                    word += (part.words[-1] or 0) + 1 if part.words else 0
                else:
                    row.ids.append(segment.token_id)
                    content = text[segment.start : segment.end]
                    row.tokens.append(content if self.FAST else self._decoder[segment.token_id].content)
                    row.offsets.append((segment.start, segment.end))
                    row.words.append(word)
                    word += 1
            rows.append(row)
        return rows

    def _raw_details(self, texts: list[str], split_special: bool) -> list[Detail]:
        """Details of texts without added tokens, all at once."""
        if not texts:
            return []
        spans = self.engine.spans(texts, self._trim)
        begins = self.engine.begins_word[spans.ids]
        ids, starts, ends = spans.ids.tolist(), spans.starts.tolist(), spans.ends.tolist()
        piece = self.engine.processor.id_to_piece
        tokens = piece(ids) if ids else []
        rows: list[Detail] = []
        at = 0
        for text, count in zip(texts, spans.counts.tolist(), strict=True):
            stop = at + count
            marks = begins[at:stop].copy()
            marks[:1] = True
            words: list[int | None] = (np.cumsum(marks) - 1).tolist()
            shown = tokens[at:stop]
            if UNK in ids[at:stop]:
                shown = self.engine.pieces(text)
            rows.append(Detail(ids[at:stop], shown, list(zip(starts[at:stop], ends[at:stop], strict=True)), words))
            at = stop
        return rows

    def encode_arrays(self, texts: list[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """For every text ids (tokens,) int32 and offsets (tokens, 2) int64, special tokens included: the quick way to both."""
        self._check_sizes(texts)
        odd = self._odd(texts, False)
        chosen = set(odd)
        ids, starts, ends, edges = self._columns([text for i, text in enumerate(texts) if i not in chosen])
        offsets = np.stack([starts, ends], axis=1)
        rows = iter([(ids[low:high], offsets[low:high]) for low, high in pairwise(edges)])
        if not odd:
            return list(rows)
        special = self._row_specials()
        treated = iter([
            (np.array([special["cls"][1], *row.ids, special["sep"][1]], np.int32),
             np.array([(0, 0), *row.offsets, (0, 0)], np.int64))
            for row in self._details([texts[i] for i in odd])
        ])  # fmt: skip
        return [next(treated if i in chosen else rows) for i in range(len(texts))]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).replace(SPACE, " ").strip()

    # ---- files -------------------------------------------------------------------------------------------------------
    def save_vocabulary(self, save_directory: Any, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the SentencePiece model as it was read; a model from ``tokenizer.json`` is written as one."""
        folder = self._folder(save_directory)
        path = folder / f"{filename_prefix + '-' if filename_prefix else ''}{self.vocab_files_names['vocab_file']}"
        same = self.vocab_file is not None and os.path.abspath(path) == os.path.abspath(self.vocab_file)
        if not (same and path.is_file()):
            atomic.write_bytes(path, self.engine.model.data)
        return (str(path),)
