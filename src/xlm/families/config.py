"""The configuration of a model: aliases, unknown keys kept, every value checked with its name and rule."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from xlm.errors import ConfigError
from xlm.families.configfile import ConfigFile
from xlm.families.fields import BASE_DEFAULTS, PROBLEM_TYPES, SHAPES, Rule, is_int


class PretrainedConfig(ConfigFile):
    """A model's configuration: attributes, read from and written to ``config.json``.

    Sub-classes declare data only: ``model_type``, ``defaults`` (key -> default), ``attribute_map`` (alias -> key) and
    ``rules`` (key -> rule). Unknown keyword arguments become attributes and survive a round trip.

    Raises:
        ConfigError: a value breaks the rule of its field, or two fields contradict each other.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}
    defaults: ClassVar[dict[str, Any]] = {}
    base_overrides: ClassVar[dict[str, Any]] = {}
    """Defaults of base keys that the family changes without listing them in its own part of the file."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Keys that the family reads where they are there, and that have no defaults."""
    rules: ClassVar[dict[str, Rule]] = {}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    is_composition: ClassVar[bool] = False

    id2label: dict[int, str]
    label2id: dict[str, int]
    torch_dtype: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if len(args) > len(self.defaults):
            raise ConfigError(
                f"{type(self).__name__} takes at most {len(self.defaults)} positional values, got {len(args)}"
            )
        given = dict(zip(self.defaults, args, strict=False))
        if double := given.keys() & kwargs.keys():
            raise ConfigError(f"{type(self).__name__}: {sorted(double)[0]} is given twice")
        given.update(kwargs)
        # An alias names the same field and, as in the references' files, wins over it where both are given.
        for alias, key in self.attribute_map.items():
            if alias in given:
                given[key] = given.pop(alias)
        if "dtype" in given:  # the newer name of the same key
            given["torch_dtype"] = given.pop("dtype")
        num_labels = given.pop("num_labels", None)
        id2label, label2id = given.pop("id2label", None), given.pop("label2id", None)
        for key, default in {**BASE_DEFAULTS, **self.base_overrides, **self.defaults}.items():
            object.__setattr__(self, key, given.pop(key) if key in given else copy.deepcopy(default))
        self.name_or_path: str = str(given.pop("_name_or_path", given.pop("name_or_path", "")))
        given.pop("model_type", None)
        self.transformers_version: str | None = given.pop("transformers_version", None)
        self._commit_hash = given.pop("_commit_hash", None)
        self._attn_implementation: str | None = given.pop(
            "attn_implementation", given.pop("_attn_implementation", None)
        )
        self._set_labels(id2label, label2id, num_labels)
        if isinstance(self.torch_dtype, str):
            self.torch_dtype = self.torch_dtype.removeprefix("torch.")
        if isinstance(self.pruned_heads, Mapping):
            try:
                self.pruned_heads = {int(k): sorted(int(h) for h in v) for k, v in self.pruned_heads.items()}
            except (TypeError, ValueError) as error:
                raise ConfigError(f"pruned_heads={self.pruned_heads!r}: must map layers to lists of heads") from error
        for key, value in given.items():
            if hasattr(type(self), key) or key.startswith("__"):  # a file's key would take the place of a method
                raise ConfigError(f"{type(self).__name__}: {key}={value!r}: no field of a config can have this name")
            setattr(self, key, value)
        self.validate()

    # -- labels -------------------------------------------------------------------------------------------------------

    def _set_labels(self, id2label: Any, label2id: Any, num_labels: int | None) -> None:
        if id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
            if label2id is not None:
                self.label2id = _ids_of(label2id)
            return
        try:
            self.id2label = {int(k): str(v) for k, v in dict(id2label).items()}
        except (TypeError, ValueError) as error:
            raise ConfigError(f"id2label={id2label!r}: must map integers to names") from error
        if num_labels is not None and len(self.id2label) != num_labels:
            warnings.warn(
                f"num_labels={num_labels} and id2label with {len(self.id2label)} names disagree; id2label wins",
                stacklevel=4,
            )
        self.label2id = {v: k for k, v in self.id2label.items()} if label2id is None else _ids_of(label2id)

    @property
    def num_labels(self) -> int:
        """Number of labels of a classification head: the length of ``id2label``."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        if not is_int(value) or value < 1:
            raise ConfigError(f"num_labels={value!r}: must be an integer of at least 1")
        if getattr(self, "id2label", None) is None or len(self.id2label) != value:
            self.id2label = {i: f"LABEL_{i}" for i in range(value)}
            self.label2id = {v: k for k, v in self.id2label.items()}

    # -- aliases ------------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # Only names that are not stored come here: aliases, and faults.
        key = type(self)._stored(name)
        if key == name:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")
        return getattr(self, key)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, type(self)._stored(name), value)

    @property
    def use_return_dict(self) -> bool:
        """Whether models answer with output objects: ``return_dict`` unless the model is meant for TorchScript."""
        return bool(self.return_dict) and not self.torchscript

    # -- checks -------------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check every field against its rule.

        Raises:
            ConfigError: names the field, its value and the rule.
        """
        for key, (rule, holds) in self.rules.items():
            value = getattr(self, key)
            if not holds(value):
                raise ConfigError(f"{type(self).__name__}: {key}={value!r}: must be {rule}")
        for key, (rule, holds) in SHAPES.items():
            value = self.__dict__.get(key)
            if value is not None and not holds(value):
                raise ConfigError(f"{type(self).__name__}: {key}={value!r}: must be {rule}")
        if self.problem_type is not None and self.problem_type not in PROBLEM_TYPES:
            raise ConfigError(f"problem_type={self.problem_type!r}: must be one of {', '.join(PROBLEM_TYPES)} or None")

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several fields at once and check them all."""
        for key, value in config_dict.items():
            setattr(self, key, value)
        self.validate()

    def update_from_string(self, update_str: str) -> None:
        """Set fields by a text such as ``n_embd=10,resid_pdrop=0.2,scale=false,summary_type=cls_index``.

        Each value is read as the type that the field has now.

        Raises:
            ConfigError: an unknown field, one that holds no number, switch or text, or a value of another type.
        """
        found: dict[str, Any] = {}
        for pair in update_str.split(","):
            key, equals, text = (part.strip() for part in pair.partition("="))
            if not equals or not hasattr(self, key):
                raise ConfigError(f"{pair.strip()!r}: must be FIELD=VALUE with a field of {type(self).__name__}")
            found[key] = _as_type_of(getattr(self, key), key, text)
        self.update(found)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a field, or ``default`` where there is none (adapter libraries read configs like this)."""
        return getattr(self, key, default)

    def get_text_config(self, decoder: bool = False, encoder: bool | None = None) -> Self:
        """The config of the text part: this one (trainer libraries ask every config for it)."""
        del decoder, encoder
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PretrainedConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        data = {k: getattr(v, "__name__", str(v)) if callable(v) else v for k, v in self.to_diff_dict().items()}
        return f"{type(self).__name__} {json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)}\n"


def _ids_of(label2id: Any) -> dict[str, int]:
    try:
        return {str(name): int(index) for name, index in dict(label2id).items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"label2id={label2id!r}: must map names to integers") from error


def _as_type_of(old: Any, key: str, text: str) -> Any:
    if isinstance(old, bool):
        if text.lower() in ("true", "1", "y", "yes", "on"):
            return True
        if text.lower() in ("false", "0", "n", "no", "off"):
            return False
        raise ConfigError(f"{key}={text!r}: must be true or false")
    if isinstance(old, str):
        return text
    if not isinstance(old, int | float):
        raise ConfigError(
            f"{key}={text!r}: the field holds a {type(old).__name__}; only numbers, switches and text can be set"
        )
    try:
        return type(old)(text)
    except ValueError as error:
        raise ConfigError(f"{key}={text!r}: must be {'an integer' if isinstance(old, int) else 'a number'}") from error
