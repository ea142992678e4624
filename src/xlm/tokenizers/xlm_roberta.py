"""XLM-R's tokenizer on SentencePiece."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from xlm.errors import CheckpointError, InputError, OutputError

_FILE = "sentencepiece.bpe.model"
_BOS, _PAD, _EOS, _UNK = 0, 1, 2, 3


class XLMRobertaTokenizer:
    """Text to ids: ``<s> A </s>`` or ``<s> A </s></s> B </s>``; ids are SentencePiece's plus one, ``<mask>`` the last."""

    bos_token = cls_token = "<s>"
    eos_token = sep_token = "</s>"
    pad_token, unk_token, mask_token = "<pad>", "<unk>", "<mask>"
    bos_token_id = cls_token_id = _BOS
    eos_token_id = sep_token_id = _EOS
    pad_token_id, unk_token_id = _PAD, _UNK
    all_special_tokens = ["<s>", "</s>", "<unk>", "<pad>", "<mask>"]
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str | Path, model_max_length: int = 512, **options: Any) -> None:
        self.vocab_file = str(vocab_file)
        self.model_max_length = model_max_length
        try:
            self.sp_model = sentencepiece.SentencePieceProcessor(model_file=self.vocab_file)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"vocab_file {self.vocab_file}: not a SentencePiece model: {error}") from error
        self.vocab_size = len(self.sp_model) + 2
        self.mask_token_id = self.vocab_size - 1
        self.all_special_ids = [_BOS, _EOS, _UNK, _PAD, self.mask_token_id]

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> XLMRobertaTokenizer:
        folder = Path(name_or_path)
        if not folder.is_dir():
            from xlm.hub import resolve  # pyright: ignore[reportMissingImports]

            folder = resolve(str(name_or_path))
        if not (folder / _FILE).is_file():
            raise CheckpointError(f"{folder}: no tokenizer there: {_FILE} is missing")
        return cls(folder / _FILE)

    def save_pretrained(self, folder: str | Path) -> tuple[str, ...]:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            (folder / _FILE).write_bytes(self.sp_model.serialized_model_proto())
        except OSError as error:
            raise OutputError(f"{folder / _FILE}: {error}") from error
        return (str(folder / _FILE),)

    def __len__(self) -> int:
        return self.vocab_size

    def _content(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        start = 0
        parts = text.split("<mask>")
        for number, part in enumerate(parts):
            mapped = self.sp_model.encode(part.rstrip() if number < len(parts) - 1 else part, out_type="offset_mapping")
            for piece, (begin, end) in zip(mapped["ids"], mapped["offsets"], strict=True):
                ids.append(piece + 1 if piece else _UNK)
                while begin < end and part[begin].isspace():
                    begin += 1
                spans.append((start + begin, start + end))
            start += len(part)
            if number < len(parts) - 1:
                ids.append(self.mask_token_id)
                spans.append((start, start + 6))
                start += 6
        return ids, spans

    def _one(
        self, text: str, pair: str | None, special: bool, limit: int | None
    ) -> tuple[list[int], list[tuple[int, int]]]:
        sides = [self._content(side) for side in (text, pair) if side is not None]
        if limit is not None:
            room = limit - ((2 if pair is None else 4) if special else 0)
            while sum(len(ids) for ids, _ in sides) > room:
                ids, spans = max(sides, key=lambda side: len(side[0]))
                ids.pop(), spans.pop()
        none = [(0, 0)]
        if not special:
            return [i for ids, _ in sides for i in ids], [s for _, spans in sides for s in spans]
        ids, spans = [_BOS, *sides[0][0], _EOS], [*none, *sides[0][1], *none]
        if pair is not None:
            ids, spans = [*ids, _EOS, *sides[1][0], _EOS], [*spans, *none, *sides[1][1], *none]
        return ids, spans

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_offsets_mapping: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else list(text)
        pairs = [text_pair] if isinstance(text_pair, str) else list(text_pair or [None] * len(texts))
        if len(pairs) != len(texts):
            raise InputError(f"text_pair has {len(pairs)} entries, text has {len(texts)}")
        limit = (max_length or self.model_max_length) if truncation else None
        rows = [self._one(t, p, add_special_tokens, limit) for t, p in zip(texts, pairs, strict=True)]
        width = 0
        if padding:
            width = max_length if padding == "max_length" and max_length else max((len(r[0]) for r in rows), default=0)
        data: dict[str, Any] = {
            "input_ids": [ids + [_PAD] * (width - len(ids)) for ids, _ in rows],
            "attention_mask": [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows],
        }
        if return_offsets_mapping:
            data["offset_mapping"] = [spans + [(0, 0)] * (width - len(spans)) for _, spans in rows]
        if return_tensors == "pt":
            torch = importlib.import_module("torch")
            return {name: torch.tensor(value) for name, value in data.items()}
        if return_tensors == "np":
            numpy = importlib.import_module("numpy")
            return {name: numpy.array(value) for name, value in data.items()}
        return {name: value[0] for name, value in data.items()} if single else data

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> list[int]:
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: str) -> list[str]:
        return self.convert_ids_to_tokens(self._content(text)[0])

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        if isinstance(ids, int):
            named = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", self.mask_token_id: "<mask>"}
            return named[ids] if ids in named else self.sp_model.id_to_piece(ids - 1)
        return [self.convert_ids_to_tokens(int(index)) for index in ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        if isinstance(tokens, str):
            named = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": self.mask_token_id}
            return named[tokens] if tokens in named else (self.sp_model.piece_to_id(tokens) + 1 or _UNK)
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def decode(self, ids: Any, skip_special_tokens: bool = False, **options: Any) -> str:
        kept = [int(i) for i in ids if not (skip_special_tokens and int(i) in self.all_special_ids)]
        text = "".join(f" {t}" if t in self.all_special_tokens else t for t in self.convert_ids_to_tokens(kept))
        return text.replace("▁", " ").strip()
