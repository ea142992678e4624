"""Tiny checkpoints whose vocabularies hold given words as single pieces, as the examples of the documentation need them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

import xlm

SPACE = "▁"
# The answer's place in the example about question answering counts this name as two pieces.
PARTS = {"Henson": ("H", "enson")}


def words_of(texts: list[str]) -> list[str]:
    """The words and punctuation marks of texts, each once, in order."""
    return list(dict.fromkeys(word for text in texts for word in re.findall(r"\w+|[^\w\s<>]", text)))


def sentencepiece_model(path: Path, texts: list[str]) -> int:
    """Write a unigram model with every word as a piece, alone and after a space; returns the number of pieces."""
    from sentencepiece import sentencepiece_model_pb2

    words = words_of(texts)
    letters = sorted({letter for word in words for letter in word})
    whole = [word for word in words if word not in PARTS]
    parts = [part for word in words for part in PARTS.get(word, ())]
    pieces = [*(SPACE + word for word in [*whole, *parts]), *whole, *parts, SPACE, *letters]
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.normalizer_spec.name = "identity"
    kinds = model.SentencePiece
    for piece, kind in (("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)):
        model.pieces.add(piece=piece, score=0.0, type=kind)
    for rank, piece in enumerate(dict.fromkeys(pieces)):
        # One long piece costs less than its parts.
        model.pieces.add(piece=piece, score=-1.0 - 0.001 * rank if len(piece) > 1 else -9.0, type=kinds.NORMAL)
    path.write_bytes(model.SerializeToString())
    return len(model.pieces)


def bpe_files(folder: Path, texts: list[str]) -> int:
    """Write ``vocab.json`` and ``merges.txt`` of an XLM tokenizer with every word as a piece; returns the number of tokens."""
    words = [word.lower() for word in words_of(texts)]
    tokens = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10))]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        symbols = [*word[:-1], word[-1] + "</w>"]
        tokens += symbols
        while len(symbols) > 1:
            merges.append((symbols[0], symbols[1]))
            symbols = [symbols[0] + symbols[1], *symbols[2:]]
            tokens.append(symbols[0])
    tokens = list(dict.fromkeys(tokens))
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    lines = [f"{a} {b} 1" for a, b in dict.fromkeys(merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return len(tokens)


def roberta_checkpoint(folder: Path, texts: list[str], kind: str = "XLMRoberta") -> None:
    """A masked language model of XLM-R (``kind="XLMRoberta"``) or XL (``kind="XLMRobertaXL"``) and its tokenizer."""
    folder.mkdir(parents=True)
    pieces = sentencepiece_model(folder / "sentencepiece.bpe.model", texts)
    config = getattr(xlm, f"{kind}Config")(
        vocab_size=pieces + 2,  # <pad> and <mask> come on top
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=66,
        type_vocab_size=1,
    )
    torch.manual_seed(0)
    getattr(xlm, f"{kind}ForMaskedLM")(config).save_pretrained(folder)
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def xlm_checkpoint(folder: Path, texts: list[str], languages: tuple[str, ...] = ()) -> None:
    """An XLM language model and its tokenizer, with a language table where there are languages."""
    folder.mkdir(parents=True)
    ids = {name: place for place, name in enumerate(languages)}
    config = xlm.XLMConfig(
        vocab_size=bpe_files(folder, texts),
        emb_dim=16,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=64,
        n_langs=max(1, len(languages)),
        causal=bool(languages),
        lang2id=ids,
        id2lang={str(place): name for name, place in ids.items()},
    )
    torch.manual_seed(0)
    xlm.XLMWithLMHeadModel(config).save_pretrained(folder)
    settings = {
        "tokenizer_class": "XLMTokenizer",
        "do_lowercase_and_remove_accent": True,
        "lang2id": ids or None,
        "id2lang": {str(place): name for name, place in ids.items()} or None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
