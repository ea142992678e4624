"""Tokenizers to and from folders, with the files that transformers reads and writes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from xlm import atomic
from xlm.errors import CheckpointError, InputError, OutputError
from xlm.hub import resolve, take_hub_options
from xlm.jsonfile import read_object
from xlm.publish import Published, push_saved, stamps, take_upload
from xlm.tokenizers.added import AddedToken, listed_tokens, numbered_tokens, stored_token
from xlm.tokenizers.jsonfiles import read_head

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
FAST_FILE = "tokenizer.json"
# What a name on the hub needs of a repository; weights are not touched.
PATTERNS = ("*.json", "*.model", "merges.txt", "*.codes")
_IGNORED = ("config", "use_fast", "trust_remote_code", "from_slow", "_from_auto", "_commit_hash", "legacy_format")
_NOT_SETTINGS = (
    "tokenizer_class",
    "auto_map",
    "added_tokens_decoder",
    "init_inputs",
    "backend",
    "is_local",
    "processor_class",
)


def _plain(value: Any) -> Any:
    if isinstance(value, AddedToken):
        return {"__type": "AddedToken", **value.to_dict()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _tokens(value: Any) -> Any:
    """Mappings that the files mark as added tokens, back to added tokens."""
    if isinstance(value, dict):
        if value.get("__type") == "AddedToken" or ("content" in value and "lstrip" in value):
            return AddedToken.of(value)
        return {key: _tokens(item) for key, item in value.items()}
    return [_tokens(item) for item in value] if isinstance(value, list) else value


def _is_here(key: str) -> bool:
    """Whether a setting names no file: a folder's files are its own, whatever path it was once saved with."""
    return not key.endswith("_file")


def _here(value: Any) -> Any:
    return {key: item for key, item in value.items() if _is_here(str(key))} if isinstance(value, dict) else value


