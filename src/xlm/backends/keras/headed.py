"""What all models with a head share, whatever their family's calling convention."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import tensorflow as tf

from xlm.backends.keras.generation import GenerationMixin
from xlm.backends.keras.heads import Decoder, LMHead, XLMHead
from xlm.backends.keras.ops import Tensor, sizes
from xlm.backends.keras.pretrained import TFPreTrainedModel
from xlm.errors import InputError


class HeadModel(TFPreTrainedModel):
    """Abstract: a trunk under ``roberta`` and a head."""

    trunk_class: ClassVar[type[Any]]

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.num_labels = config.num_labels
        with keras.name_scope(self.name):
            self.roberta = self.build_trunk(config)
            self.build_head(config)
        self.finish()

    def build_trunk(self, config: Any) -> Any:
        """Make the model under the head."""
        return self.trunk_class(config, dtype=self.dtype_policy)

    def build_head(self, config: Any) -> None:
        """Make the head's layers."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def wants_dict(self, return_dict: bool | None) -> bool:
        """What the call says, else the config."""
        return bool(self.config.use_return_dict if return_dict is None else return_dict)


class LMHeadModel(HeadModel, GenerationMixin):
    """Abstract: a model whose head scores the vocabulary."""

    lm_head: LMHead | XLMHead

    def lm_logits(self, states: Tensor) -> Tensor:
        """The head on states: (..., hidden) -> (..., vocab)."""
        return self.lm_head.forward(states, self.roberta.embeddings.word_embeddings)

    def get_output_embeddings(self) -> Any:
        """The layer whose ``weight`` (vocab, hidden) scores the vocabulary."""
        return self.roberta.embeddings.word_embeddings if self.lm_head.decoder is None else self.lm_head.decoder

    def _resize_head(self, count: int) -> None:
        if isinstance(self.lm_head, XLMHead) and self.lm_head.adaptive:
            raise InputError(f"new_num_tokens={count}: an adaptive softmax cannot be resized")
        head = self.lm_head
        if isinstance(head.decoder, Decoder):
            new = Decoder(count, self.spec.hidden_size, self.dtype_policy)
            self._fill_rows(new.weight, head.decoder.weight)
            head.decoder = new
        bias = head.add_weight(shape=(count,), initializer="zeros", name="bias")
        kept = min(count, head.bias.shape[0])
        bias.assign(tf.concat([head.bias.value[:kept], bias.value[kept:]], axis=0))
        head.bias = bias


def flat(loss: Tensor | None, *values: Any) -> tuple[Any, ...]:
    """A documented tuple: what is not ``None``, the loss first."""
    return tuple(v for v in (loss, *values) if v is not None)


def count_choices(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Any:
    """The number of choices of ids (b, choices, s) or embeddings (b, choices, s, h).

    Raises:
        InputError: neither is given, or it has other axes.
    """
    for name, value, axes in (
        ("input_ids", input_ids, "sequence"),
        ("inputs_embeds", inputs_embeds, "sequence, hidden"),
    ):
        if value is not None:
            if value.shape.rank != 3 + (name == "inputs_embeds"):
                raise InputError(f"{name} of shape {tuple(value.shape)}: must be (batch, choices, {axes})")
            return sizes(value)[1]
    raise InputError("give either input_ids or inputs_embeds")


def flatten_choices(value: Tensor | None) -> Tensor | None:
    """(b, choices, ...) -> (b * choices, ...)."""
    return None if value is None else tf.reshape(value, (-1, *sizes(value)[2:]))
