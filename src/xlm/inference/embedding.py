"""How a checkpoint wants texts turned into vectors, as its folder says it.

Folders of sentence-transformers say it in ``modules.json`` (pooling, unit length, prompts, the longest text); bge-m3 has two
more heads beside the encoder: ``sparse_linear.pt``, one weight a token, and ``colbert_linear.pt``, one vector a token (Chen et
al. 2024, arXiv:2402.03216, section 3.1). A folder that says nothing is read as the mean over tokens, of unit length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xlm.backends.torch.ops_invariant import in_blocks
from xlm.backends.torch.transfer import upload
from xlm.checkpoints.shards import safe_member
from xlm.errors import CheckpointError, InputError
from xlm.hub import HEADS
from xlm.jsonfile import read_json, read_object

Floats = NDArray[np.float32]
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Linear:
    """A head of one matrix: ``weight`` (out, hidden) and ``bias`` (out,), float32."""

    weight: Floats
    bias: Floats

    def __call__(self, states: Floats) -> Floats:
        return states @ self.weight.T + self.bias

    @cached_property
    def _placed(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Weight and bias on a device, copied there once."""
        if device not in self._placed:
            weight, bias = (upload(torch.from_numpy(array), device) for array in (self.weight, self.bias))
            self._placed[device] = weight, bias
        return self._placed[device]


@dataclass(frozen=True)
class Embedding:
    """What a folder says of its vectors.

    Attributes:
        pooling: ``mean``, ``cls`` or ``max``.
        normalize: whether vectors have unit length.
        prompts: name -> text that is put before every input.
        default_prompt: the name of the one that is used when none is asked for.
        max_tokens: the longest input, special tokens included; None: the model's own limit.
        sparse, multi: bge-m3's heads, where the folder has them.
        said: whether the folder says anything of vectors; else the above are what is usual.
    """

    pooling: str = "mean"
    normalize: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_tokens: int | None = None
    sparse: Linear | None = None
    multi: Linear | None = None
    said: bool = False

    def prompt(self, name: str | None) -> str:
        """The text of a prompt; ``None`` is the default one.

        Raises:
            InputError: there is no such prompt.
        """
        if name is None:
            return self.prompts[self.default_prompt] if self.default_prompt else ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise InputError(f"prompt is {name!r}: this checkpoint has {known}")
        return self.prompts[name]


def read_embedding(folder: Path, allow_pickle: bool = True) -> Embedding:
    """Read what ``folder`` says.

    Args:
        allow_pickle: whether bge-m3's heads, which are PyTorch's pickles, may be read.

    Raises:
        CheckpointError: a module that is not known here, a damaged file, or a pickle that is not allowed.
    """
    for name in HEADS:
        if not allow_pickle and (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name}: a pickle, and allow_pickle=False: remove it to do without this head"
            )
    sparse, multi = (_linear(folder / name) for name in HEADS)
    modules = folder / "modules.json"
    if not modules.is_file():
        # bge-m3's own head reads the first token; its folder has modules.json too, but a bare copy may not.
        bare = "cls" if sparse or multi else "mean"
        return Embedding(pooling=bare, sparse=sparse, multi=multi, said=bool(sparse or multi))
    pooling, normalize = "mean", False
    for module in _modules(modules):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind not in _KNOWN_MODULES:
            raise CheckpointError(
                f"{modules}: module {kind!r} is not known: only {', '.join(_KNOWN_MODULES)} are; "
                "vectors without it would be wrong"
            )
        if kind == "Pooling":
            if not isinstance(module.get("path"), str):
                raise CheckpointError(f"{modules}: module {kind!r} has path {module.get('path')!r}: it must be a text")
            pooling = _pooling(safe_member(folder, f"{module['path']}/config.json", modules, "module"))
        normalize |= kind == "Normalize"
    prompts, default = _prompts(folder / "config_sentence_transformers.json")
    longest = _longest(folder / "sentence_bert_config.json")
    return Embedding(pooling, normalize, prompts, default, longest, sparse, multi, said=True)


