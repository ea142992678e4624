"""Classes that choose the family by a checkpoint's config."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from xlm.backends.keras.models import MODELS
from xlm.errors import ConfigError
from xlm.families.auto import AutoConfig
from xlm.families.config import PretrainedConfig


class _Auto:
    """Abstract: maps ``model_type`` to the class of one task."""

    classes: ClassVar[dict[str, str]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        raise ConfigError(f"{name}: use {name}.from_pretrained(...) or {name}.from_config(...)")

    @classmethod
    def _class(cls, config: PretrainedConfig) -> Any:
        name = cls.classes.get(config.model_type)
        if name is None:
            raise ConfigError(f"model_type={config.model_type!r}: {cls.__name__} knows {', '.join(cls.classes)}")
        return MODELS[name]

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Any:
        """A model with fresh weights."""
        return cls._class(config).from_config(config, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a folder or hub name with the class that its config, or that of ``config``, asks for."""
        config = kwargs.get("config")
        if not isinstance(config, PretrainedConfig):
            from xlm.hub import take_hub_options

            hub = take_hub_options(dict(kwargs))
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path if config is None else config, **hub)
        return cls._class(config).from_pretrained(pretrained_model_name_or_path, **kwargs)


def _heads(xlm: str, other: str) -> dict[str, str]:
    return {"xlm": f"TFXLM{xlm}", "xlm-roberta": f"TFXLMRoberta{other}", "xlm-roberta-xl": f"TFXLMRobertaXL{other}"}


class TFAutoModel(_Auto):
    """The model without a head."""

    classes = _heads("Model", "Model")


class TFAutoModelForMaskedLM(_Auto):
    """The masked language model."""

    classes = _heads("WithLMHeadModel", "ForMaskedLM")


class TFAutoModelForCausalLM(_Auto):
    """The left-to-right language model."""

    classes = _heads("WithLMHeadModel", "ForCausalLM")


class TFAutoModelForSequenceClassification(_Auto):
    """The classifier of whole texts."""

    classes = _heads("ForSequenceClassification", "ForSequenceClassification")


class TFAutoModelForTokenClassification(_Auto):
    """The classifier of tokens."""

    classes = _heads("ForTokenClassification", "ForTokenClassification")


class TFAutoModelForQuestionAnswering(_Auto):
    """The extractive question answerer."""

    classes = _heads("ForQuestionAnsweringSimple", "ForQuestionAnswering")


class TFAutoModelForMultipleChoice(_Auto):
    """The scorer of choices."""

    classes = _heads("ForMultipleChoice", "ForMultipleChoice")
