"""Tiny models of every family and head, and inputs and labels that suit them; the suites are parametrised over ``HEADS``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

import xlm

VOCAB, HIDDEN, LABELS = 41, 16, 3


@dataclass(frozen=True)
class Head:
    """One documented class: its name, its family and what its head does."""

    name: str
    family: str
    kind: str

    @property
    def cls(self) -> Any:
        return getattr(xlm, self.name)

    def __str__(self) -> str:
        return self.name


R_HEADS = {
    "Model": "model",
    "ForCausalLM": "causal",
    "ForMaskedLM": "masked",
    "ForSequenceClassification": "classify",
    "ForMultipleChoice": "choose",
    "ForTokenClassification": "tag",
    "ForQuestionAnswering": "answer",
}
XLM_HEADS = {
    "Model": "model",
    "WithLMHeadModel": "masked",
    "ForSequenceClassification": "classify",
    "ForMultipleChoice": "choose",
    "ForTokenClassification": "tag",
    "ForQuestionAnsweringSimple": "answer",
    "ForQuestionAnswering": "beam",
}
FAMILIES = {
    "xlm": ("XLM", XLM_HEADS),
    "xlm-roberta": ("XLMRoberta", R_HEADS),
    "xlm-roberta-xl": ("XLMRobertaXL", R_HEADS),
}
HEADS = [
    Head(prefix + name, family, kind) for family, (prefix, heads) in FAMILIES.items() for name, kind in heads.items()
]
MODELS = [head for head in HEADS if head.kind == "model"]
LM_HEADS = [head for head in HEADS if head.kind in ("masked", "causal")]
ONE_A_FAMILY = [head for head in HEADS if head.kind == "masked"]
"""What the quick tests take where all heads would take long."""


def options(family: str) -> dict[str, Any]:
    """Config values of a tiny model without dropout."""
    if family == "xlm":
        sizes = {"emb_dim": HIDDEN, "n_layers": 2, "n_heads": 2, "n_langs": 2, "dropout": 0.0, "attention_dropout": 0.0}
        return {
            **sizes,
            "vocab_size": VOCAB,
            "max_position_embeddings": 20,
            "summary_first_dropout": 0.0,
            "start_n_top": 2,
            "end_n_top": 2,
            "init_std": 0.2,
            "embed_init_std": 0.2,
        }
    return {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 22,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
    }


def config(head: Head, **more: Any) -> Any:
    """The head's config, as a decoder where the head is one."""
    own: dict[str, Any] = {"num_labels": LABELS} if head.kind in ("classify", "tag") else {}
    if head.kind == "causal":
        own["is_decoder"] = True
    if head.kind == "choose":
        own["num_labels"] = 1
    return head.cls.config_class(**{**options(head.family), **own, **more})


def model(head: Head, seed: int = 0, **more: Any) -> Any:
    """A model in evaluation mode with weights that depend on the seed alone, biases and norms included."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = head.cls(config(head, **more)).eval()
    return stir(made)


@torch.no_grad()
def stir(made: torch.nn.Module) -> Any:
    """Move what initialisation leaves at zero or one, so that no test passes by accident."""
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def pad_id(family: str) -> int:
    return 2 if family == "xlm" else 1


def ids(head: Head, batch: int = 3, length: int = 7, seed: int = 1) -> torch.Tensor:
    """Ids without padding: (batch, length), (batch, 3, length) for multiple choice."""
    shape = (batch, 3, length) if head.kind == "choose" else (batch, length)
    return torch.randint(4, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def labels(head: Head, given: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels that suit the head and ids of a shape; nothing for a model without a head."""
    batch, length = given.shape[0], given.shape[-1]
    draw = torch.Generator().manual_seed(7)
    if head.kind == "model":
        return {}
    if head.kind in ("answer", "beam"):
        start = torch.randint(0, length, (batch,), generator=draw)
        return {"start_positions": start, "end_positions": torch.randint(0, length, (batch,), generator=draw)}
    if head.kind in ("masked", "causal", "tag"):
        chosen = torch.randint(0, LABELS if head.kind == "tag" else VOCAB, given.shape, generator=draw)
        chosen[:, 1] = -100
        return {"labels": chosen}
    return {"labels": torch.randint(0, 3 if head.kind == "choose" else LABELS, (batch,), generator=draw)}


def scores(output: Any) -> torch.Tensor:
    """What a head is for: its first output that is not a loss."""
    return next(value for name, value in output.items() if name != "loss")
