"""The model of a fine-tuning: loaded with the head of its task, told its labels, and made to learn in part or whole."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from xlm.assets import BUNDLED
from xlm.backends.torch import auto
from xlm.backends.torch.lora import Adapted, add_lora, head_modules
from xlm.data.random import torch_seed
from xlm.errors import ConfigError
from xlm.families.auto import AutoConfig
from xlm.families.registry import family_of
from xlm.hub import resolve
from xlm.tasks.base import Task
from xlm.tasks.classify import PROBLEM_TYPES, Classify
from xlm.training.finetune_recipe import FineTune, default_rate, model_path

_AUTO = {
    "ForSequenceClassification": auto.AutoModelForSequenceClassification,
    "ForTokenClassification": auto.AutoModelForTokenClassification,
    "ForQuestionAnswering": auto.AutoModelForQuestionAnswering,
    "ForMultipleChoice": auto.AutoModelForMultipleChoice,
    "ForMaskedLM": auto.AutoModelForMaskedLM,
    "ForCausalLM": auto.AutoModelForCausalLM,
    "Model": auto.AutoModel,
}

# How the tensors of heads begin; a pooler belongs to the head where pretraining had none.
_NEW = ("classifier.", "qa_outputs.", "sequence_summary.", "logits_proj.", "roberta.pooler.")


def folder_of(recipe: FineTune) -> Any:
    """Where the model's files are."""
    return resolve(BUNDLED if recipe.model is None else model_path(recipe.base, recipe.model))


def make_model(recipe: FineTune, task: Task, folder: Any) -> Any:
    """The pretrained model in float32 with the task's head; a head that is trained already is kept.

    Raises:
        ConfigError: the folder's head has other labels than the data.
    """
    torch.manual_seed(torch_seed(recipe.seed, "head"))
    config = AutoConfig.from_pretrained(folder)
    family = family_of(config)
    trained = any(name.endswith(task.head) for name in config.architectures or ())
    options: dict[str, Any] = {"dtype": "float32"}
    if task.head == "Model" and family.pooler:
        options["add_pooling_layer"] = False
    options |= _labels(task, config, trained, str(folder))
    if task.head == "ForCausalLM":
        options[family.causal_switch] = True
    if recipe.dropout is not None:
        options |= {key: recipe.dropout for key in ("hidden_dropout_prob", "dropout") if hasattr(config, key)}
    with _new_heads_are_expected():
        model = _AUTO[task.head].from_pretrained(folder, **options)
    _learn(model, recipe)
    return model


@contextmanager
def _new_heads_are_expected() -> Iterator[None]:
    """Loading warns of tensors that are not in the checkpoint; here a new head is what was asked for."""
    log = logging.getLogger("xlm")

    def is_news(record: logging.LogRecord) -> bool:
        made = getattr(record.args[0], "initialised", ()) if isinstance(record.args, tuple) and record.args else ()
        return not made or not all(name.startswith(_NEW) for name in made)

    log.addFilter(is_news)
    try:
        yield
    finally:
        log.removeFilter(is_news)


def _labels(task: Task, config: Any, trained: bool, folder: str) -> dict[str, Any]:
    """Config fields that say what the head's outputs mean."""
    if task.head not in ("ForSequenceClassification", "ForTokenClassification"):
        return {}
    if trained:
        known = tuple(config.id2label[number] for number in range(config.num_labels))
        if task.labels and known != task.labels:
            raise ConfigError(
                f"{folder}: its head has {len(known)} labels ({_some(known)}), the data {len(task.labels)} "
                f"({_some(task.labels)}): they must be the same; begin from a model without a trained head"
            )
    if not task.labels:
        return {"num_labels": 1, "problem_type": "regression"}
    found: dict[str, Any] = {
        "id2label": dict(enumerate(task.labels)),
        "label2id": {label: number for number, label in enumerate(task.labels)},
    }
    if isinstance(task, Classify):
        found["problem_type"] = PROBLEM_TYPES[task.problem]
    return found


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")


def _learn(model: Any, recipe: FineTune) -> None:
    """Freeze what the recipe does not let learn, and put adapters where it wants them.

    Raises:
        ConfigError: more frozen layers than there are.
    """
    tuning = recipe.tuning
    if tuning.kind == "lora":
        add_lora(model, tuning.lora.targets, tuning.lora.rank, tuning.lora.alpha, tuning.lora.dropout)
    elif tuning.kind == "frozen":
        model.base_model.requires_grad_(False)
        pooler = getattr(model.base_model, "pooler", None)
        if pooler is not None:  # pretraining never touched it: it belongs to the head
            pooler.requires_grad_(True)
    if tuning.frozen_layers:
        layers = model.spec.num_layers
        if tuning.frozen_layers > layers:
            raise ConfigError(f"tuning.frozen_layers = {tuning.frozen_layers}: the model has {layers} layers")
        model.encoder_host.embeddings.requires_grad_(False)
        for layer in model.encoder_host.encoder.layer[: tuning.frozen_layers]:
            layer.requires_grad_(False)


def kept(model: Any) -> Any:
    """The model as checkpoints keep it."""
    return Adapted(model) if hasattr(model, "lora") else model


def reloaded(model: Any, folder: Any) -> Any:
    """The model that ``kept(model).save_pretrained`` wrote to ``folder``, of the same parts."""
    bare = model.base_model is model and family_of(model.config).pooler and getattr(model, "pooler", None) is None
    found = type(kept(model)).from_pretrained(folder, **({"add_pooling_layer": False} if bare else {}))
    return found.model if isinstance(found, Adapted) else found


def learning_rate(recipe: FineTune, model: Any) -> float:
    """The recipe's, or that which suits the model's width."""
    return recipe.learning_rate or default_rate(model.spec.hidden_size, recipe.tuning)


def build_optimizer(model: Any, recipe: FineTune, rate: float) -> torch.optim.Optimizer:
    """AdamW; a group of parameters a layer and kind, each with its factor of the learning rate.

    Biases and norms are not decayed. The embeddings are the lowest layer.
    """
    options, tuning = recipe.optimizer(rate), recipe.tuning
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    heads = (*head_modules(model), "lm_head")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = options.weight_decay if parameter.ndim >= 2 else 0.0
        factor = tuning.head_rate if name.partition(".")[0] in heads else _factor(model, name, tuning.layer_decay)
        groups.setdefault((decay, factor), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": of, "weight_decay": decay, "rate": factor} for (decay, factor), of in groups.items()],
        lr=rate,
        betas=options.betas,
        eps=options.eps,
        fused=True,
    )


def _factor(model: Any, name: str, decay: float) -> float:
    """``decay`` to the power of a parameter's depth below the head."""
    if decay == 1.0:
        return 1.0
    layers = model.spec.num_layers
    found = re.search(r"(?:^|\.)encoder\.layer\.(\d+)\.", name)
    if found:
        return decay ** (layers - int(found[1]))
    return decay ** (layers + 1) if "embeddings." in name else 1.0
