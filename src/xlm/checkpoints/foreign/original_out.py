"""Writing models of the XLM family as the original code keeps them: ``model.pth`` with its vocabulary, and ``codes``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xlm.atomic import make_folder, write_bytes
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.foreign.torchsave import Ordered, save_torch
from xlm.checkpoints.published import sides_of
from xlm.errors import CheckpointError, InputError
from xlm.jsonfile import read_object

_END = "</w>"
_HEAD = "pred_layer.proj."


def save_original(folder: Path, config: Any, tensors: Mapping[str, Stored], source: Path) -> list[Path]:
    """Write a checkpoint that the original code's ``translate.py`` and its reloading read.

    Args:
        folder: made if need be.
        config: of an XLM model, or of an encoder-decoder whose sides are XLM models of the same sizes.
        tensors: our full name -> tensor, behind ``encoder.`` and ``decoder.`` for two sides.
        source: the folder with ``vocab.json`` and ``merges.txt``, which become part of the checkpoint and ``codes``.

    Returns:
        The files written.

    Raises:
        InputError: the model is of another family.
        CheckpointError: there is no vocabulary, or the sides differ in size.
    """
    sides = sides_of(config)
    for side in sides:
        if side.family.model_type != "xlm":
            raise InputError(f"to='xlm': {side.family.model_type} models have no layout of the original XLM")
    states = {side.prefix.removesuffix(".") or "model": _state(side, tensors) for side in sides}
    if len(sides) == 2:
        _complete(states, config)
    words = _words(source, sides[0].config.vocab_size)
    value = {
        **states,
        "params": _params(sides, config),
        "dico_id2word": dict(enumerate(words)),
        "dico_word2id": {word: number for number, word in enumerate(words)},
        "dico_counts": dict.fromkeys(words, 1),
        "epoch": 0,
        "n_total_iter": 0,
    }
    folder = make_folder(folder)
    written = [folder / "model.pth"]
    if (source / "merges.txt").is_file():
        write_bytes(folder / "codes", (source / "merges.txt").read_bytes())
        written.append(folder / "codes")
    save_torch(folder / "model.pth", value)  # last: a folder that is not finished has no weights
    return written


def _state(side: Any, tensors: Mapping[str, Stored]) -> Ordered:
    state = Ordered()
    for name, stored in tensors.items():
        theirs = side.to_theirs(name)
        if theirs is not None:
            state[theirs.removeprefix(side.prefix).removeprefix("transformer.")] = stored
    if f"{_HEAD}bias" in state and "embeddings.weight" in state:
        state.setdefault(f"{_HEAD}weight", state["embeddings.weight"])
    return state


def _complete(states: dict[str, Ordered], config: Any) -> None:
    """Give each side what the original code holds apart: tables of its own, and the encoder a head."""
    reads, writes = states["encoder"], states["decoder"]
    if config.share_embeddings:
        for name in ("embeddings.weight", "position_embeddings.weight", "lang_embeddings.weight"):
            if name in reads:
                writes.setdefault(name, reads[name])
    writes.setdefault(f"{_HEAD}weight", writes["embeddings.weight"])
    rows = reads["embeddings.weight"].shape[0]
    reads[f"{_HEAD}weight"] = reads["embeddings.weight"]
    reads[f"{_HEAD}bias"] = Stored.of(np.zeros(rows, dtype=np.float32))


def _params(sides: list[Any], config: Any) -> dict[str, Any]:
    own = sides[0].config
    keys = ("emb_dim", "n_layers", "n_heads", "n_langs", "dropout", "attention_dropout", "gelu_activation")
    for side in sides[1:]:
        for key in (*keys[:4], "vocab_size"):
            if getattr(side.config, key) != getattr(own, key):
                raise CheckpointError(
                    f"to='xlm': {key} is {getattr(own, key)} in the encoder and {getattr(side.config, key)} in the decoder; "
                    "the original code has one for both"
                )
    keys += (
        "sinusoidal_embeddings",
        "use_lang_emb",
        "asm",
        "bos_index",
        "eos_index",
        "pad_index",
        "unk_index",
        "mask_index",
    )
    params = {key: getattr(own, key) for key in keys}
    params |= {key: getattr(own, key) for key in ("asm_cutoffs", "asm_div_value", "lang2id") if hasattr(own, key)}
    if "lang2id" in params:
        params["id2lang"] = {row: name for name, row in params["lang2id"].items()}
        params["langs"] = sorted(params["lang2id"])
    # What only its training reads, but its constructor asks for.
    params |= {"n_words": own.vocab_size, "share_inout_emb": bool(own.tie_word_embeddings), "use_memory": False}
    if len(sides) == 2:
        params |= {"encoder_only": False, "mt_steps": [tuple(pair) for pair in config.directions or ()]}
    return params


def _words(source: Path, rows: int) -> list[str]:
    """The words in the order of their ids: a piece that ends no word is followed by ``@@``."""
    file = source / "vocab.json"
    if not file.is_file():
        raise CheckpointError(f"to='xlm': {source} has no vocab.json, and the vocabulary is part of the checkpoint")
    ids: dict[str, int] = read_object(file)
    words = [""] * rows
    for token, number in ids.items():
        if type(number) is not int or not 0 <= number < rows or words[number]:
            raise CheckpointError(
                f"{file}: {token!r} has the id {number!r}: ids must be different, from 0 to {rows - 1}"
            )
        special = number < 14
        words[number] = token if special else token.removesuffix(_END) if token.endswith(_END) else f"{token}@@"
    if "" in words:
        raise CheckpointError(f"{file}: no token has the id {words.index('')}, and the word table has a row for it")
    return words
