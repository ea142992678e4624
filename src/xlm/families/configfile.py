"""Configs as plain data and as files: ``config.json``, read and written."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from xlm.atomic import write_text
from xlm.errors import ConfigError
from xlm.families.fields import BASE_DEFAULTS
from xlm.jsonfile import read_object
from xlm.publish import Published, push_saved, stamps, take_upload


class ConfigFile(Published):
    """Abstract: the part of :class:`xlm.families.config.PretrainedConfig` that turns it into data and back."""

    model_type: ClassVar[str]
    attribute_map: ClassVar[dict[str, str]]
    defaults: ClassVar[dict[str, Any]]
    optional: ClassVar[tuple[str, ...]]
    id2label: dict[int, str]
    label2id: dict[str, int]
    name_or_path: str

    @classmethod
    def _stored(cls, name: str) -> str:
        """The name under which a field of a name or an alias is kept."""
        return "torch_dtype" if name == "dtype" else cls.attribute_map.get(name, name)

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
