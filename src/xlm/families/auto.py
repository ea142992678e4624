"""The config class of a checkpoint, chosen by its ``model_type``."""

from __future__ import annotations

import os
from typing import Any

from xlm.errors import ConfigError
from xlm.families.config import PretrainedConfig
from xlm.families.encoder_decoder import EncoderDecoderConfig
from xlm.families.registry import FAMILIES


def config_class_of(model_type: str | None) -> Any:
    """The config class of a ``model_type``, or ``None``: of a family, or of an encoder-decoder of two of them."""
    if not isinstance(model_type, str):  # whatever stands in a file
        return None
    if model_type == EncoderDecoderConfig.model_type:
        return EncoderDecoderConfig
    return FAMILIES[model_type].config_class if model_type in FAMILIES else None


def _known() -> str:
    return ", ".join([*sorted(FAMILIES), EncoderDecoderConfig.model_type])


class AutoConfig:
    """Chooses a family's config."""

    def __init__(self) -> None:
        raise ConfigError("AutoConfig: use AutoConfig.from_pretrained(...) or AutoConfig.for_model(model_type)")

    @staticmethod
    def for_model(model_type: str, **kwargs: Any) -> Any:
        """A config of a family by its name."""
        found = config_class_of(model_type)
        if found is None:
            raise ConfigError(f"model_type={model_type!r}: must be one of {_known()}")
        return found(**kwargs)

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Read the config of a folder, a file or a hub name.

        Without a ``model_type`` in it, a known one in the path's name decides, the longest first.

        Raises:
            ConfigError: neither names a known family.
        """
        data, kwargs = PretrainedConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = data.get("model_type")
        if model_type is None:
            name = str(pretrained_model_name_or_path)
            model_type = next((t for t in sorted(FAMILIES, key=len, reverse=True) if t in name), None)
        found = config_class_of(model_type)
        if found is None:
            raise ConfigError(f"{pretrained_model_name_or_path}: model_type={model_type!r}: must be one of {_known()}")
        return found.from_dict(data, **kwargs)
