"""Calling conventions of XLM: one abstract class a head, argument orders as documented."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import keras
import tensorflow as tf

from xlm.backends.keras import losses
from xlm.backends.keras.calls import documented
from xlm.backends.keras.headed import HeadModel, LMHeadModel, count_choices, flat, flatten_choices
from xlm.backends.keras.heads import SequenceSummary, XLMHead, over_rows
from xlm.backends.keras.models_roberta import answer_ends
from xlm.backends.keras.ops import Tensor, dense, dropout, linear
from xlm.backends.keras.trunk import Call, TrunkModel
from xlm.errors import InputError
from xlm.outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class XLMTrunk(TrunkModel):
    """``TFXLMModel``: states without a pooler."""

    @documented
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        cache: dict[Any, Any] | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = False,
    ) -> Any:
        """States of token ids (b, s).

        Args:
            input_ids: (b, s) integers; or ``inputs_embeds`` (b, s, h). The first argument may instead be a mapping of
                names to arrays, or a list of arrays in the order of the arguments.
            attention_mask: (b, s), 1 = a token; padding's states are zero.
            langs: (b, s) language ids; ``None`` adds no language.
            token_type_ids: (b, s), looked up in the word table; ``None`` adds nothing.
            position_ids: (b, s).
            lengths: (b,) tokens of each sequence, used where there is no mask.
            cache: begin with ``{"slen": 0}`` and give the whole sequence each time: the output covers the new tokens.
            head_mask: (heads,) or (layers, heads), factors of attention weights.
            training: whether dropout works.

        Returns:
            :class:`xlm.outputs.BaseModelOutput`, or a tuple with ``return_dict=False``.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, langs, lengths, cache,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, training=training,
        )  # fmt: skip
        r = self.run(call)
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            return flat(None, r.states, r.hidden_states, r.attentions)
        return BaseModelOutput(r.states, r.hidden_states, r.attentions)


class XLMHeadModel(HeadModel):
    """Abstract: a trunk and a head."""

    @property
    def transformer(self) -> Any:
        """The trunk under its published name."""
        return self.roberta


class XLMLabelled(XLMHeadModel):
    """Abstract: heads that answer with logits and compare them with ``labels``."""

    output_class: ClassVar[type[Any]]

    def arrange(self, call: Call) -> Call:
        """The call as the trunk takes it."""
        return call

    def score(self, states: Tensor, call: Call) -> Tensor:
        """The head on states (b, s, h)."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        return losses.tokens(logits, labels, self.config)

    @documented
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        cache: dict[Any, Any] | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        training: bool | None = False,
    ) -> Any:
        """The head's logits, and with ``labels`` its loss: shapes are said at the class.

        Other arguments: see ``TFXLMModel.call``. Returns the class's output, or a tuple with ``return_dict=False``.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, langs, lengths, cache,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, training=training,
        )  # fmt: skip
        r = self.roberta.run(self.arrange(call))
        logits = self.score(r.states, call)
        loss = None if labels is None else self.compare(logits, labels)
        if not self.wants_dict(return_dict):
            return flat(loss, logits, r.hidden_states, r.attentions)
        return self.output_class(loss, logits, r.hidden_states, r.attentions)


