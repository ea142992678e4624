"""Calling conventions of XLM: one abstract class a head, argument orders as documented."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xlm.backends.torch import losses
from xlm.backends.torch.headed import HeadModel, LMHeadModel, count_choices, flat, flatten_choices
from xlm.backends.torch.heads import BeamQAHead, SequenceSummary, XLMHead
from xlm.backends.torch.models_roberta import answer_ends
from xlm.backends.torch.trunk import Call, TrunkModel
from xlm.errors import InputError
from xlm.outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    XLMForQuestionAnsweringOutput,
)


class XLMTrunk(TrunkModel):
    """``XLMModel``: states without a pooler."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, add_pooling_layer=False)

    def forward(
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
    ) -> Any:
        """States of token ids (b, s).

        Args:
            input_ids: (b, s) integers; or ``inputs_embeds`` (b, s, h).
            attention_mask: (b, s), 1 = a token; padding's states are zero.
            langs: (b, s) language ids; ``None`` adds no language.
            token_type_ids: (b, s), looked up in the word table; ``None`` adds nothing.
            position_ids: (b, s).
            lengths: (b,) tokens of each sequence, used where there is no mask.
            cache: begin with ``{"slen": 0}`` and give the whole sequence each time: the output covers the new tokens.
            head_mask: (heads,) or (layers, heads), factors of attention weights.

        Returns:
            :class:`xlm.outputs.BaseModelOutput`, or a tuple with ``return_dict=False``.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, langs, lengths, cache,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        r = self.run(call)
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            return flat(None, r.states, r.hidden_states, r.attentions)
        return BaseModelOutput(r.states, r.hidden_states, r.attentions)


class XLMHeadModel(HeadModel):
    """Abstract: a trunk and a head."""

    @property
    def transformer(self) -> XLMTrunk:
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
        return losses.cross_entropy(logits, labels)

    def forward(
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
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """The head's logits, and with ``labels`` its loss: shapes are said at the class.

        Other arguments: see ``XLMModel.forward``. Returns the class's output, or a tuple with ``return_dict=False``.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, langs, lengths, cache,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        r = self.roberta.run(self.arrange(call))
        logits = self.score(r.states, call)
        loss = None if labels is None else self.compare(logits, labels)
        if not self._wants_dict(return_dict):
            return flat(loss, logits, r.hidden_states, r.attentions)
        return self.output_class(loss, logits, r.hidden_states, r.attentions)


class XLMLMHeadModel(XLMLabelled, LMHeadModel):
    """Abstract: a language modelling head.

    Logits (b, s, vocab), log-probabilities with ``asm``; labels (b, s) are compared in place, not shifted, ``-100`` where
    nothing is asked.
    """

    output_class = MaskedLMOutput
    generates_with = ("attention_mask", "token_type_ids", "langs")

    lm_head: XLMHead

    def build_head(self, config: Any) -> None:
        self.lm_head = XLMHead(config)

    @property
    def pred_layer(self) -> XLMHead:
        """The head under its published name."""
        return self.lm_head

    def can_generate(self) -> bool:
        return True

    def score(self, states: Tensor, call: Call) -> Tensor:
        return self.lm_head(states)

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
        column = input_ids.new_full((input_ids.shape[0], 1), config.mask_token_id)
        ids = torch.cat([input_ids, column], dim=1)
        if langs is not None:
            langs = torch.cat([langs, langs[:, -1:].expand(-1, ids.shape[1] - langs.shape[1])], dim=1)
        elif config.lang_id is not None:
            langs = torch.full_like(ids, config.lang_id)
        inputs = {"input_ids": ids, "langs": langs}
        if attention_mask is None:
            return inputs
        if self.spec.causal_only and not bool((attention_mask == 1).all()):
            raise InputError("attention_mask: a causal model attends to padding too; give prompts of one length")
        mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], dim=1)
        places = ((mask != 0).long().cumsum(1) - 1).clamp(min=0)  # padding on the left of a prompt does not count
        return {**inputs, "attention_mask": mask, "position_ids": places}


class XLMSequenceClassifier(XLMLabelled):
    """Abstract: a classifier or regressor of whole texts.

    Logits (b, labels); labels (b,) classes, (b,) values or (b, labels) by ``config.problem_type``.
    """

    output_class = SequenceClassifierOutput

    new_head = ("sequence_summary.",)

    def build_head(self, config: Any) -> None:
        self.sequence_summary = SequenceSummary(config)

    def score(self, states: Tensor, call: Call) -> Tensor:
        return self.sequence_summary(states)

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        return losses.classification(logits, labels, self.config, self.num_labels)


