"""Names of TensorFlow and Flax parameters -> names of the same published PyTorch model, and which are transposed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from xlm.checkpoints.checkpoint import Checkpoint, Stored
from xlm.checkpoints.names import Match

# Last component in the foreign file -> last component in PyTorch; a kernel is the transpose of a weight.
_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "scale": "weight", "embedding": "weight"}
_LEAVES["embeddings"] = "weight"  # TensorFlow's position and token type tables
_WORD_TABLES = ("word_embeddings", "embeddings")  # of XLM-R and of XLM: the only tables that keep the name `weight`
# The output layer of a language model, as TensorFlow stores its tied table a second time.
_COPIES = ("lm_head.weight", "pred_layer.proj.weight")


def pytorch_name(parts: Iterable[str]) -> Match:
    """The PyTorch name of a parameter whose path in a TensorFlow or Flax model is given, without the model's own name."""
    path = ".".join(parts).replace("_._", ".").split(".")
    leaf = path.pop()
    # XLM's word table is `embeddings.weight` in TensorFlow and PyTorch alike.
    if leaf in _LEAVES:
        return Match(".".join([*path, _LEAVES[leaf]]), leaf == "kernel")
    return Match(".".join([*path, leaf]), False)


def from_tf(name: str) -> Match | None:
    """The PyTorch name of a TensorFlow weight ``roberta/encoder/layer_._0/attention/self/query/kernel:0``."""
    found = pytorch_name(name.removesuffix(":0").split("/"))
    return None if found.name in _COPIES and not found.transposed else found


def to_tf(name: str, axes: int) -> Match:
    """The TensorFlow name of a published PyTorch tensor of a full model, and whether it is transposed on the way."""
    *path, leaf = name.split(".")
    kernel = False
    if any("norm" in part.lower() for part in path[-2:]):  # layer_norm1.0.weight, attention.output.LayerNorm.weight
        leaf = {"weight": "gamma", "bias": "beta"}[leaf]
    elif leaf == "weight" and path[-1] in _WORD_TABLES:
        leaf = "weight"
    elif leaf == "weight" and axes == 2:
        kernel = not path[-1].endswith(("_embeddings", "_embedding"))
        leaf = "kernel" if kernel else "embeddings"
    out = []
    for part in path:
        if out and (part.isdigit() or (out[-1], part) == ("pred_layer", "proj")):
            out[-1] += f"_._{part}"
        else:
            out.append(part)
    return Match("/".join([*out, leaf]), kernel)


def translated(entries: dict[str, Stored], names: Mapping[str, Match | None]) -> dict[str, Stored]:
    """The tensors under PyTorch names; a name that maps to None is a copy and left out."""
    out = {}
    for name, stored in entries.items():
        match = names[name]
        if match is not None:
            out[match.name] = stored.transposed() if match.transposed else stored
    return out


def from_safetensors(checkpoint: Checkpoint) -> Checkpoint:
    """A safetensors file that TensorFlow or Flax wrote (its metadata says so) under PyTorch names."""
    kind = checkpoint.metadata["format"]
    if kind == "tf":
        names = {name: from_tf(name) for name in checkpoint.entries}
    else:
        names = {name: pytorch_name(name.split(".")) for name in checkpoint.entries}
    checkpoint.entries = translated(checkpoint.entries, names)
    checkpoint.format = {"tf": "tensorflow", "flax": "flax"}[kind]
    return checkpoint
