"""``config.json`` and its object: aliases, unknown keys kept, every value checked with its name and rule."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from xlm.atomic import write_text
from xlm.errors import ConfigError
from xlm.jsonfile import read_object
from xlm.publish import Published, push_saved, stamps, take_upload

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# Keys that every model of the library's world carries; config.json holds them only where they differ from these values.
BASE_DEFAULTS: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "torch_dtype": None,
    "use_bfloat16": False,
    "tf_legacy_loss": False,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "is_encoder_decoder": False,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "chunk_size_feed_forward": 0,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "architectures": None,
    "finetuning_task": None,
    "tokenizer_class": None,
    "prefix": None,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
    "task_specific_params": None,
    "problem_type": None,
}

Rule = tuple[str, Callable[[Any], bool]]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


POSITIVE: Rule = ("an integer of at least 1", lambda v: _is_int(v) and v >= 1)
COUNT: Rule = ("an integer of at least 0", lambda v: _is_int(v) and v >= 0)
TOKEN_ID: Rule = ("an integer of at least 0 or None", lambda v: v is None or (_is_int(v) and v >= 0))
PROBABILITY: Rule = (
    "a number from 0 to 1",
    lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1,
)
OPTIONAL_PROBABILITY: Rule = ("a number from 0 to 1 or None", lambda v: v is None or PROBABILITY[1](v))
NON_NEGATIVE: Rule = (
    "a number of at least 0",
    lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v >= 0,
)
BOOLEAN: Rule = ("true or false", lambda v: isinstance(v, bool))
ACTIVATION: Rule = ("a name or a callable", lambda v: isinstance(v, str) or callable(v))


_MAPPING: Rule = ("a mapping or None", lambda v: isinstance(v, Mapping))
_SHAPES: dict[str, Rule] = {
    "architectures": (
        "a list of names or None",
        lambda v: isinstance(v, list | tuple) and all(isinstance(name, str) for name in v),
    ),
    "pruned_heads": _MAPPING,
    "quantization_config": _MAPPING,
    "task_specific_params": _MAPPING,
    "id2lang": _MAPPING,
    "lang2id": (
        "a mapping of languages to ids or None",
        lambda v: isinstance(v, Mapping) and all(isinstance(k, str) and _is_int(i) for k, i in v.items()),
    ),
}
"""What is looked into wherever a file has it, whatever the family."""


def one_of(*names: str) -> Rule:
    """The rule that a value is one of ``names``."""
    return ("one of " + ", ".join(names), lambda v: v in names)


class PretrainedConfig(Published):
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
        if not _is_int(value) or value < 1:
            raise ConfigError(f"num_labels={value!r}: must be an integer of at least 1")
        if getattr(self, "id2label", None) is None or len(self.id2label) != value:
            self.id2label = {i: f"LABEL_{i}" for i in range(value)}
            self.label2id = {v: k for k, v in self.id2label.items()}

    # -- aliases ------------------------------------------------------------------------------------------------------

    @classmethod
    def _stored(cls, name: str) -> str:
        """The name under which a field of a name or an alias is kept."""
        return "torch_dtype" if name == "dtype" else cls.attribute_map.get(name, name)

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
        for key, (rule, holds) in _SHAPES.items():
            value = self.__dict__.get(key)
            if value is not None and not holds(value):
                raise ConfigError(f"{type(self).__name__}: {key}={value!r}: must be {rule}")
        if self.problem_type is not None and self.problem_type not in PROBLEM_TYPES:
            raise ConfigError(f"problem_type={self.problem_type!r}: must be one of {', '.join(PROBLEM_TYPES)} or None")

    # -- dictionaries and files ---------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Every value, base keys included, as plain data."""
        out: dict[str, Any] = {}
        for key, value in self.__dict__.items():
            if key in ("_commit_hash", "_attn_implementation", "name_or_path"):
                continue
            out[key] = copy.deepcopy(value) if not callable(value) else value
        if self.model_type:
            out["model_type"] = self.model_type
        if self.name_or_path:
            out["_name_or_path"] = self.name_or_path
        if out.get("torch_dtype") is not None:
            out["torch_dtype"] = str(out["torch_dtype"]).removeprefix("torch.")
        return out

    def to_diff_dict(self) -> dict[str, Any]:
        """What ``config.json`` holds: all keys of the family, base keys where they differ from their defaults."""
        out, kept = self.to_dict(), {}
        labels = {i: f"LABEL_{i}" for i in range(2)}
        for key, value in out.items():
            if key in ("id2label", "label2id"):
                if self.id2label != labels or self.label2id != {name: i for i, name in labels.items()}:
                    kept[key] = value
            elif key == "transformers_version":
                if value is not None:
                    kept[key] = value
            elif key in self.defaults or key not in BASE_DEFAULTS or value != BASE_DEFAULTS[key]:
                kept[key] = value
        return kept

    def to_json_string(self, use_diff: bool = True) -> str:
        """The configuration as JSON text with sorted keys.

        Raises:
            ConfigError: an activation is a callable that no file can hold.
        """
        data = self.to_diff_dict() if use_diff else self.to_dict()
        for key, value in data.items():
            if callable(value):
                name = getattr(value, "__name__", repr(value))
                raise ConfigError(f"{key} is the callable {name}: a file can only hold a named activation")
        return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write the configuration to a file, which is replaced at once."""
        write_text(json_file_path, self.to_json_string(use_diff))

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``config.json`` into a folder, which is made if need be.

        Args:
            push_to_hub: upload it to ``repo_id``, by default the folder's name; ``kwargs`` are of the upload.
        """
        upload, folder = take_upload(type(self), kwargs, push_to_hub), Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"save_directory={str(folder)!r} is a file: a folder is needed")
        folder.mkdir(parents=True, exist_ok=True)
        before = stamps(folder)
        self.to_json_file(folder / "config.json")
        if push_to_hub:
            push_saved(folder, before, upload)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Make a config from plain data; keyword arguments override.

        With ``return_unused_kwargs=True`` those that name no field are returned beside the config; else a warning says that
        they are ignored.

        Raises:
            ConfigError: a value breaks a rule, or ``num_labels`` and ``id2label`` are given and disagree.
        """
        return_unused = kwargs.pop("return_unused_kwargs", False)
        data = dict(config_dict)
        known = cls.fields() | data.keys()
        unused = {key: kwargs.pop(key) for key in list(kwargs) if key not in known}
        count, names = kwargs.get("num_labels"), kwargs.get("id2label")
        if count is not None and isinstance(names, Mapping) and len(names) != count:
            raise ConfigError(f"num_labels={count} and id2label with {len(names)} names disagree: give one of them")
        # What the file says of fields that are overridden does not count, nor names that belong to another number.
        changed = {cls._stored(key) for key in kwargs}
        stored = data.get("id2label")
        if names is not None or (count is not None and isinstance(stored, Mapping) and len(stored) != count):
            changed |= {"id2label", "label2id", "num_labels"}
        config = cls(**{key: value for key, value in data.items() if cls._stored(key) not in changed}, **kwargs)
        if return_unused:
            return config, unused
        if unused:
            warnings.warn(
                f"{', '.join(sorted(unused))}: no fields of {cls.__name__}, ignored; set attributes of the config to keep "
                "what it does not know",
                stacklevel=3,
            )
        return config

    @classmethod
    def fields(cls) -> set[str]:
        """Every name the constructor knows: the family's keys, the base keys, aliases and labels."""
        more = ("num_labels", "id2label", "label2id", "dtype", "name_or_path", "attn_implementation", "check_finite")
        return {*cls.defaults, *BASE_DEFAULTS, *cls.attribute_map, *cls.optional, *more}

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Make a config from a JSON file."""
        return cls.from_dict(read_object(Path(json_file), ConfigError))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Read the ``config.json`` of a folder, a file or a hub name.

        Raises:
            CheckpointError: there is no such folder or name, or it has no config.
            ConfigError: the config is not valid.
        """
        data, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        found = data.get("model_type")
        if cls.model_type and found and found != cls.model_type:
            warnings.warn(
                f"{pretrained_model_name_or_path}: config.json says model_type {found!r}, read as {cls.model_type!r}",
                stacklevel=2,
            )
        return cls.from_dict(data, **kwargs)

    @staticmethod
    def get_config_dict(
        pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The raw ``config.json``, and the keyword arguments that are no options of the hub (``revision``, ``token``, ...)."""
        from xlm.hub import resolve, take_hub_options

        hub = take_hub_options(kwargs)
        path = Path(pretrained_model_name_or_path)
        if not path.is_file():
            path = resolve(pretrained_model_name_or_path, allow_patterns=["config.json"], **hub) / "config.json"
        data = read_object(path, ConfigError)
        data["_name_or_path"] = str(pretrained_model_name_or_path)
        return data, kwargs

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