class Persistence(Published):
    """``from_pretrained`` and ``save_pretrained``. Mixed into :class:`xlm.tokenizers.base.Tokenizer`."""

    vocab_files_names: ClassVar[dict[str, str]] = {}
    max_model_input_sizes: ClassVar[dict[str, int]] = {}

    if TYPE_CHECKING:
        FAST: bool
        SPECIAL_TOKENS_ATTRIBUTES: tuple[str, ...]
        init_kwargs: dict[str, Any]
        chat_template: Any
        special_tokens_map: dict[str, Any]
        special_tokens_map_extended: dict[str, Any]
        added_tokens_encoder: dict[str, int]
        added_tokens_decoder: Any

        def __init__(self, **options: Any) -> None: ...
        @property
        def vocab_size(self) -> int: ...

    @classmethod
    def from_pretrained(cls, name_or_path: Any, *init_inputs: Any, **options: Any) -> Self:
        """The tokenizer of a folder, of a vocabulary file, or of a name on the hub; an existing path beats a name.

        ``options`` override what the files say. Raises ``CheckpointError`` naming the folder and the files it lacks.
        """
        options = {key: value for key, value in options.items() if key not in _IGNORED}
        folder = resolve(name_or_path, **take_hub_options(options), allow_patterns=PATTERNS)
        settings: dict[str, Any] = {}
        if folder.is_file():
            files = {next(iter(cls.vocab_files_names)): str(folder)}
        else:
            config = folder / CONFIG_FILE
            found = read_object(config) if config.is_file() else {}
            cls._check_settings(found, config)
            settings = {key: _here(value) for key, value in found.items() if key not in _NOT_SETTINGS and _is_here(key)}
            files = {k: str(folder / f) for k, f in cls.vocab_files_names.items() if (folder / f).is_file()}
            decoder = cls._stored_tokens(folder, found, settings, options)
            if decoder:
                settings["added_tokens_decoder"] = decoder
        missing = cls._missing_files(set(files))
        if missing:
            raise CheckpointError(f"{folder}: no tokenizer of {cls.__name__} there: {missing} is missing")
        settings = {key: _tokens(value) for key, value in settings.items()}
        settings.update(options)
        longest = cls.max_model_input_sizes.get(str(name_or_path))
        if longest is not None:
            settings["model_max_length"] = min(settings.get("model_max_length", longest), longest)
        known = {t.content: t for t in settings.get("added_tokens_decoder", {}).values()}
        for key in cls.SPECIAL_TOKENS_ATTRIBUTES[:-1]:
            if isinstance(settings.get(key), str):
                settings[key] = known.get(settings[key], settings[key])
        for key, path in files.items():
            settings.setdefault(key, path)
        settings["name_or_path"] = str(name_or_path)
        return cls(*init_inputs, **settings)

    @classmethod
    def _check_settings(cls, found: dict[str, Any], path: Path) -> None:
        """Refuse what is looked into before the tokenizer is made."""
        for key in ("model_max_length", "max_len"):
            value = found.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1):
                raise CheckpointError(f"{path}: {key} is {value!r}: it must be a number of at least 1")
        for key in cls.SPECIAL_TOKENS_ATTRIBUTES:
            value, many = found.get(key), key == "additional_special_tokens"
            if many and not isinstance(value or [], list):
                raise CheckpointError(f"{path}: {key} is {str(value)[:200]}: a list of tokens is needed")
            for token in (value or []) if many else [] if value is None else [value]:
                stored_token(token, f"{path}: {key}")

    @classmethod
    def _missing_files(cls, present: set[str]) -> str:
        """The names of files that are needed and absent, for the error; empty when there is enough."""
        return ", ".join(name for key, name in cls.vocab_files_names.items() if key not in present)

    @classmethod
    def _stored_tokens(
        cls, folder: Path, config: dict[str, Any], settings: dict[str, Any], options: dict[str, Any]
    ) -> dict[int, AddedToken]:
        """Added tokens by id from the config, or in older folders from the files that held them."""
        stored = config.get("added_tokens_decoder")
        if stored is not None:
            return numbered_tokens(stored, f"{folder / CONFIG_FILE}: added_tokens_decoder")
        if (folder / SPECIAL_FILE).is_file():
            for key, value in read_object(folder / SPECIAL_FILE).items():
                where = f"{folder / SPECIAL_FILE}: {key}"
                if options.get(key):
                    continue
                if key == "additional_special_tokens":
                    if not isinstance(value, list):
                        raise CheckpointError(f"{where} is {str(value)[:200]}: a list of tokens is needed")
                    found = [stored_token(v, f"{where}[{n}]", special=True) for n, v in enumerate(value)]
                    listed = [t if isinstance(v, dict) else v for t, v in zip(found, value, strict=True)]
                    before = settings.get(key) or []
                    settings[key] = [*before, *(v for v in listed if v not in before)]
                else:
                    token = None if value is None else stored_token(value, where, special=True)
                    settings[key] = token if isinstance(value, dict) else value
        decoder: dict[int, AddedToken] = {}
        if (folder / ADDED_FILE).is_file():
            names: set[str] = set()
            for key in cls.SPECIAL_TOKENS_ATTRIBUTES:
                value = settings.get(key)
                names.update(map(str, value if isinstance(value, list) else [value]))
            for token, index in read_object(folder / ADDED_FILE).items():
                if isinstance(index, bool) or not isinstance(index, int) or index < 0:
                    raise CheckpointError(f"{folder / ADDED_FILE}: {token} is {index!r}: it must be an id")
                decoder[index] = AddedToken(token, special=token in names, normalized=token not in names)
        if (folder / FAST_FILE).is_file():
            head = read_head(folder / FAST_FILE)
            decoder |= listed_tokens(head.get("added_tokens") if isinstance(head, dict) else None, folder / FAST_FILE)
        return decoder

    # ---- writing -----------------------------------------------------------------------------------------------------
    def save_pretrained(
        self,
        save_directory: Any,
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> tuple[str, ...]:
        """Write every file of the tokenizer, each whole or not at all; returns their paths.

        With ``push_to_hub`` they are uploaded to ``repo_id``, by default the folder's name; ``options`` are of the upload.
        Raises ``OutputError`` when the folder cannot be made or written, ``ArgumentError`` at an unknown argument.
        """
        upload, before = take_upload(type(self), options, push_to_hub), stamps(Path(save_directory))
        folder = atomic.make_folder(save_directory)
        if legacy_format is False and not self.FAST:
            raise InputError("legacy_format is False: only the Fast class is saved without its vocabulary files")
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        config, special = folder / f"{prefix}{CONFIG_FILE}", folder / f"{prefix}{SPECIAL_FILE}"
        _write_sorted(config, self._config())
        extended = self.special_tokens_map_extended
        written = {
            key: [_without_special(v) for v in value] if isinstance(value, list) else _without_special(value)
            for key, value in extended.items()
        }
        _write_sorted(special, written)
        paths = (str(config), str(special), *self._save_vocabularies(folder, filename_prefix, legacy_format))
        if push_to_hub:
            push_saved(folder, before, upload)
        return paths

    def _config(self) -> dict[str, Any]:
        config = copy.deepcopy(self.init_kwargs)
        for key in (*config, "model_max_length", "clean_up_tokenization_spaces"):
            if hasattr(self, key):
                config[key] = copy.deepcopy(getattr(self, key))
        config.update(self.special_tokens_map)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        for key in (*self.vocab_files_names, "name_or_path", "special_tokens_map_file", "tokenizer_file", "verbose"):
            config.pop(key, None)
        config["added_tokens_decoder"] = {str(i): token.to_dict() for i, token in self.added_tokens_decoder.items()}
        config["tokenizer_class"] = type(self).__name__.removesuffix("Fast")
        return _plain(config)

    def _save_vocabularies(self, folder: Path, prefix: str | None, legacy: bool | None) -> tuple[str, ...]:
        return (*self.save_vocabulary(folder, prefix), self._save_added(folder, prefix))

    def _save_added(self, folder: Path, prefix: str | None) -> str:
        path = folder / f"{prefix + '-' if prefix else ''}{ADDED_FILE}"
        added = {token: index for token, index in self.added_tokens_encoder.items() if index >= self.vocab_size}
        if added:
            _write_sorted(path, added)
        return str(path)

    def save_vocabulary(self, save_directory: Any, filename_prefix: str | None = None) -> tuple[str, ...]:
        raise NotImplementedError

    @staticmethod
    def _folder(save_directory: Any) -> Path:
        folder = Path(save_directory)
        if not folder.is_dir():
            raise OutputError(f"save_directory {folder}: not a folder")
        return folder


def _without_special(value: Any) -> Any:
    if isinstance(value, AddedToken):
        return {key: flag for key, flag in value.to_dict().items() if key != "special"}
    return value


def _write_sorted(path: Path, value: Any) -> None:
    atomic.write_json(path, value, sort_keys=True)
