"""What all models with a head share, whatever their family's calling convention."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from xlm.backends.torch.generation import GenerationMixin
from xlm.backends.torch.heads import LMHead, XLMHead
from xlm.backends.torch.pretrained import PreTrainedModel
from xlm.batches.batch import Batch
from xlm.errors import InputError


class HeadModel(PreTrainedModel):
    """Abstract: a trunk under ``roberta`` and a head."""

    trunk_class: ClassVar[type[Any]]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.roberta = self.build_trunk(config)
        self.build_head(config)
        if next(self.parameters()).device.type != "meta":
            for name, module in self.named_modules():
                if name and not name.startswith("roberta"):
                    self._init_module(name, module)
        self.tie_weights()

    def build_trunk(self, config: Any) -> Any:
        """Make the model under the head."""
        return self.trunk_class(config)

    def build_head(self, config: Any) -> None:
        """Make the head's modules."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def states(self, batch: Batch, rows: Tensor | None = None, causal: bool | None = None) -> Tensor:
        """Last hidden states of a batch: see ``TrunkModel.states``."""
        return self.roberta.states(batch, rows, causal)

    def _wants_dict(self, return_dict: bool | None) -> bool:
        return bool(self.config.use_return_dict if return_dict is None else return_dict)


class LMHeadModel(HeadModel, GenerationMixin):
    """Abstract: a model whose head scores the vocabulary."""

    lm_head: LMHead | XLMHead

    def lm_logits(self, rows: Tensor) -> Tensor:
        """The head on chosen states: (rows, hidden) -> (rows, vocab)."""
        return self.lm_head(rows)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the decoder; it must score as many words as there are, so a larger word table comes first."""
        table, wanted = getattr(new_embeddings, "weight", None), (self.spec.vocab_size, self.spec.hidden_size)
        if table is None or tuple(table.shape) != wanted:
            shape = None if table is None else tuple(table.shape)
            raise InputError(f"new_embeddings: a decoder of shape {shape}; must be {wanted}")
        self.lm_head.replace(new_embeddings)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        words: Any = self.roberta.embeddings.word_embeddings.weight
        tied, decoder = self.config.tie_word_embeddings, cast(Any, self.lm_head.decoder)
        if tied and not self.lm_head.adaptive and len(decoder.weight) != len(words):
            self._resize_head(len(words))
        self.lm_head.tie(words if tied else None)

    @torch.no_grad()
    def _resize_head(self, count: int) -> None:
        self.lm_head.resize(count, self._resized)


def flat(loss: Tensor | None, *values: Any) -> tuple[Any, ...]:
    """A documented tuple: what is not ``None``, the loss first."""
    return tuple(v for v in (loss, *values) if v is not None)


def count_choices(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> int:
    """The number of choices of ids (b, choices, s) or embeddings (b, choices, s, h).

    Raises:
        InputError: neither is given, or it has other axes.
    """
    for name, value, axes in (
        ("input_ids", input_ids, "sequence"),
        ("inputs_embeds", inputs_embeds, "sequence, hidden"),
    ):
        if value is not None:
            if value.ndim != 3 + (name == "inputs_embeds"):
                raise InputError(f"{name} of shape {tuple(value.shape)}: must be (batch, choices, {axes})")
            return value.shape[1]
    raise InputError("give either input_ids or inputs_embeds")


def flatten_choices(value: Tensor | None) -> Tensor | None:
    """(b, choices, ...) -> (b * choices, ...)."""
    return None if value is None else value.reshape(-1, *value.shape[2:])
