"""Checkpoints of the original XLM code (``.pth``): tensors, settings, and the vocabulary that they carry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
_UNSUPPORTED = ("layer_norm15.", "encoder_attn.", "memories.")
# Models that were trained on text with its case and accents, by their number of languages.
_CASED = (17, 100)


def is_original(value: Mapping[str, Any]) -> bool:
    """Whether what a PyTorch file holds is a checkpoint of the original XLM."""
    return isinstance(value.get("params"), Mapping) and ("model" in value or "encoder" in value)


def checkpoint_of(path: Path, value: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint under published names, with config and vocabulary in ``extras``.

    Raises:
        CheckpointError: there are no tensors, or they are a translation model's decoder.
    """
    part = "model" if "model" in value else "encoder"
    entries = {}
    for raw, stored in tensors_of(value[part]).items():
        name = raw.removeprefix("module.")
        if name.startswith(_UNSUPPORTED):
            raise CheckpointError(
                f"{path}: holds {name!r}: decoders of translation models and memories are not supported"
            )
        entries[name if "pred_layer" in name else f"transformer.{name}"] = stored
    if "transformer.embeddings.weight" not in entries:
        raise CheckpointError(f"{path}: its {part!r} holds no word table 'embeddings.weight'")
    params = plain(value["params"])
    extras = {
        "config": config_of(path, entries, params),
        "vocabulary": vocabulary_of(path, value),
        "tokenizer": {"do_lowercase_and_remove_accent": params.get("n_langs") not in _CASED},
        "unread": ["decoder"] if "decoder" in value else [],
    }
    return Checkpoint(path, [path], "xlm", entries, {}, extras)


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
