"""What a model is, as data: configs, specs, name tables; no framework is imported here."""

from __future__ import annotations

from xlm.families.auto import AutoConfig
from xlm.families.config import PretrainedConfig
from xlm.families.encoder_decoder import EncoderDecoderConfig
from xlm.families.registry import FAMILIES, Family, family_of
from xlm.families.spec import EncoderSpec
from xlm.families.xlm import XLMConfig
from xlm.families.xlm_roberta import XLMRobertaConfig
from xlm.families.xlm_roberta_xl import XLMRobertaXLConfig

__all__ = [
    "FAMILIES",
    "AutoConfig",
    "EncoderDecoderConfig",
    "EncoderSpec",
    "Family",
    "PretrainedConfig",
    "XLMConfig",
    "XLMRobertaConfig",
    "XLMRobertaXLConfig",
    "family_of",
]
