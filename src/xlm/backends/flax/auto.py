"""Flax classes that choose the family by a checkpoint's config."""

from __future__ import annotations

import os
from typing import Any, ClassVar, NoReturn

from xlm.backends.flax.models import MODELS
from xlm.errors import ConfigError
from xlm.families.auto import AutoConfig
from xlm.families.config import PretrainedConfig


class _FlaxAuto:
    """Abstract: maps ``model_type`` to the class of one task."""

    classes: ClassVar[dict[str, str]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(f"{type(self).__name__}: use {type(self).__name__}.from_pretrained(...) or .from_config(...)")

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
    return {
        "xlm": f"FlaxXLM{xlm}",
        "xlm-roberta": f"FlaxXLMRoberta{other}",
        "xlm-roberta-xl": f"FlaxXLMRobertaXL{other}",
    }


class FlaxAutoModel(_FlaxAuto):
    """The model without a head."""

    classes = _heads("Model", "Model")


class FlaxAutoModelForMaskedLM(_FlaxAuto):
    """The masked language model."""

    classes = _heads("WithLMHeadModel", "ForMaskedLM")


class FlaxAutoModelForCausalLM(_FlaxAuto):
    """The left-to-right language model."""

    classes = _heads("WithLMHeadModel", "ForCausalLM")


class FlaxAutoModelForSequenceClassification(_FlaxAuto):
    """The classifier of whole texts."""

    classes = _heads("ForSequenceClassification", "ForSequenceClassification")


class FlaxAutoModelForTokenClassification(_FlaxAuto):
    """The classifier of tokens."""

    classes = _heads("ForTokenClassification", "ForTokenClassification")


class FlaxAutoModelForQuestionAnswering(_FlaxAuto):
    """The extractive question answerer; for XLM the simple one."""

    classes = _heads("ForQuestionAnsweringSimple", "ForQuestionAnswering")


class FlaxAutoModelForMultipleChoice(_FlaxAuto):
    """The scorer of choices."""

    classes = _heads("ForMultipleChoice", "ForMultipleChoice")
