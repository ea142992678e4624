"""Calling conventions of XLM-RoBERTa and XLM-RoBERTa-XL: one abstract class a head, argument orders as documented."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import tensorflow as tf

from xlm.backends.keras import losses
from xlm.backends.keras.calls import documented
from xlm.backends.keras.headed import HeadModel, LMHeadModel, count_choices, flat, flatten_choices
from xlm.backends.keras.heads import ClassificationHead, LMHead, over_rows
from xlm.backends.keras.ops import Tensor, dense, dropout, linear
from xlm.backends.keras.trunk import Call, Result, TrunkModel
from xlm.errors import ConfigError
from xlm.outputs import (
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TFBaseModelOutputWithPoolingAndCrossAttentions,
    TokenClassifierOutput,
)


class RobertaTrunk(TrunkModel):
    """``TF…Model``: states and a pooled first token."""

    def __init__(self, config: Any, add_pooling_layer: bool = True, **kwargs: Any) -> None:
        if config.add_cross_attention and not config.is_decoder:
            raise ConfigError("add_cross_attention=True: cross-attention is for decoders; set is_decoder=True")
        super().__init__(config, add_pooling_layer, **kwargs)

    @documented
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = False,
    ) -> Any:
        """States of token ids (b, s).

        Args:
            input_ids: (b, s) integers; or ``inputs_embeds`` (b, s, h). The first argument may instead be a mapping of
                names to arrays, or a list of arrays in the order of the arguments.
            attention_mask: (b, k) or (b, q, k), 1 = visible; ``None``: everything is.
            token_type_ids, position_ids: (b, s).
            head_mask: (heads,) or (layers, heads), factors of attention weights.
            encoder_hidden_states, encoder_attention_mask: (b, k, h) and its mask, for decoders with cross-attention.
            past_key_values: a layer's keys and values (b, heads, past, d), of decoders.
            training: whether dropout works.

        Returns:
            :class:`xlm.outputs.TFBaseModelOutputWithPoolingAndCrossAttentions`, or a tuple with ``return_dict=False``.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            encoder_hidden_states=encoder_hidden_states, encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values, use_cache=use_cache, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, training=training,
        )  # fmt: skip
        r = self.run(call)
        pooled = None if self.pooler is None else self.pooler.forward(r.states)
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            rest = (r.caches, r.hidden_states, r.attentions, r.cross_attentions)
            return (r.states, pooled, *(v for v in rest if v is not None))
        return TFBaseModelOutputWithPoolingAndCrossAttentions(
            r.states, pooled, r.caches, r.hidden_states, r.attentions, r.cross_attentions
        )


class RobertaHeadModel(HeadModel):
    """Abstract: a trunk, with a pooler where the head wants one, and a head."""

    pooling: ClassVar[bool] = False

    def build_trunk(self, config: Any) -> RobertaTrunk:
        return self.trunk_class(config, add_pooling_layer=self.pooling, dtype=self.dtype_policy)

    def _dropout(self, config: Any) -> float:
        given = config.classifier_dropout
        return config.hidden_dropout_prob if given is None else given


class RobertaLMModel(RobertaHeadModel, LMHeadModel):
    """Abstract: the language modelling heads."""

    def build_head(self, config: Any) -> None:
        tied = config.tie_word_embeddings
        self.lm_head = LMHead(config.hidden_size, config.vocab_size, config.layer_norm_eps, tied, self.dtype_policy)


