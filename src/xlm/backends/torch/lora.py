"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on linear layers, in the files that ``peft`` reads and writes.

    y = W x + b + (alpha / rank) B A dropout(x)       A (rank, in) random, B (out, rank) zero, W frozen

No package is needed: an adapter is two small matrices a layer and a JSON file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xlm.atomic import make_folder, write_json
from xlm.backends.torch.arrays import array_of, tensor_of
from xlm.backends.torch.models import MODELS
from xlm.backends.torch.ops import PLAIN
from xlm.checkpoints.tensorfile import TensorFile
from xlm.checkpoints.writer import save_safetensors
from xlm.errors import CheckpointError, ConfigError
from xlm.families.auto import AutoConfig
from xlm.jsonfile import read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# What peft calls the tasks of our heads; others are feature extractors.
_TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
}
# Kinds of adapters in peft's files that are more than two matrices a layer.
_UNKNOWN = ("use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "megatron_config", "layer_replication")


class LoraLinear(nn.Module):
    """A linear layer with an adapter beside it."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.ops = PLAIN
        self.base = base.requires_grad_(False)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out)."""
        inner = self.ops.linear(self.lora_A, self.dropout(x))
        return self.ops.linear(self.base, x) + self.ops.linear(self.lora_B, inner) * self.scale

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base layer with the adapter added to its weight, in place."""
        self.base.weight += (self.lora_B.weight @ self.lora_A.weight * self.scale).to(self.base.weight.dtype)
        return self.base


def add_lora(
    model: nn.Module, targets: Sequence[str], rank: int, alpha: float, dropout: float = 0.0, *, rslora: bool = False
) -> None:
    """Freeze a model, the modules of its head apart, and put adapters on the linear layers whose names end in ``targets``.

    Raises:
        ConfigError: a target that is the end of no linear layer's name.
    """
    model.requires_grad_(False)
    for name in head_modules(model):
        model.get_submodule(name).requires_grad_(True)
    scale = alpha / (math.sqrt(rank) if rslora else rank)
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[0] and name.partition(".")[0] not in _heads(model)
    }
    for target in targets:
        if not any(_ends(name, target) for name in linear):
            kinds = sorted({name.rpartition(".")[2] for name in linear})
            raise ConfigError(f"target {target!r}: no linear layer's name ends so; they end in {', '.join(kinds)}")
    for name, module in linear.items():
        if any(_ends(name, target) for target in targets):
            adapted = LoraLinear(module, rank, scale, dropout).to(module.weight.device)
            _put(model, name, adapted.train(module.training))
    model.lora = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": sorted(targets)}  # type: ignore[assignment]
    if rslora:
        model.lora["use_rslora"] = True  # type: ignore[operator]


def head_modules(model: Any) -> list[str]:
    """The names of the modules that a new head consists of: they are saved whole beside adapters."""
    return [name for name in (prefix.rstrip(".") for prefix in model.new_head) if hasattr(model, name)]


def _heads(model: Any) -> set[str]:
    return {*head_modules(model), "lm_head"}


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, module)


def adapters(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def merge_lora(model: nn.Module) -> None:
    """Add every adapter to its layer's weight and take it away: the model is a plain one again."""
    for name, module in adapters(model).items():
        _put(model, name, module.merged())


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """The model with its base layers alone, for as long as the block runs."""
    found = adapters(model)
    for name, module in found.items():
        _put(model, name, module.base)
    try:
        yield
    finally:
        for name, module in found.items():
            _put(model, name, module)


def save_adapter(model: Any, folder: Path, base: str | None = None) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``: the adapters, and the head as it is.

    Args:
        base: the folder or name of the model that the adapter was trained on.
    """
    make_folder(folder)
    tensors = {}
    for name, module in adapters(model).items():
        for part in ("lora_A", "lora_B"):
            tensors[f"{_PREFIX}{name}.{part}.weight"] = array_of(getattr(module, part).weight)
    heads = head_modules(model)
    for name, parameter in model.named_parameters():
        if name.partition(".")[0] in heads:
            tensors[_PREFIX + name] = array_of(parameter)
    kind = next((theirs for ending, theirs in _TASK_TYPES.items() if ending in type(model).__name__), None)
    config = {
        "peft_type": "LORA",
        "task_type": kind or "FEATURE_EXTRACTION",
        "base_model_name_or_path": base,
        **model.lora,
        "modules_to_save": heads or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    save_safetensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config)


def load_adapter(model: Any, folder: Path) -> None:
    """Put a saved adapter, and the head beside it, on a model.

    Raises:
        CheckpointError: no such adapter, or one that does not fit the model.
        ConfigError: an adapter of a kind that is not supported.
    """
    config = read_object(folder / CONFIG)
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise ConfigError(
            f"{folder}: peft_type is {config.get('peft_type')!r}, bias {config.get('bias')!r}: LORA, none"
        )
    for key in _UNKNOWN:
        if config.get(key):
            raise ConfigError(f"{folder}: {key} is {config[key]!r}: adapters of this kind are not supported")
    for key in ("target_modules", "r", "lora_alpha"):
        if key not in config:
            raise CheckpointError(f"{folder / CONFIG}: {key} is missing: no adapter can be made without it")
    targets = config["target_modules"]
    if isinstance(targets, str):
        raise ConfigError(f"{folder}: target_modules is the pattern {targets!r}: a list of names is needed")
    scale = {"rank": config["r"], "alpha": config["lora_alpha"], "dropout": config.get("lora_dropout", 0.0)}
    add_lora(model, targets, **scale, rslora=bool(config.get("use_rslora")))
    file = TensorFile(folder / WEIGHTS)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in file.slots:
            ours = name.removeprefix(_PREFIX)
            target, tensor = parameters.get(ours), tensor_of(file.view(name))
            if target is None or target.shape != tensor.shape:
                shape = "no such layer" if target is None else f"the model has {tuple(target.shape)}"
                raise CheckpointError(f"{folder / WEIGHTS}: {name} of shape {tuple(tensor.shape)}: {shape}")
            target.copy_(tensor)


class Adapted:
    """A model with adapters as training checkpoints keep it: the base as it was, the adapter beside it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the model, adapters included."""
        return self.model.named_parameters()

    def parameters(self) -> Iterator[nn.Parameter]:
        """The same without their names."""
        return self.model.parameters()

    def save_pretrained(self, folder: Path) -> None:
        """The base model's files, and the adapter in a folder of its own."""
        with without_lora(self.model):
            self.model.save_pretrained(folder)
        save_adapter(self.model, Path(folder) / "adapter")

    @classmethod
    def from_pretrained(cls, folder: Path, **options: Any) -> Adapted:
        """The same model again; ``options`` as its own ``from_pretrained`` takes them."""
        name = AutoConfig.from_pretrained(folder).architectures[0]
        model = MODELS[name].from_pretrained(folder, **options)
        load_adapter(model, Path(folder) / "adapter")
        return cls(model)
