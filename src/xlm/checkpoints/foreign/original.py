"""Checkpoints of the original XLM code (``.pth``): tensors, settings, and the vocabulary that they carry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xlm.checkpoints.checkpoint import Checkpoint
from xlm.checkpoints.foreign.pickles import plain
from xlm.checkpoints.foreign.torchfile import tensors_of
from xlm.errors import CheckpointError
from xlm.families.registry import family_of

# Settings of the training program that say what the model is; the others are paths, hosts and schedules.
_SETTINGS = (
    *("emb_dim", "n_layers", "n_heads", "n_words", "n_langs", "dropout", "attention_dropout", "gelu_activation"),
    *("sinusoidal_embeddings", "use_lang_emb", "asm", "asm_cutoffs", "asm_div_value", "lang2id", "id2lang"),
    *("bos_index", "eos_index", "pad_index", "unk_index", "mask_index", "max_vocab", "lgs"),
)
_SPECIALS = 14  # <s> </s> <pad> <unk> and ten <specialN>, which are words of their own
_CROSS = ("layer_norm15.", "encoder_attn.")
# The heads of an encoder are there for its own pretraining; a translation model has no use for them.
_HEAD = "pred_layer."
_TABLES = ("embeddings.weight", "position_embeddings.weight", "lang_embeddings.weight")
# Models that were trained on text with its case and accents, by their number of languages.
_CASED = (17, 100)


def is_original(value: Mapping[str, Any]) -> bool:
    """Whether what a PyTorch file holds is a checkpoint of the original XLM."""
    return isinstance(value.get("params"), Mapping) and ("model" in value or "encoder" in value)


def checkpoint_of(path: Path, value: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint under published names, with config and vocabulary in ``extras``.

    A translation model (``encoder`` and ``decoder``) becomes an encoder-decoder; what its encoder has of a language-model
    head is named under ``unread``.

    Raises:
        CheckpointError: there are no tensors, they are a decoder's without its encoder, or of a kind that is not supported.
    """
    params = plain(value["params"])
    translates = "encoder" in value and "decoder" in value
    if translates:
        entries, config, unread = _both(path, value, params)
    else:
        part = "model" if "model" in value else "encoder"
        entries, unread = _side(path, part, value[part], decoder=False), []
        config = config_of(path, entries, params)
    extras = {
        "config": config,
        "vocabulary": vocabulary_of(path, value),
        "tokenizer": {"do_lowercase_and_remove_accent": params.get("n_langs") not in _CASED},
        "unread": unread,
    }
    return Checkpoint(path, [path], "xlm", entries, {}, extras)


def _side(path: Path, part: str, value: Any, decoder: bool) -> dict[str, Any]:
    """The tensors of one model of the file, under the published names of a model with a head."""
    entries = {}
    for raw, stored in tensors_of(value).items():
        name = raw.removeprefix("module.")
        if name.startswith("memories."):
            raise CheckpointError(f"{path}: holds {name!r}: product-key memories are not supported")
        if name.startswith(_CROSS) and not decoder:
            raise CheckpointError(
                f"{path}: its {part!r} holds {name!r}: decoders of translation models are read together with their encoder"
            )
        entries[name if _HEAD in name else f"transformer.{name}"] = stored
    if "transformer.embeddings.weight" not in entries:
        raise CheckpointError(f"{path}: its {part!r} holds no word table 'embeddings.weight'")
    return entries