class XLMLMHeadModel(XLMLabelled, LMHeadModel):
    """Abstract: a language modelling head.

    Logits (b, s, vocab), log-probabilities with ``asm``; labels (b, s) are compared in place, not shifted, ``-100`` where
    nothing is asked; loss (1,).
    """

    output_class = MaskedLMOutput
    generates_with = ("attention_mask", "token_type_ids", "langs")

    lm_head: XLMHead

    def build_head(self, config: Any) -> None:
        self.lm_head = XLMHead(config, self.dtype_policy)

    @property
    def pred_layer(self) -> XLMHead:
        """The head under its published name."""
        return self.lm_head

    def can_generate(self) -> bool:
        return True

    def score(self, states: Tensor, call: Call) -> Tensor:
        return self.lm_logits(states)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, langs: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Arguments of the next step: a mask token to fill at the end, and the language of every token.

        Args:
            langs: (b, s) of the first tokens, whose last one goes on; ``None``: ``config.lang_id`` everywhere.

        Raises:
            InputError: padded prompts for a causal model.
        """
        del kwargs
        config = self.config
        column = tf.fill((input_ids.shape[0], 1), tf.cast(config.mask_token_id, input_ids.dtype))
        ids = tf.concat([input_ids, column], axis=1)
        if langs is not None:
            given: Any = tf.cast(langs, ids.dtype)
            langs = tf.concat([given, tf.repeat(given[:, -1:], ids.shape[1] - given.shape[1], axis=1)], axis=1)
        elif config.lang_id is not None:
            langs = tf.fill(ids.shape, tf.cast(config.lang_id, ids.dtype))
        inputs = {"input_ids": ids, "langs": langs}
        if attention_mask is None:
            return inputs
        if self.spec.causal_only and not bool(tf.reduce_all(attention_mask == 1)):
            raise InputError("attention_mask: a causal model attends to padding too; give prompts of one length")
        mask = tf.concat([attention_mask, tf.ones_like(attention_mask[:, :1])], axis=1)
        # Padding on the left of a prompt does not count.
        places = tf.maximum(tf.cumsum(tf.cast(mask != 0, ids.dtype), axis=1) - 1, 0)
        return {**inputs, "attention_mask": mask, "position_ids": places}


class XLMSequenceClassifier(XLMLabelled):
    """Abstract: a classifier or regressor of whole texts.

    Logits (b, labels); labels (b,) classes, (b,) values or (b, labels) by ``config.problem_type``; losses (b,).
    """

    output_class = SequenceClassifierOutput

    new_head = ("sequence_summary.",)

    def build_head(self, config: Any) -> None:
        self.sequence_summary = SequenceSummary(config, self.dtype_policy)

    def score(self, states: Tensor, call: Call) -> Tensor:
        return self.sequence_summary.forward(states, bool(call.training))

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        return losses.classification(logits, labels, self.config)


class XLMTokenClassifier(XLMLabelled):
    """Abstract: a classifier of tokens.

    Logits (b, s, labels); labels (b, s), ``-100`` where nothing is asked; loss (1,).
    """

    output_class = TokenClassifierOutput

    new_head = ("classifier.",)

    def build_head(self, config: Any) -> None:
        self.dropout = keras.layers.Dropout(config.dropout, dtype=self.dtype_policy)
        self.classifier = dense(config.emb_dim, config.num_labels, "classifier", self.dtype_policy)

    def score(self, states: Tensor, call: Call) -> Tensor:
        states = dropout(self.dropout, states, bool(call.training))
        return over_rows(lambda rows: linear(self.classifier, rows), states)


class XLMSimpleQA(XLMHeadModel):
    """Abstract: start and end scores of an answer."""

    new_head = ("qa_outputs.",)

    def build_head(self, config: Any) -> None:
        self.qa_outputs = dense(config.emb_dim, config.num_labels, "qa_outputs", self.dtype_policy)

    @documented
    def call(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        cache: dict[Any, Any] | None = None,
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

        Other arguments: see ``TFXLMModel.call``. Returns :class:`xlm.outputs.QuestionAnsweringModelOutput`.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, langs, lengths, cache,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, training=training,
        )  # fmt: skip
        r = self.roberta.run(call)
        start, end, loss = answer_ends(self.qa_outputs, r, start_positions, end_positions)
        if not self.wants_dict(return_dict):
            return flat(loss, start, end, r.hidden_states, r.attentions)
        return QuestionAnsweringModelOutput(loss, start, end, r.hidden_states, r.attentions)


class XLMMultipleChoice(XLMLabelled):
    """Abstract: a scorer of choices.

    Logits (b, choices) of inputs (b, choices, s); labels (b,) name the right choice and give losses (b,); ``lengths`` are
    not used. Hidden states are flat: (b * choices, s, h).
    """

    output_class = MultipleChoiceModelOutput

    new_head = ("sequence_summary.", "logits_proj.")

    def build_head(self, config: Any) -> None:
        self.sequence_summary = SequenceSummary(config, self.dtype_policy)
        self.logits_proj = dense(config.num_labels, 1, "logits_proj", self.dtype_policy)

    def arrange(self, call: Call) -> Call:
        if call.lengths is not None:
            self.warn_once("lengths", "lengths: not used with multiple choice; give attention_mask instead")
        count_choices(call.input_ids, call.inputs_embeds)
        names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "langs")
        return replace(call, lengths=None, **{name: flatten_choices(getattr(call, name)) for name in names})

    def score(self, states: Tensor, call: Call) -> Tensor:
        choices = count_choices(call.input_ids, call.inputs_embeds)
        summary = self.sequence_summary.forward(states, bool(call.training))
        return tf.reshape(linear(self.logits_proj, summary), (-1, choices))

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        return losses.classes(logits, labels)
