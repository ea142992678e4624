"""``model_type`` -> family: everything the rest of the library knows about a family, as one record of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xlm.errors import ConfigError
from xlm.families.config import PretrainedConfig
from xlm.families.spec import EncoderSpec


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        model_type: the value in ``config.json``.
        class_prefix: how the family's classes begin (``XLMRoberta``).
        config_class: the class of its configs.
        spec: config -> :class:`EncoderSpec`.
        theirs_prefix: the attribute under which the published files keep the encoder of a model with a head.
        encoder_names: name table ``ours  theirs`` of the encoder's tensors, relative to the encoder.
        head_names: name table of the heads' tensors.
        pooler: whether the family has a pooler at all.
        token_loss_masks_padding: whether token classification counts labels only where the attention mask is 1.
        special_ids: config key of each special token's id -> its kind (``pad``, ``bos``, ``eos``).
        languages: what a config says of languages with these ids, where models have language embeddings.
        causal_switch: config key that makes attention look left only.
        language_model: how the class that writes text from left to right is called after the family's prefix.
        sentence_start: kind of the special token that each side of a translation begins with.
        published: names of the published checkpoints with their config overrides.
        tokenizer_class: the name of the family's tokenizer class.
    """

    model_type: str
    class_prefix: str
    config_class: type[PretrainedConfig]
    spec: Callable[[Any], EncoderSpec]
    theirs_prefix: str
    encoder_names: str
    head_names: str
    tokenizer_class: str
    pooler: bool = True
    token_loss_masks_padding: bool = False
    special_ids: dict[str, str] = field(default_factory=dict)
    languages: Callable[[Mapping[str, int]], dict[str, Any]] | None = None
    causal_switch: str = "is_decoder"
    language_model: str = "ForCausalLM"
    sentence_start: str = "bos"
    published: dict[str, dict[str, Any]] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Add a family; the same ``model_type`` twice is a programming error."""
    if family.model_type in FAMILIES:
        raise ConfigError(f"model_type={family.model_type!r} is registered already")
    FAMILIES[family.model_type] = family
    return family


def family_of(config: PretrainedConfig | str) -> Family:
    """The family of a config or ``model_type``.

    Raises:
        ConfigError: no family has this ``model_type``.
    """
    model_type = config if isinstance(config, str) else config.model_type
    if model_type not in FAMILIES:
        raise ConfigError(f"model_type={model_type!r}: must be one of {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]