def _both(
    path: Path, value: Mapping[str, Any], params: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Tensors, config and unread names of a translation model."""
    reads = _side(path, "encoder", value["encoder"], decoder=False)
    writes = _side(path, "decoder", value["decoder"], decoder=True)
    shared = all(
        _same(reads[name], writes[name])
        for name in (f"transformer.{table}" for table in _TABLES)
        if name in reads and name in writes
    )
    sides = {
        "encoder": config_of(path, {k: v for k, v in reads.items() if not k.startswith(_HEAD)}, params),
        "decoder": config_of(path, writes, params) | {"is_decoder": True, "add_cross_attention": True},
    }
    for side in (reads, writes):  # the head's tied copy of the word table
        if f"{_HEAD}proj.weight" in side and _same(side[f"{_HEAD}proj.weight"], side["transformer.embeddings.weight"]):
            del side[f"{_HEAD}proj.weight"]
    if f"{_HEAD}proj.weight" in writes:
        sides["decoder"]["tie_word_embeddings"] = False
    entries, unread = {}, []
    for name, stored in reads.items():
        if name.startswith(_HEAD):
            unread.append(f"encoder.{name}")
        else:
            entries[f"encoder.{name.removeprefix('transformer.')}"] = stored
    tables = [f"transformer.{table}" for table in _TABLES] if shared else []
    entries |= {f"decoder.{name}": stored for name, stored in writes.items() if name not in tables}
    config = {
        "model_type": "encoder-decoder",
        "architectures": ["EncoderDecoderModel"],
        "share_embeddings": shared,
        "directions": _directions(params),
        **sides,
    }
    return entries, config, unread


def _same(one: Any, two: Any) -> bool:
    return one.shape == two.shape and np.array_equal(one.read(), two.read())


def _directions(params: Mapping[str, Any]) -> list[list[str]] | None:
    """What the model was trained to translate, as its training steps say: pairs, and the way back of round trips."""
    found = []
    for key, size, ends in (("mt_steps", 2, slice(None)), ("bt_steps", 3, slice(1, None))):
        steps = params.get(key)
        for step in steps if isinstance(steps, list | tuple) else ():
            names = step.split("-") if isinstance(step, str) else list(step) if isinstance(step, list | tuple) else []
            if len(names) == size and all(isinstance(name, str) for name in names):
                found.append(names[ends])
    return [pair for at, pair in enumerate(found) if pair not in found[:at]] or None


def config_of(path: Path, entries: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the published model: the settings that say what it is, the sizes held against the tensors.

    Raises:
        CheckpointError: a setting contradicts the tensors.
    """
    config: dict[str, Any] = {"model_type": family_of("xlm").model_type}
    config |= {key: params[key] for key in _SETTINGS if key in params and _is_plain(params[key])}
    rows, width = entries["transformer.embeddings.weight"].shape
    for key, found in (("n_words", rows), ("emb_dim", width)):
        if config.setdefault(key, found) != found:
            raise CheckpointError(f"{path}: its params say {key}={config[key]!r}, its word table has {found}")
    config["vocab_size"] = config.pop("n_words")
    if "transformer.position_embeddings.weight" in entries:
        config["max_position_embeddings"] = entries["transformer.position_embeddings.weight"].shape[0]
    if config.get("n_langs", 1) > 1 and "use_lang_emb" not in config:
        config["use_lang_emb"] = "transformer.lang_embeddings.weight" in entries
    if config.get("asm"):
        config["tie_word_embeddings"] = False
    lm = any(name.startswith("pred_layer.") for name in entries)
    config["architectures"] = ["XLMWithLMHeadModel" if lm else "XLMModel"]
    return config


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)


def vocabulary_of(path: Path, value: Mapping[str, Any]) -> dict[str, int]:
    """``vocab.json`` of the published tokenizer: a word that is not continued ends in ``</w>``, others lose their ``@@``.

    Raises:
        CheckpointError: the file's two dictionaries are no inverse of each other.
    """
    words = value.get("dico_word2id")
    if words is None:
        return {}
    if not isinstance(words, Mapping) or any(type(i) is not int or i < 0 for i in words.values()):
        raise CheckpointError(f"{path}: its dico_word2id does not map words to numbers")
    ids = value.get("dico_id2word")
    if isinstance(ids, Mapping) and any(ids.get(i) != word for word, i in words.items()):
        raise CheckpointError(f"{path}: its dico_id2word and dico_word2id contradict each other")
    out: dict[str, int] = {}
    for word, i in words.items():
        token = word.replace("@@", "") if "@@" in word or i < _SPECIALS else word + "</w>"
        if token in out:
            raise CheckpointError(f"{path}: two words of its vocabulary are {token!r}: ids {out[token]} and {i}")
        out[token] = i
    return out
