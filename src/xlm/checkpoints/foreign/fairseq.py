"""Checkpoints of fairseq's XLM-R (``model.pt``): every historic layout in, today's layout out.

The rows pair our names with today's fairseq names; `old` marks the spellings of 2019. The pre-norm models (XL, XXL) have
the same names, no norm after the embeddings and one after the last layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xlm.checkpoints.checkpoint import Checkpoint, Stored
from xlm.checkpoints.foreign.pickles import plain
from xlm.checkpoints.foreign.torchfile import tensors_of
from xlm.checkpoints.names import NameTable
from xlm.checkpoints.published import to_theirs
from xlm.errors import CheckpointError
from xlm.families.registry import family_of

# ours                                              fairseq, below encoder.
TABLE = NameTable.parse("""
roberta.embeddings.word_embeddings.weight           sentence_encoder.embed_tokens.weight
roberta.embeddings.position_embeddings.weight       sentence_encoder.embed_positions.weight
roberta.embeddings.LayerNorm.{}                     sentence_encoder.layernorm_embedding.{}
roberta.embeddings.LayerNorm.{}                     sentence_encoder.emb_layer_norm.{}                    old
roberta.encoder.layer.{}.attention.self.query.{}    sentence_encoder.layers.{}.self_attn.q_proj.{}
roberta.encoder.layer.{}.attention.self.key.{}      sentence_encoder.layers.{}.self_attn.k_proj.{}
roberta.encoder.layer.{}.attention.self.value.{}    sentence_encoder.layers.{}.self_attn.v_proj.{}
roberta.encoder.layer.{}.attention.output.dense.{}  sentence_encoder.layers.{}.self_attn.out_proj.{}
roberta.encoder.layer.{}.attention.output.LayerNorm.{} sentence_encoder.layers.{}.self_attn_layer_norm.{}
roberta.encoder.layer.{}.attention.output.LayerNorm.{} sentence_encoder.layers.{}.layer_norms.0.{}        old
roberta.encoder.layer.{}.intermediate.dense.{}      sentence_encoder.layers.{}.fc1.{}
roberta.encoder.layer.{}.output.dense.{}            sentence_encoder.layers.{}.fc2.{}
roberta.encoder.layer.{}.output.LayerNorm.{}        sentence_encoder.layers.{}.final_layer_norm.{}
roberta.encoder.layer.{}.output.LayerNorm.{}        sentence_encoder.layers.{}.layer_norms.1.{}           old
roberta.encoder.LayerNorm.{}                        sentence_encoder.layer_norm.{}
lm_head.dense.{}                                    lm_head.dense.{}
lm_head.layer_norm.{}                               lm_head.layer_norm.{}
lm_head.decoder.weight                              lm_head.weight
lm_head.bias                                        lm_head.bias
""")
# ours                  fairseq, below classification_heads.NAME.
HEADS = NameTable.parse("""
classifier.dense.{}     dense.{}
classifier.out_proj.{}  out_proj.{}
""")

ROOT = "encoder."
_WORDS = "roberta.embeddings.word_embeddings.weight"
_TYPES = "roberta.embeddings.token_type_embeddings.weight"
_BUFFERS = re.compile(r"(.*\.)?(version|_float_tensor|num_updates)")
_FUSED = re.compile(r"(.*\.self_attn\.)in_proj_(weight|bias)")
_HEAD = re.compile(r"classification_heads\.([^.]+)\.(.+)")
# Heads of the published sizes, for files whose settings do not say.
_HEADS_OF = {768: 12, 1024: 16, 2560: 32, 4096: 32}


def is_fairseq(value: Mapping[str, Any]) -> bool:
    """Whether what a PyTorch file holds is a fairseq checkpoint of a RoBERTa model."""
    model = value.get("model")
    return isinstance(model, Mapping) and any(".sentence_encoder." in str(name) for name in model)


def settings_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings, whether kept as ``args`` or inside ``cfg``."""
    for source in (value.get("args"), (plain(value.get("cfg")) or {}).get("model")):
        found = plain(source)
        if isinstance(found, dict) and found:
            return found
    return {}


