"""The documented TensorFlow classes: each is a family and a head."""

from __future__ import annotations

from typing import Any

from xlm.backends.keras import models_roberta as roberta
from xlm.backends.keras import models_xlm as xlm
from xlm.families import XLMConfig, XLMRobertaConfig, XLMRobertaXLConfig


# fmt: off
class TFXLMModel(xlm.XLMTrunk):
    """XLM without a head."""
    config_class = XLMConfig


class TFXLMWithLMHeadModel(xlm.XLMLMHeadModel):
    """XLM with a language modelling head (MLM, CLM and TLM checkpoints)."""
    config_class, trunk_class = XLMConfig, TFXLMModel


class TFXLMForSequenceClassification(xlm.XLMSequenceClassifier):
    """XLM with a classifier or regressor of whole texts."""
    config_class, trunk_class = XLMConfig, TFXLMModel


class TFXLMForMultipleChoice(xlm.XLMMultipleChoice):
    """XLM with a scorer of choices."""
    config_class, trunk_class = XLMConfig, TFXLMModel


class TFXLMForTokenClassification(xlm.XLMTokenClassifier):
    """XLM with a classifier of tokens."""
    config_class, trunk_class = XLMConfig, TFXLMModel


class TFXLMForQuestionAnsweringSimple(xlm.XLMSimpleQA):
    """XLM with start and end scores of an answer."""
    config_class, trunk_class = XLMConfig, TFXLMModel


class TFXLMRobertaModel(roberta.RobertaTrunk):
    """XLM-RoBERTa without a head."""
    config_class = XLMRobertaConfig


class TFXLMRobertaForCausalLM(roberta.RobertaForCausalLM):
    """XLM-RoBERTa as a left-to-right language model."""
    config_class, trunk_class = XLMRobertaConfig, TFXLMRobertaModel


class TFXLMRobertaForMaskedLM(roberta.RobertaForMaskedLM):
    """XLM-RoBERTa with a masked language modelling head."""
    config_class, trunk_class = XLMRobertaConfig, TFXLMRobertaModel


class TFXLMRobertaForSequenceClassification(roberta.RobertaForSequenceClassification):
    """XLM-RoBERTa with a classifier or regressor of whole texts."""
    config_class, trunk_class = XLMRobertaConfig, TFXLMRobertaModel


class TFXLMRobertaForMultipleChoice(roberta.RobertaForMultipleChoice):
    """XLM-RoBERTa with a scorer of choices."""
    config_class, trunk_class = XLMRobertaConfig, TFXLMRobertaModel


class TFXLMRobertaForTokenClassification(roberta.RobertaForTokenClassification):
    """XLM-RoBERTa with a classifier of tokens."""
    config_class, trunk_class = XLMRobertaConfig, TFXLMRobertaModel


class TFXLMRobertaForQuestionAnswering(roberta.RobertaForQuestionAnswering):
    """XLM-RoBERTa with start and end scores of an answer."""
    config_class, trunk_class = XLMRobertaConfig, TFXLMRobertaModel


class TFXLMRobertaXLModel(roberta.RobertaTrunk):
    """XLM-RoBERTa-XL without a head."""
    config_class = XLMRobertaXLConfig


class TFXLMRobertaXLForCausalLM(roberta.RobertaForCausalLM):
    """XLM-RoBERTa-XL as a left-to-right language model."""
    config_class, trunk_class = XLMRobertaXLConfig, TFXLMRobertaXLModel


class TFXLMRobertaXLForMaskedLM(roberta.RobertaForMaskedLM):
    """XLM-RoBERTa-XL with a masked language modelling head."""
    config_class, trunk_class = XLMRobertaXLConfig, TFXLMRobertaXLModel


class TFXLMRobertaXLForSequenceClassification(roberta.RobertaForSequenceClassification):
    """XLM-RoBERTa-XL with a classifier or regressor of whole texts."""
    config_class, trunk_class = XLMRobertaXLConfig, TFXLMRobertaXLModel


class TFXLMRobertaXLForMultipleChoice(roberta.RobertaForMultipleChoice):
    """XLM-RoBERTa-XL with a scorer of choices."""
    config_class, trunk_class = XLMRobertaXLConfig, TFXLMRobertaXLModel


class TFXLMRobertaXLForTokenClassification(roberta.RobertaForTokenClassification):
    """XLM-RoBERTa-XL with a classifier of tokens."""
    config_class, trunk_class = XLMRobertaXLConfig, TFXLMRobertaXLModel


class TFXLMRobertaXLForQuestionAnswering(roberta.RobertaForQuestionAnswering):
    """XLM-RoBERTa-XL with start and end scores of an answer."""
    config_class, trunk_class = XLMRobertaXLConfig, TFXLMRobertaXLModel
# fmt: on


MODELS: dict[str, Any] = {k: v for k, v in globals().items() if k.startswith("TFXLM")}