class RobertaForMaskedLM(RobertaLMModel):
    """Abstract: a masked language modelling head."""

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        if config.is_decoder:
            self.warn_once("decoder", f"{type(self).__name__} with is_decoder=True sees no later tokens")

    def can_generate(self) -> bool:
        return False

    @documented
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        training: bool | None = False,
    ) -> Any:
        """Logits (b, s, vocab); ``labels`` (b, s) with ``-100`` where nothing is asked give the mean cross-entropy (1,).

        Other arguments: see ``TF…Model.call``. Returns :class:`xlm.outputs.MaskedLMOutput`.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, training=training,
        )  # fmt: skip
        r = self.roberta.run(call)
        logits = self.lm_logits(r.states)
        loss = None if labels is None else losses.tokens(logits, labels, self.config)
        if not self.wants_dict(return_dict):
            return flat(loss, logits, r.caches, r.hidden_states, r.attentions, r.cross_attentions)
        return MaskedLMOutput(loss, logits, r.hidden_states, r.attentions)


class RobertaForCausalLM(RobertaLMModel):
    """Abstract: a left-to-right language modelling head."""

    generates_with = ("attention_mask", "token_type_ids", "encoder_hidden_states", "encoder_attention_mask")

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        if not config.is_decoder:
            self.warn_once("encoder", f"{type(self).__name__} without is_decoder=True sees later tokens too")

    def can_generate(self) -> bool:
        return True

    @documented
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        training: bool | None = False,
    ) -> Any:
        """Logits (b, s, vocab); ``labels`` (b, s) are the ids themselves, shifted here; the loss is (1,).

        With labels no cache is kept.

        Other arguments: see ``TF…Model.call``. Returns :class:`xlm.outputs.CausalLMOutputWithCrossAttentions`.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            encoder_hidden_states=encoder_hidden_states, encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values, use_cache=use_cache if labels is None else False,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, training=training,
        )  # fmt: skip
        r = self.roberta.run(call)
        logits = self.lm_logits(r.states)
        loss = None if labels is None else losses.shifted_tokens(logits, labels, self.config)
        if not self.wants_dict(return_dict):
            return flat(loss, logits, r.caches, r.hidden_states, r.attentions, r.cross_attentions)
        return CausalLMOutputWithCrossAttentions(
            loss, logits, r.caches, r.hidden_states, r.attentions, r.cross_attentions
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Any = None, attention_mask: Tensor | None = None, **model_kwargs: Any
    ) -> dict[str, Any]:
        """Arguments of the next step: with a past, only the ids it does not hold."""
        if attention_mask is None:
            attention_mask = tf.ones_like(input_ids)
        if past_key_values is not None:
            past = past_key_values[0][0].shape[2]
            input_ids = input_ids[:, past if input_ids.shape[1] > past else input_ids.shape[1] - 1 :]
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "past_key_values": past_key_values}
        if past_key_values is not None and not bool(tf.reduce_all(attention_mask == 1)):
            # The forward counts every place of the past; padding on the left of a prompt must not count.
            count, pad = tf.cumsum(tf.cast(attention_mask != 0, input_ids.dtype), -1), self.spec.pad_id
            inputs["position_ids"] = tf.where(input_ids == pad, pad, count[:, -input_ids.shape[1] :] + pad)
        kept = ("encoder_hidden_states", "encoder_attention_mask")
        return {**inputs, **{k: model_kwargs[k] for k in kept if model_kwargs.get(k) is not None}}