def checkpoint_of(path: Path, value: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint under published names, its config in ``extras["config"]``.

    Raises:
        CheckpointError: a tensor is not one of XLM-R's.
    """
    tensors = dict(_split_fused(tensors_of(value["model"])))
    entries: dict[str, Stored] = {}
    heads: dict[str, dict[str, Stored]] = {}
    unknown = []
    for name, stored in tensors.items():
        if _BUFFERS.fullmatch(name):
            continue
        if head := _HEAD.fullmatch(name):
            heads.setdefault(head[1], {})[head[2]] = stored
            continue
        ours = TABLE.to_ours(re.sub(r"^(encoder|decoder)\.", "", name))
        if ours is None:
            unknown.append(name)
        elif ours in entries:
            raise CheckpointError(f"{path}: the tensor {ours!r} is there twice, the second time as {name!r}")
        else:
            entries[ours] = stored
    settings = settings_of(value)
    config = config_of(path, entries, settings)
    words = entries[_WORDS]
    entries[_TYPES] = Stored.of(np.zeros((1, words.shape[1]), words.dtype))
    _drop_tied(path, entries, value["model"], config)
    chosen = "mnli" if "mnli" in heads else min(heads, default=None)
    if chosen is not None:
        config["architectures"] = [config["architectures"][0].replace("ForMaskedLM", "ForSequenceClassification")]
        for name, stored in heads[chosen].items():
            ours = HEADS.to_ours(name)
            if ours is None:
                unknown.append(f"classification_heads.{chosen}.{name}")
            else:
                entries[ours] = stored
        labels = heads[chosen]["out_proj.bias"].shape[0] if "out_proj.bias" in heads[chosen] else 2
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
    unknown += [f"classification_heads.{name}" for name in heads if name != chosen]
    family = family_of(config["model_type"])
    published = {to_theirs(family, name): stored for name, stored in entries.items()}
    extras = {"config": config, "settings": settings, "unread": unknown}
    return Checkpoint(path, [path], "fairseq", published, {}, extras)


def _split_fused(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, Stored]]:
    """Query, key and value apart, which the first versions kept in one tensor, in this order."""
    for name, stored in tensors.items():
        fused = _FUSED.fullmatch(name)
        if fused is None:
            yield name, stored
            continue
        rows = stored.shape[0] // 3
        for place, part in enumerate("qkv"):
            shape = (rows, *stored.shape[1:])
            read = lambda s=stored, at=place * rows, n=rows: s.read()[at : at + n]  # noqa: E731
            yield f"{fused[1]}{part}_proj.{fused[2]}", Stored(shape, stored.dtype, read, stored.release)


def config_of(path: Path, entries: Mapping[str, Stored], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the published model: sizes from the tensors, the rest from fairseq's settings.

    Raises:
        CheckpointError: a tensor that every XLM-R has is not there, or the number of heads cannot be known.
    """
    first = "roberta.encoder.layer.0.intermediate.dense.weight"
    positions = "roberta.embeddings.position_embeddings.weight"
    if lacking := [name for name in (_WORDS, positions, first) if name not in entries]:
        raise CheckpointError(f"{path}: not a fairseq XLM-R: lacks {TABLE.to_theirs(lacking[0])!r}")
    vocabulary, width = entries[_WORDS].shape
    layers = 1 + max(int(name.split(".")[3]) for name in entries if name.startswith("roberta.encoder.layer."))
    heads = settings.get("encoder_attention_heads", _HEADS_OF.get(width))
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise CheckpointError(f"{path}: its settings give encoder_attention_heads={heads!r} for a width of {width}")
    prenorm = "roberta.embeddings.LayerNorm.weight" not in entries
    prefix = "XLMRobertaXL" if prenorm else "XLMRoberta"
    return {
        "model_type": "xlm-roberta-xl" if prenorm else "xlm-roberta",
        "architectures": [prefix + ("ForMaskedLM" if "lm_head.bias" in entries else "Model")],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": entries[first].shape[0],
        "hidden_act": settings.get("activation_fn", "gelu"),
        "hidden_dropout_prob": settings.get("dropout", 0.1),
        "attention_probs_dropout_prob": settings.get("attention_dropout", 0.1),
        "max_position_embeddings": entries[positions].shape[0],
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def _drop_tied(path: Path, entries: dict[str, Stored], model: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Leave out the output table when it is the word table; otherwise the model is not tied."""
    table = entries.get("lm_head.decoder.weight")
    if table is None:
        return
    words = entries[_WORDS]
    if table.shape != words.shape:
        raise CheckpointError(f"{path}: lm_head.weight has the shape {table.shape}, the word table {words.shape}")
    tensors = {name.partition(".")[2]: tensor for name, tensor in model.items()}
    one, two = tensors["lm_head.weight"], tensors["sentence_encoder.embed_tokens.weight"]
    same = one.storage is two.storage and one.offset == two.offset
    if same or np.array_equal(table.read(), words.read()):
        del entries["lm_head.decoder.weight"]
    else:
        config["tie_word_embeddings"] = False
