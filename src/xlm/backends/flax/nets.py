"""The NNX modules of the documented classes: a trunk, a head, and the one answer that a call gets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from xlm.backends.flax import losses, outputs
from xlm.backends.flax.heads import BeamQAHead, ClassificationHead, LMHead, SequenceSummary, XLMHead
from xlm.backends.flax.ops import Linear, dropout
from xlm.backends.flax.trunk import Call, Result, Trunk
from xlm.errors import ConfigError
from xlm.families.registry import family_of


class Encoding(Trunk):
    """``…Model``: states and, where the family has a pooler, a pooled first token."""

    new_head: ClassVar[tuple[str, ...]] = ()
    choices: ClassVar[bool] = False
    packs: ClassVar[bool] = True
    compares: ClassVar[tuple[str, ...]] = ()
    label_kind: ClassVar[str] = ""
    clamps: ClassVar[bool] = False

    def __init__(self, config: Any, pooler: bool = True) -> None:
        family = family_of(config)
        super().__init__(family.spec(config), pooler and family.pooler)
        self.pools = family.pooler

    def states(self, call: Call) -> Result:
        """The encoder's part of the answer."""
        return self.run(call)

    def answer(self, call: Call) -> Any:
        """The documented output."""
        r = self.run(call)
        if not self.pools:
            return outputs.FlaxBaseModelOutput(r.states, r.trace.hidden_states, r.trace.attentions, r.cache)
        return outputs.FlaxBaseModelOutputWithPoolingAndCrossAttentions(
            r.states,
            None if self.pooler is None else self.pooler(r.states),
            r.trace.hidden_states,
            r.cache,
            r.trace.attentions,
            r.trace.cross_attentions,
        )


class Net(nnx.Module):
    """Abstract: a trunk under ``roberta`` and a head."""

    new_head: ClassVar[tuple[str, ...]] = ()
    """Prefixes of head tensors that a checkpoint may lack: they start fresh and the report says so."""
    choices: ClassVar[bool] = False
    """Whether inputs are (b, choices, s)."""
    packs: ClassVar[bool] = False
    """Whether packed rows have a meaning: heads that read one token a row have none."""
    compares: ClassVar[tuple[str, ...]] = ("labels",)
    """The arguments that the head's loss takes."""
    label_kind: ClassVar[str] = ""
    """What a label is: a word of the ``vocabulary``, a class of ``tokens``, one of the ``choices``, or a ``problem``."""
    clamps: ClassVar[bool] = False
    """Whether answer positions outside the input have a meaning."""
    pooling: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.roberta = Trunk(family_of(config).spec(config), self.pooling)
        self.build(config)

    def build(self, config: Any) -> None:
        """Make the head's modules."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def states(self, call: Call) -> Result:
        """The encoder's part of the answer."""
        return self.roberta.run(call)

    def answer(self, call: Call) -> Any:
        """The documented output."""
        raise TypeError(f"{type(self).__name__} is abstract")


def flattened(call: Call) -> Call:
    """A call on (b, choices, s) as one on (b * choices, s); choices know no lengths."""
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "langs")
    flat = {n: None if (v := getattr(call, n)) is None else v.reshape(-1, *v.shape[2:]) for n in names}
    return replace(call, lengths=None, **flat)


def _classifier_dropout(config: Any) -> float:
    given = getattr(config, "classifier_dropout", None)
    return family_of(config).spec(config).hidden_dropout if given is None else given


class LMNet(Net):
    """Abstract: a head that scores the vocabulary."""

    packs = True
    label_kind = "vocabulary"
    fills: ClassVar[bool] = False
    """Whether the next token is asked for by a token in its place."""
    lm_head: LMHead | XLMHead

    def score(self, x: Array) -> Array:
        """(..., h) -> (..., vocab)."""
        return self.lm_head(x, self.roberta.words)


class RobertaLMNet(LMNet):
    """Abstract: XLM-R's head."""

    def build(self, config: Any) -> None:
        self.lm_head = LMHead(config.hidden_size, config.vocab_size, config.layer_norm_eps, config.tie_word_embeddings)


class MaskedLM(RobertaLMNet):
    """Logits (b, s, vocab); labels (b, s) with ``-100`` where nothing is asked."""

    def answer(self, call: Call) -> Any:
        r = self.roberta.run(call)
        logits = self.score(r.states)
        loss = None if call.labels is None else losses.cross_entropy(logits, call.labels)
        return outputs.FlaxMaskedLMOutput(loss, logits, r.trace.hidden_states, r.trace.attentions)


class CausalLM(RobertaLMNet):
    """Logits (b, s, vocab); labels (b, s) are the ids themselves, shifted here."""

    def answer(self, call: Call) -> Any:
        r = self.roberta.run(call)
        logits = self.score(r.states)
        loss = None if call.labels is None else losses.shifted_cross_entropy(logits, call.labels, call.segment_ids)
        t = r.trace
        return outputs.FlaxCausalLMOutputWithCrossAttentions(
            loss, logits, r.cache, t.hidden_states, t.attentions, t.cross_attentions
        )


class XLMLM(LMNet):
    """Logits (b, s, vocab), log-probabilities with ``asm``; labels (b, s) are compared in place, not shifted."""

    fills = True

    def build(self, config: Any) -> None:
        self.lm_head = XLMHead(config)

    def answer(self, call: Call) -> Any:
        r = self.roberta.run(call)
        logits = self.score(r.states)
        loss = None if call.labels is None else losses.cross_entropy(logits, call.labels)
        return outputs.FlaxMaskedLMOutput(loss, logits, r.trace.hidden_states, r.trace.attentions, r.cache)