class RobertaLabelled(RobertaHeadModel):
    """Abstract: classifiers of texts or tokens, which compare their logits with ``labels``."""

    output_class: ClassVar[type[Any]]

    def score(self, states: Tensor, training: bool) -> Tensor:
        """The head on states (b, s, h)."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def compare(self, logits: Tensor, labels: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The loss."""
        raise TypeError(f"{type(self).__name__} is abstract")

    @documented
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        training: bool | None = False,
    ) -> Any:
        """The head's logits, and with ``labels`` its loss: shapes are said at the class.

        Other arguments: see ``TF…Model.call``. Returns the class's output, or a tuple with ``return_dict=False``.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, training=training,
        )  # fmt: skip
        r = self.roberta.run(call)
        logits = self.score(r.states, bool(training))
        loss = None if labels is None else self.compare(logits, labels, attention_mask)
        if not self.wants_dict(return_dict):
            return flat(loss, logits, r.caches, r.hidden_states, r.attentions, r.cross_attentions)
        return self.output_class(loss, logits, r.hidden_states, r.attentions)


class RobertaForSequenceClassification(RobertaLabelled):
    """Abstract: a classifier or regressor of whole texts.

    Logits (b, labels); labels (b,) classes, (b,) values or (b, labels) by ``config.problem_type``; losses (b,).
    """

    output_class = SequenceClassifierOutput

    new_head = ("classifier.",)

    def build_head(self, config: Any) -> None:
        rate = self._dropout(config)
        self.classifier = ClassificationHead(config.hidden_size, config.num_labels, rate, self.dtype_policy)

    def score(self, states: Tensor, training: bool) -> Tensor:
        return self.classifier.forward(states, training)

    def compare(self, logits: Tensor, labels: Tensor, attention_mask: Tensor | None) -> Tensor:
        return losses.classification(logits, labels, self.config)


class RobertaForTokenClassification(RobertaLabelled):
    """Abstract: a classifier of tokens.

    Logits (b, s, labels); labels (b, s), ``-100`` where nothing is asked; loss (1,). XL leaves padding out too, of which only
    a 2-D mask tells.
    """

    output_class = TokenClassifierOutput

    new_head = ("classifier.",)

    def build_head(self, config: Any) -> None:
        self.dropout = keras.layers.Dropout(self._dropout(config), dtype=self.dtype_policy)
        self.classifier = dense(config.hidden_size, config.num_labels, "classifier", self.dtype_policy)

    def score(self, states: Tensor, training: bool) -> Tensor:
        states = dropout(self.dropout, states, training)
        return over_rows(lambda rows: linear(self.classifier, rows), states)

    def compare(self, logits: Tensor, labels: Tensor, attention_mask: Tensor | None) -> Tensor:
        mask = attention_mask if self.family.token_loss_masks_padding else None
        if mask is not None and mask.shape.rank == labels.shape.rank == 2:
            labels = tf.where(tf.cast(mask, tf.float32) == 1, labels, losses.IGNORED)
        return losses.tokens(logits, labels, self.config)


class RobertaForQuestionAnswering(RobertaHeadModel):
    """Abstract: start and end scores of an answer."""

    new_head = ("qa_outputs.",)

    def build_head(self, config: Any) -> None:
        self.qa_outputs = dense(config.hidden_size, config.num_labels, "qa_outputs", self.dtype_policy)

    @documented
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        training: bool | None = False,
    ) -> Any:
        """Start and end logits (b, s) each; positions (b,) of an answer's first and last token give losses (b,).

        Other arguments: see ``TF…Model.call``. Returns :class:`xlm.outputs.QuestionAnsweringModelOutput`.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, training=training,
        )  # fmt: skip
        r = self.roberta.run(call)
        start, end, loss = answer_ends(self.qa_outputs, r, start_positions, end_positions)
        if not self.wants_dict(return_dict):
            return flat(loss, start, end, r.caches, r.hidden_states, r.attentions, r.cross_attentions)
        return QuestionAnsweringModelOutput(loss, start, end, r.hidden_states, r.attentions)


def answer_ends(head: Any, r: Result, start: Tensor | None, end: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Start and end logits (b, s) and, with both positions, the losses (b,)."""
    logits = over_rows(lambda rows: linear(head, rows), r.states)
    if logits.shape[-1] != 2:
        raise ConfigError(f"num_labels={logits.shape[-1]}: question answering needs 2")
    starts, ends = tf.unstack(logits, axis=-1)
    return starts, ends, None if start is None or end is None else losses.spans(starts, ends, start, end)


class RobertaForMultipleChoice(RobertaHeadModel):
    """Abstract: a scorer of choices."""

    new_head = ("classifier.",)
    pooling = True

    def build_head(self, config: Any) -> None:
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob, dtype=self.dtype_policy)
        self.classifier = dense(config.hidden_size, 1, "classifier", self.dtype_policy)

    @documented
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        training: bool | None = False,
    ) -> Any:
        """Logits (b, choices) of inputs (b, choices, s); ``labels`` (b,) name the right choice and give losses (b,).

        Returns :class:`xlm.outputs.MultipleChoiceModelOutput`; its hidden states are flat (b * choices, s, h).
        """
        choices = count_choices(input_ids, inputs_embeds)
        call = Call(
            flatten_choices(input_ids), flatten_choices(attention_mask), flatten_choices(token_type_ids),
            flatten_choices(position_ids), head_mask, flatten_choices(inputs_embeds), training=training,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        r = self.roberta.run(call)
        pooled = dropout(self.dropout, self.roberta.pooler.forward(r.states), bool(training))
        logits = tf.reshape(linear(self.classifier, pooled), (-1, choices))
        loss = None if labels is None else losses.classes(logits, labels)
        if not self.wants_dict(return_dict):
            return flat(loss, logits, r.caches, r.hidden_states, r.attentions, r.cross_attentions)
        return MultipleChoiceModelOutput(loss, logits, r.hidden_states, r.attentions)