def _modules(path: Path) -> list[dict[str, Any]]:
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise CheckpointError(f"{path}: a list of modules is needed, each a mapping")
    return found


def _prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """Prompts by name, and the name of the default one."""
    settings = read_object(path) if path.is_file() else {}
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict):
        raise CheckpointError(f"{path}: prompts is {prompts!r}: names with texts are needed")
    texts = {name: text for name, text in prompts.items() if isinstance(text, str)}
    if default is not None and (not isinstance(default, str) or default not in texts):
        raise CheckpointError(f"{path}: default_prompt_name is {default!r}: there is no such prompt")
    return texts, default


def _longest(path: Path) -> int | None:
    """The longest input in tokens, if it is said."""
    longest = read_object(path).get("max_seq_length") if path.is_file() else None
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int) or longest < 1):
        raise CheckpointError(f"{path}: max_seq_length is {longest!r}: it must be an integer of at least 1")
    return longest


def _pooling(path: Path) -> str:
    config = read_object(path)
    if isinstance(config.get("pooling_mode"), str):
        chosen = [config["pooling_mode"]]
    else:
        chosen = [
            key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on
        ]
    names = {"cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean", "max_tokens": "max", "max": "max"}
    if len(chosen) != 1 or chosen[0] not in names:
        raise CheckpointError(f"{path}: pooling is {chosen}: one of cls_token, mean_tokens, max_tokens is known")
    if not config.get("include_prompt", True):
        raise CheckpointError(f"{path}: include_prompt is false: pooling without the prompt's tokens is not known")
    return names[chosen[0]]


def _linear(path: Path) -> Linear | None:
    if not path.is_file():
        return None
    from xlm.checkpoints.foreign.pytorch import open_torch  # few models have such a file

    tensors = open_torch(path)
    if missing := {"weight", "bias"} - set(tensors):
        raise CheckpointError(
            f"{path}: {', '.join(sorted(missing))} is missing: it has {', '.join(tensors) or 'nothing'}"
        )
    return Linear(tensors["weight"].astype(np.float32), tensors["bias"].astype(np.float32))


def linear_rows(
    head: Linear, states_TH: Tensor, lengths: Sequence[int], first: int = 0, batch_invariant: bool = False
) -> Tensor:
    """What a head makes of the states of sequences end to end, of each without its ``first`` tokens: (rows, out) float32
    where the states are; on the CPU sequence by sequence, so that none depends on another, and if asked in blocks on a GPU."""
    ends = np.cumsum(lengths)
    if states_TH.device.type == "cpu":
        states = states_TH.float().numpy()
        spans = zip(ends, lengths, strict=True)
        return torch.from_numpy(np.concatenate([head(states[end - n + first : end]) for end, n in spans]))
    if first:
        states_TH = states_TH.index_select(0, upload(torch.from_numpy(after(lengths, first)), states_TH.device))
    weight, bias = head.on(states_TH.device)

    def product(rows: Tensor) -> Tensor:
        return torch.nn.functional.linear(rows, weight, bias)

    return in_blocks(product, states_TH.float()) if batch_invariant else product(states_TH.float())


def after(lengths: Sequence[int], first: int) -> NDArray[np.int64]:
    """The places of tokens of sequences end to end, without the ``first`` of each."""
    starts = np.cumsum(lengths) - lengths
    places = np.arange(sum(lengths))
    return places[places - np.repeat(starts, lengths) >= first]


def sparse_weights(weights: Floats, ids: list[int], ignored: set[int]) -> dict[int, float]:
    """id -> the largest weight it has in a text; special tokens and weights that are not above 0 are left out.

    Args:
        weights: (tokens,) of the sparse head, before its ReLU.
        ids: the text's tokens.
        ignored: ids of special tokens.
    """
    found: dict[int, float] = {}
    for token_id, weight in zip(ids, weights.tolist(), strict=True):
        if weight > max(0.0, found.get(token_id, 0.0)) and token_id not in ignored:
            found[token_id] = weight
    return found