class SequenceClassification(Net):
    """Logits (b, labels); labels (b,) classes, (b,) values or (b, labels) by ``config.problem_type`` (XLM-R and XL)."""

    new_head = ("classifier.",)
    label_kind = "problem"

    def build(self, config: Any) -> None:
        self.classifier = ClassificationHead(config.hidden_size, config.num_labels, _classifier_dropout(config))

    def score(self, states: Array, call: Call) -> Array:
        """(b, s, h) -> (b, labels)."""
        return self.classifier(states, call.keys[1])

    def answer(self, call: Call) -> Any:
        r = self.roberta.run(call)
        logits = self.score(r.states, call)
        loss = None if call.labels is None else losses.classification(logits, call.labels, call.problem)
        return outputs.FlaxSequenceClassifierOutput(loss, logits, r.trace.hidden_states, r.trace.attentions)


class XLMSequenceClassification(SequenceClassification):
    """The same by XLM's summary of a sequence."""

    new_head = ("sequence_summary.",)

    def build(self, config: Any) -> None:
        self.sequence_summary = SequenceSummary(config)

    def score(self, states: Array, call: Call) -> Array:
        return self.sequence_summary(states, call.keys[1])


class TokenClassification(Net):
    """Logits (b, s, labels); labels (b, s), ``-100`` where nothing is asked. XL leaves padding out too, of which only a 2-D
    mask, or ``segment_ids``, tells."""

    new_head = ("classifier.",)
    packs = True
    label_kind = "tokens"

    def build(self, config: Any) -> None:
        self.dropout = _classifier_dropout(config)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.masks_padding = family_of(config).token_loss_masks_padding

    def answer(self, call: Call) -> Any:
        r = self.roberta.run(call)
        logits = self.classifier(dropout(r.states, self.dropout, call.keys[1]))
        loss, labels = None, call.labels
        if labels is not None:
            mask = call.attention_mask
            if self.masks_padding and mask is not None and mask.shape == labels.shape:
                labels = jnp.where(mask == 1, labels, losses.IGNORED)
            elif self.masks_padding and call.segment_ids is not None:
                labels = jnp.where(call.segment_ids > 0, labels, losses.IGNORED)
            loss = losses.cross_entropy(logits, labels)
        return outputs.FlaxTokenClassifierOutput(loss, logits, r.trace.hidden_states, r.trace.attentions)


class QuestionAnswering(Net):
    """Start and end logits (b, s) each; positions (b,) of an answer's first and last token."""

    new_head = ("qa_outputs.",)
    compares = ("start_positions", "end_positions")
    clamps = True

    def build(self, config: Any) -> None:
        if config.num_labels != 2:
            raise ConfigError(f"num_labels={config.num_labels}: question answering needs 2")
        self.qa_outputs = Linear(config.hidden_size, 2)

    def answer(self, call: Call) -> Any:
        r = self.roberta.run(call)
        logits = self.qa_outputs(r.states)
        start, end, loss = logits[..., 0], logits[..., 1], None
        if call.start_positions is not None and call.end_positions is not None:
            loss = losses.spans(start, end, call.start_positions, call.end_positions)
        return outputs.FlaxQuestionAnsweringModelOutput(loss, start, end, r.trace.hidden_states, r.trace.attentions)


class BeamQuestionAnswering(Net):
    """Beam-searched answers, or with both positions the loss alone (XLM)."""

    new_head = ("qa_outputs.",)
    compares = ("start_positions", "end_positions", "is_impossible", "cls_index", "p_mask")

    def build(self, config: Any) -> None:
        self.qa_outputs = BeamQAHead(config)

    def answer(self, call: Call) -> Any:
        r, head = self.roberta.run(call), self.qa_outputs
        loss: Any = None
        found: Any = (None,) * 5
        if call.start_positions is not None and call.end_positions is not None:
            loss = head.loss(
                r.states, call.start_positions, call.end_positions, call.cls_index, call.is_impossible, call.p_mask
            )
        else:
            found = head.search(r.states, call.cls_index, call.p_mask)
        return outputs.FlaxXLMForQuestionAnsweringOutput(
            loss, *found, hidden_states=r.trace.hidden_states, attentions=r.trace.attentions
        )


class MultipleChoice(Net):
    """Logits (b, choices) of inputs (b, choices, s); ``labels`` (b,) name the right choice. Hidden states are flat."""

    new_head = ("classifier.",)
    choices = True
    label_kind = "choices"
    pooling = True

    def build(self, config: Any) -> None:
        self.dropout = config.hidden_dropout_prob
        self.classifier = Linear(config.hidden_size, 1)

    def score(self, states: Array, call: Call) -> Array:
        """(rows, s, h) -> (rows, 1)."""
        assert self.roberta.pooler is not None
        return self.classifier(dropout(self.roberta.pooler(states), self.dropout, call.keys[1]))

    def answer(self, call: Call) -> Any:
        source = call.input_ids if call.inputs_embeds is None else call.inputs_embeds
        assert source is not None
        choices = source.shape[1]
        call = flattened(call)
        r = self.roberta.run(call)
        logits = self.score(r.states, call).reshape(-1, choices)
        loss = None if call.labels is None else losses.cross_entropy(logits, call.labels)
        return outputs.FlaxMultipleChoiceModelOutput(loss, logits, r.trace.hidden_states, r.trace.attentions)


class XLMMultipleChoice(MultipleChoice):
    """The same by XLM's summary of a sequence."""

    new_head = ("sequence_summary.", "logits_proj.")
    pooling = False

    def build(self, config: Any) -> None:
        self.sequence_summary = SequenceSummary(config)
        self.logits_proj = Linear(config.num_labels, 1)

    def score(self, states: Array, call: Call) -> Array:
        return self.logits_proj(self.sequence_summary(states, call.keys[1]))
