"""What the classes share that choose a model's class by its config, in every framework."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from xlm.errors import ConfigError
from xlm.families.auto import AutoConfig
from xlm.families.config import PretrainedConfig


class AutoClass:
    """Abstract: maps ``model_type`` to the class of one task.

    Attributes:
        classes: model_type -> the name of a class.
        models: the name of a class -> the class: of a framework.
    """

    classes: ClassVar[Mapping[str, str]]
    models: ClassVar[Mapping[str, Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        name = type(self).__name__
        raise ConfigError(f"{name}: use {name}.from_pretrained(...) or {name}.from_config(...)")

    @classmethod
    def _class(cls, config: PretrainedConfig) -> Any:
        name = cls.classes.get(config.model_type)
        if name is None:
            raise ConfigError(f"model_type={config.model_type!r}: {cls.__name__} knows {', '.join(cls.classes)}")
        return cls.models[name]

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


def of_families(prefix: str, xlm: str, other: str) -> dict[str, str]:
    """``model_type`` -> the name of a class: the family's, with the ending of XLM's or of the others' classes of a task."""
    ends = {"xlm": f"XLM{xlm}", "xlm-roberta": f"XLMRoberta{other}", "xlm-roberta-xl": f"XLMRobertaXL{other}"}
    return {model_type: prefix + end for model_type, end in ends.items()}
