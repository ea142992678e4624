"""The documented Flax classes: each is a family, a calling convention and a head."""

from __future__ import annotations

from typing import Any

from xlm.backends.flax import models_roberta as roberta
from xlm.backends.flax import models_xlm as xlm
from xlm.backends.flax import nets
from xlm.families import XLMConfig, XLMRobertaConfig, XLMRobertaXLConfig


# fmt: off
class FlaxXLMModel(xlm.XLMModel):
    """XLM without a head, in Flax."""
    config_class, net_class = XLMConfig, nets.Encoding


class FlaxXLMWithLMHeadModel(xlm.XLMLMHeadModel):
    """XLM with a language modelling head (MLM, CLM and TLM checkpoints), in Flax."""
    config_class, net_class = XLMConfig, nets.XLMLM


class FlaxXLMForSequenceClassification(xlm.XLMModel):
    """XLM with a classifier or regressor of whole texts, in Flax."""
    config_class, net_class = XLMConfig, nets.XLMSequenceClassification


class FlaxXLMForMultipleChoice(xlm.XLMModel):
    """XLM with a scorer of choices, in Flax."""
    config_class, net_class = XLMConfig, nets.XLMMultipleChoice


class FlaxXLMForTokenClassification(xlm.XLMModel):
    """XLM with a classifier of tokens, in Flax."""
    config_class, net_class = XLMConfig, nets.TokenClassification


class FlaxXLMForQuestionAnsweringSimple(xlm.XLMModel):
    """XLM with start and end scores of an answer, in Flax."""
    config_class, net_class = XLMConfig, nets.QuestionAnswering


class FlaxXLMForQuestionAnswering(xlm.XLMModel):
    """XLM with a beam search over answers, in Flax."""
    config_class, net_class = XLMConfig, nets.BeamQuestionAnswering


class FlaxXLMRobertaModel(roberta.RobertaModel):
    """XLM-RoBERTa without a head, in Flax."""
    config_class, net_class = XLMRobertaConfig, nets.Encoding


class FlaxXLMRobertaForCausalLM(roberta.RobertaCausalLM):
    """XLM-RoBERTa as a left-to-right language model, in Flax."""
    config_class, net_class = XLMRobertaConfig, nets.CausalLM


class FlaxXLMRobertaForMaskedLM(roberta.RobertaModel):
    """XLM-RoBERTa with a masked language modelling head, in Flax."""
    config_class, net_class = XLMRobertaConfig, nets.MaskedLM


class FlaxXLMRobertaForSequenceClassification(roberta.RobertaModel):
    """XLM-RoBERTa with a classifier or regressor of whole texts, in Flax."""
    config_class, net_class = XLMRobertaConfig, nets.SequenceClassification


class FlaxXLMRobertaForMultipleChoice(roberta.RobertaModel):
    """XLM-RoBERTa with a scorer of choices, in Flax."""
    config_class, net_class = XLMRobertaConfig, nets.MultipleChoice


class FlaxXLMRobertaForTokenClassification(roberta.RobertaModel):
    """XLM-RoBERTa with a classifier of tokens, in Flax."""
    config_class, net_class = XLMRobertaConfig, nets.TokenClassification


class FlaxXLMRobertaForQuestionAnswering(roberta.RobertaModel):
    """XLM-RoBERTa with start and end scores of an answer, in Flax."""
    config_class, net_class = XLMRobertaConfig, nets.QuestionAnswering


class FlaxXLMRobertaXLModel(roberta.RobertaModel):
    """XLM-RoBERTa-XL without a head, in Flax."""
    config_class, net_class = XLMRobertaXLConfig, nets.Encoding


class FlaxXLMRobertaXLForCausalLM(roberta.RobertaCausalLM):
    """XLM-RoBERTa-XL as a left-to-right language model, in Flax."""
    config_class, net_class = XLMRobertaXLConfig, nets.CausalLM


class FlaxXLMRobertaXLForMaskedLM(roberta.RobertaModel):
    """XLM-RoBERTa-XL with a masked language modelling head, in Flax."""
    config_class, net_class = XLMRobertaXLConfig, nets.MaskedLM


class FlaxXLMRobertaXLForSequenceClassification(roberta.RobertaModel):
    """XLM-RoBERTa-XL with a classifier or regressor of whole texts, in Flax."""
    config_class, net_class = XLMRobertaXLConfig, nets.SequenceClassification


class FlaxXLMRobertaXLForMultipleChoice(roberta.RobertaModel):
    """XLM-RoBERTa-XL with a scorer of choices, in Flax."""
    config_class, net_class = XLMRobertaXLConfig, nets.MultipleChoice


class FlaxXLMRobertaXLForTokenClassification(roberta.RobertaModel):
    """XLM-RoBERTa-XL with a classifier of tokens, in Flax."""
    config_class, net_class = XLMRobertaXLConfig, nets.TokenClassification


class FlaxXLMRobertaXLForQuestionAnswering(roberta.RobertaModel):
    """XLM-RoBERTa-XL with start and end scores of an answer, in Flax."""
    config_class, net_class = XLMRobertaXLConfig, nets.QuestionAnswering
# fmt: on


MODELS: dict[str, Any] = {k: v for k, v in globals().items() if k.startswith("Flax") and hasattr(v, "net_class")}
