"""Writing XLM-R, XL and XXL as fairseq keeps them: ``model.pt`` and ``dict.txt`` beside the SentencePiece model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xlm.atomic import make_folder, write_bytes, write_text
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.foreign.fairseq import HEADS, ROOT, TABLE
from xlm.checkpoints.foreign.torchsave import Namespace, Ordered, save_torch
from xlm.errors import CheckpointError
from xlm.families.registry import family_of

_WORDS = "roberta.embeddings.word_embeddings.weight"
_POSITIONS = "roberta.embeddings.position_embeddings.weight"
_TYPES = "roberta.embeddings.token_type_embeddings.weight"
_HEAD_NAME = "mnli"  # the head that other converters look for
VOCABULARY = "sentencepiece.bpe.model"
# Without it fairseq takes the file for one of 2018 and removes the norm after the last layer.
_VERSION = Stored.of(np.array([3.0], dtype=np.float32))


def save_fairseq(
    folder: Path, config: Any, tensors: Mapping[str, Stored], vocabulary: Path | None = None
) -> list[Path]:
    """Write a checkpoint folder that fairseq's ``XLMRModel.from_pretrained`` opens.

    Args:
        folder: made if need be.
        config: of XLM-RoBERTa or XLM-RoBERTa-XL, with absolute positions and no decoder.
        tensors: our full name -> tensor.
        vocabulary: the SentencePiece model, copied, from which ``dict.txt`` is made.

    Returns:
        The files written.

    Raises:
        CheckpointError: the model has something that fairseq's XLM-R has not.
    """
    model = Ordered(_named(config, tensors))
    model[ROOT + "sentence_encoder.version"] = _VERSION
    if "lm_head.bias" in tensors and "lm_head.decoder.weight" not in tensors:
        model[ROOT + "lm_head.weight"] = model[ROOT + "sentence_encoder.embed_tokens.weight"]
    value = {
        "args": Namespace(_settings(config)),
        "model": model,
        "optimizer_history": [
            {
                "criterion_name": "MaskedLmLoss",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": None},
                "num_updates": 0,
            }
        ],
        "extra_state": {"epoch": 1, "train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
    folder = make_folder(folder)
    written = [folder / "model.pt"]
    if vocabulary is not None:
        write_text(folder / "dict.txt", dictionary_of(vocabulary, config.vocab_size))
        if vocabulary.resolve() != (folder / VOCABULARY).resolve():
            write_bytes(folder / VOCABULARY, vocabulary.read_bytes())
        written += [folder / "dict.txt", folder / VOCABULARY]
    save_torch(folder / "model.pt", value)  # last: a folder that is not finished has no weights
    return written


def _named(config: Any, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    if config.position_embedding_type != "absolute" or config.is_decoder or config.add_cross_attention:
        raise CheckpointError(
            f"fairseq's XLM-R is an encoder with absolute positions; this model has position_embedding_type="
            f"{config.position_embedding_type!r}, is_decoder={config.is_decoder}"
        )
    out: dict[str, Stored] = {}
    for name, stored in tensors.items():
        if name in (_TYPES, "lm_head.decoder.bias") or name.startswith("roberta.pooler."):
            continue  # folded in below; the same as lm_head.bias; fairseq has no pooler
        theirs = TABLE.to_theirs(name)
        if theirs is not None:
            out[ROOT + theirs] = _with_types(tensors) if name == _POSITIONS else stored
        elif (head := HEADS.to_theirs(name)) is not None:
            out[f"classification_heads.{_HEAD_NAME}.{head}"] = stored
        else:
            raise CheckpointError(f"the tensor {name!r} has no place in a fairseq checkpoint")
    return out


def _with_types(tensors: Mapping[str, Stored]) -> Stored:
    """The position table with the token type that is always added; fairseq has no table of types."""
    positions, types = tensors[_POSITIONS], tensors.get(_TYPES)
    if types is None:
        return positions
    rows = types.read()
    if not np.array_equal(rows, np.broadcast_to(rows[:1], rows.shape)):
        raise CheckpointError(f"{_TYPES}: {rows.shape[0]} different token types; fairseq's XLM-R has one")
    if not rows.any():
        return positions
    folded = positions.read().astype(np.float32) + rows[0].astype(np.float32)
    return Stored.of(folded.astype(positions.dtype))


def _settings(config: Any) -> dict[str, Any]:
    """The settings fairseq builds the model from; those of its training program are the published ones."""
    prenorm = family_of(config).spec(config).norm_order == "pre"
    tokens = config.max_position_embeddings - config.pad_token_id - 1
    return {
        "arch": "roberta_prenorm" if prenorm else "roberta_base",
        "task": "multilingual_masked_lm",
        "criterion": "masked_lm",
        "data": ".",
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "encoder_normalize_before": prenorm,
        "layernorm_embedding": not prenorm,
        "encoder_learned_pos": True,
        "no_scale_embedding": True,
        "no_token_positional_embeddings": False,
        "activation_fn": config.hidden_act,
        "pooler_activation_fn": "tanh",
        "dropout": float(config.hidden_dropout_prob),
        "attention_dropout": float(config.attention_probs_dropout_prob),
        "activation_dropout": 0.0,
        "pooler_dropout": 0.0,
        "untie_weights_roberta": not config.tie_word_embeddings,
        "max_positions": tokens,
        "tokens_per_sample": tokens,
        "sample_break_mode": "complete",
        "mask_prob": 0.15,
        "leave_unmasked_prob": 0.1,
        "random_token_prob": 0.1,
        "mask_whole_words": False,
        "multilang_sampling_alpha": 0.3,
        "shorten_method": "none",
        "bpe": "sentencepiece",
        "seed": 1,
    }


def dictionary_of(vocabulary: Path, rows: int) -> str:
    """``dict.txt``: the pieces without the first three (``<unk> <s> </s>``), which fairseq adds itself with ``<pad>``.

    Where the table has more rows than pieces, ``<mask>`` keeps its id and the rest are words that never occur.

    Raises:
        CheckpointError: the file is no SentencePiece model, or has more pieces than the table has rows.
    """
    from xlm.tokenizers.proto import parse

    words = parse(vocabulary.read_bytes(), str(vocabulary)).pieces()[3:]
    spare = rows - 4 - len(words) - 1
    if spare < 0:
        raise CheckpointError(
            f"{vocabulary}: {len(words)} pieces and 5 special tokens, but the word table has {rows} rows"
        )
    if spare:
        words += ["<mask>", *(f"madeupword{i:04d}" for i in range(spare))]
    return "".join(f"{word} {max(1, len(words) - place)}\n" for place, word in enumerate(words))
