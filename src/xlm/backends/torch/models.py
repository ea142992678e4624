"""The documented PyTorch classes: each is a family and a head."""

from __future__ import annotations

from typing import Any

from xlm.backends.torch import models_roberta as roberta
from xlm.backends.torch import models_xlm as xlm
from xlm.backends.torch import pytree as pytree
from xlm.families import XLMConfig, XLMRobertaConfig, XLMRobertaXLConfig


# fmt: off
class XLMModel(xlm.XLMTrunk):
    """XLM without a head."""
    config_class = XLMConfig


class XLMWithLMHeadModel(xlm.XLMLMHeadModel):
    """XLM with a language modelling head (MLM, CLM and TLM checkpoints)."""
    config_class, trunk_class = XLMConfig, XLMModel


class XLMForSequenceClassification(xlm.XLMSequenceClassifier):
    """XLM with a classifier or regressor of whole texts."""
    config_class, trunk_class = XLMConfig, XLMModel


class XLMForMultipleChoice(xlm.XLMMultipleChoice):
    """XLM with a scorer of choices."""
    config_class, trunk_class = XLMConfig, XLMModel


class XLMForTokenClassification(xlm.XLMTokenClassifier):
    """XLM with a classifier of tokens."""
    config_class, trunk_class = XLMConfig, XLMModel


class XLMForQuestionAnsweringSimple(xlm.XLMSimpleQA):
    """XLM with start and end scores of an answer."""
    config_class, trunk_class = XLMConfig, XLMModel


class XLMForQuestionAnswering(xlm.XLMBeamQA):
    """XLM with a beam search over answers."""
    config_class, trunk_class = XLMConfig, XLMModel


class XLMRobertaModel(roberta.RobertaTrunk):
    """XLM-RoBERTa without a head."""
    config_class = XLMRobertaConfig


class XLMRobertaForCausalLM(roberta.RobertaForCausalLM):
    """XLM-RoBERTa as a left-to-right language model."""
    config_class, trunk_class = XLMRobertaConfig, XLMRobertaModel


class XLMRobertaForMaskedLM(roberta.RobertaForMaskedLM):
    """XLM-RoBERTa with a masked language modelling head."""
    config_class, trunk_class = XLMRobertaConfig, XLMRobertaModel


class XLMRobertaForSequenceClassification(roberta.RobertaForSequenceClassification):
    """XLM-RoBERTa with a classifier or regressor of whole texts."""
    config_class, trunk_class = XLMRobertaConfig, XLMRobertaModel


class XLMRobertaForMultipleChoice(roberta.RobertaForMultipleChoice):
    """XLM-RoBERTa with a scorer of choices."""
    config_class, trunk_class = XLMRobertaConfig, XLMRobertaModel


class XLMRobertaForTokenClassification(roberta.RobertaForTokenClassification):
    """XLM-RoBERTa with a classifier of tokens."""
    config_class, trunk_class = XLMRobertaConfig, XLMRobertaModel


class XLMRobertaForQuestionAnswering(roberta.RobertaForQuestionAnswering):
    """XLM-RoBERTa with start and end scores of an answer."""
    config_class, trunk_class = XLMRobertaConfig, XLMRobertaModel


class XLMRobertaXLModel(roberta.RobertaTrunk):
    """XLM-RoBERTa-XL without a head."""
    config_class = XLMRobertaXLConfig


class XLMRobertaXLForCausalLM(roberta.RobertaForCausalLM):
    """XLM-RoBERTa-XL as a left-to-right language model."""
    config_class, trunk_class = XLMRobertaXLConfig, XLMRobertaXLModel


class XLMRobertaXLForMaskedLM(roberta.RobertaForMaskedLM):
    """XLM-RoBERTa-XL with a masked language modelling head."""
    config_class, trunk_class = XLMRobertaXLConfig, XLMRobertaXLModel


class XLMRobertaXLForSequenceClassification(roberta.RobertaForSequenceClassification):
    """XLM-RoBERTa-XL with a classifier or regressor of whole texts."""
    config_class, trunk_class = XLMRobertaXLConfig, XLMRobertaXLModel


class XLMRobertaXLForMultipleChoice(roberta.RobertaForMultipleChoice):
    """XLM-RoBERTa-XL with a scorer of choices."""
    config_class, trunk_class = XLMRobertaXLConfig, XLMRobertaXLModel


class XLMRobertaXLForTokenClassification(roberta.RobertaForTokenClassification):
    """XLM-RoBERTa-XL with a classifier of tokens."""
    config_class, trunk_class = XLMRobertaXLConfig, XLMRobertaXLModel


class XLMRobertaXLForQuestionAnswering(roberta.RobertaForQuestionAnswering):
    """XLM-RoBERTa-XL with start and end scores of an answer."""
    config_class, trunk_class = XLMRobertaXLConfig, XLMRobertaXLModel
# fmt: on


MODELS: dict[str, Any] = {k: v for k, v in globals().items() if k.startswith("XLM") and hasattr(v, "config_class")}