class XLMTokenClassifier(XLMLabelled):
    """Abstract: a classifier of tokens.

    Logits (b, s, labels); labels (b, s), ``-100`` where nothing is asked.
    """

    output_class = TokenClassifierOutput

    new_head = ("classifier.",)

    def build_head(self, config: Any) -> None:
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.emb_dim, config.num_labels)

    def score(self, states: Tensor, call: Call) -> Tensor:
        return self.classifier(self.dropout(states))


class XLMSimpleQA(XLMHeadModel):
    """Abstract: start and end scores of an answer."""

    new_head = ("qa_outputs.",)

    def build_head(self, config: Any) -> None:
        self.qa_outputs = nn.Linear(config.emb_dim, config.num_labels)

    def forward(
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
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Start and end logits (b, s) each; positions (b,) of an answer's first and last token.

        Other arguments: see ``XLMModel.forward``. Returns :class:`xlm.outputs.QuestionAnsweringModelOutput`.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, langs, lengths, cache,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        r = self.roberta.run(call)
        start, end, loss = answer_ends(self.qa_outputs, r, start_positions, end_positions)
        if not self._wants_dict(return_dict):
            return flat(loss, start, end, r.hidden_states, r.attentions)
        return QuestionAnsweringModelOutput(loss, start, end, r.hidden_states, r.attentions)


class XLMBeamQA(XLMHeadModel):
    """Abstract: a beam search over answers."""

    new_head = ("qa_outputs.",)

    def build_head(self, config: Any) -> None:
        self.qa_outputs = BeamQAHead(config)

    def forward(
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
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        is_impossible: Tensor | None = None,
        cls_index: Tensor | None = None,
        p_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Beam-searched answers, or with both positions the loss alone.

        Args:
            start_positions, end_positions: (b,) of an answer's first and last token.
            is_impossible: (b,), 1 where the context has no answer.
            cls_index: (b,) of the token that decides whether there is an answer; ``None``: the last.
            p_mask: (b, s), 1 where no answer may begin or end.

        Other arguments: see ``XLMModel.forward``. Returns :class:`xlm.outputs.XLMForQuestionAnsweringOutput`.
        """
        call = Call(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, langs, lengths, cache,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        r = self.roberta.run(call)
        loss, found = None, ()
        if start_positions is not None and end_positions is not None:
            loss = self.qa_outputs.loss(r.states, start_positions, end_positions, cls_index, is_impossible, p_mask)
        else:
            found = self.qa_outputs.search(r.states, cls_index, p_mask)
        if not self._wants_dict(return_dict):
            return flat(loss, *found, r.hidden_states, r.attentions)
        names = ("start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index", "cls_logits")
        return XLMForQuestionAnsweringOutput(
            loss=loss,
            **dict(zip(names, found, strict=False)),
            hidden_states=r.hidden_states,
            attentions=r.attentions,
        )


class XLMMultipleChoice(XLMLabelled):
    """Abstract: a scorer of choices.

    Logits (b, choices) of inputs (b, choices, s); labels (b,) name the right choice; ``lengths`` are not used. Hidden
    states are flat: (b * choices, s, h).
    """

    output_class = MultipleChoiceModelOutput

    new_head = ("sequence_summary.", "logits_proj.")

    def build_head(self, config: Any) -> None:
        self.sequence_summary = SequenceSummary(config)
        self.logits_proj = nn.Linear(config.num_labels, 1)

    def arrange(self, call: Call) -> Call:
        if call.lengths is not None:
            self.warn_once("lengths", "lengths: not used with multiple choice; give attention_mask instead")
        count_choices(call.input_ids, call.inputs_embeds)
        names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "langs")
        return replace(call, lengths=None, **{name: flatten_choices(getattr(call, name)) for name in names})

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        return losses.cross_entropy(logits, losses.one_each("labels", labels, len(logits)))

    def score(self, states: Tensor, call: Call) -> Tensor:
        choices = count_choices(call.input_ids, call.inputs_embeds)
        return self.logits_proj(self.sequence_summary(states)).view(-1, choices)
