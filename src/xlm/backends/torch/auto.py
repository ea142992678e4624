"""Classes that choose the family by a checkpoint's config."""

from __future__ import annotations

import os
from typing import Any, ClassVar, NoReturn

from xlm.backends.torch.encoder_decoder import EncoderDecoderModel
from xlm.backends.torch.models import MODELS
from xlm.errors import ConfigError
from xlm.families.auto import AutoConfig
from xlm.families.config import PretrainedConfig


class _Auto:
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
        return MODELS.get(name, EncoderDecoderModel)

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Any:
        """A model with fresh weights."""
        return cls._class(config).from_config(config, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Load a folder or hub name with the class that its config, or that of ``config``, asks for."""
        config = kwargs.get("config")
        if not isinstance(config, PretrainedConfig):
            from xlm.hub import take_hub_options

            hub = take_hub_options(dict(kwargs))
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path if config is None else config, **hub)
        return cls._class(config).from_pretrained(pretrained_model_name_or_path, *args, **kwargs)


def _heads(xlm: str, other: str) -> dict[str, str]:
    return {"xlm": f"XLM{xlm}", "xlm-roberta": f"XLMRoberta{other}", "xlm-roberta-xl": f"XLMRobertaXL{other}"}


class AutoModel(_Auto):
    """The model without a head."""

    classes = _heads("Model", "Model")


class AutoModelForMaskedLM(_Auto):
    """The masked language model."""

    classes = _heads("WithLMHeadModel", "ForMaskedLM")


class AutoModelForCausalLM(_Auto):
    """The left-to-right language model."""

    classes = _heads("WithLMHeadModel", "ForCausalLM")


class AutoModelForSequenceClassification(_Auto):
    """The classifier of whole texts."""

    classes = _heads("ForSequenceClassification", "ForSequenceClassification")


class AutoModelForTokenClassification(_Auto):
    """The classifier of tokens."""

    classes = _heads("ForTokenClassification", "ForTokenClassification")


class AutoModelForQuestionAnswering(_Auto):
    """The extractive question answerer; for XLM the simple one."""

    classes = _heads("ForQuestionAnsweringSimple", "ForQuestionAnswering")


class AutoModelForMultipleChoice(_Auto):
    """The scorer of choices."""

    classes = _heads("ForMultipleChoice", "ForMultipleChoice")


class AutoModelForSeq2SeqLM(_Auto):
    """The model that reads one text and writes another."""

    classes: ClassVar[dict[str, str]] = {"encoder-decoder": "EncoderDecoderModel"}
