"""From a name to a folder: an existing folder is itself, anything else is a repository of a model hub.

The network is ``huggingface_hub``'s business: ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and
``HF_HUB_DISABLE_PROGRESS_BARS`` mean what they mean everywhere.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xlm.assets import BUNDLED_NAMES, bundled_folder
from xlm.errors import CheckpointError, InputError

log = logging.getLogger("xlm")
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder")
# What this library can read; weights in the order of preference: the first kind that a repository has is fetched alone.
HEADS = ("sparse_linear.pt", "colbert_linear.pt")
"""bge-m3's heads beside the encoder."""
SIDE_FILES = ("*.json", "*.model", "*.txt", "*.md", "*.bpe", "*.codes", "*.vocab", "LICENSE*", *HEADS)
TOKENIZER_FILES = (
    *("sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt"),
)
"""What a tokenizer is read from."""
WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("tf_model.safetensors",),
    ("flax_model.safetensors",),
    ("tf_model.h5",),
    ("tf_model.h5.index.json", "tf_model-*-of-*.h5"),
    ("flax_model.msgpack",),
    ("flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack"),
    ("model.pt",),
    ("*.pth",),
)
MODULE_FOLDERS = "[0-9]_*"
"""Folders of further modules of a sentence encoder, whose settings are small."""


def take_hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of :func:`resolve` from ``options`` and return those that are set.

    Raises:
        InputError: ``proxies``, which the hub's client takes from the environment alone.
    """
    if "use_auth_token" in options:  # the older name of the same option
        options.setdefault("token", options.pop("use_auth_token"))
    if proxies := options.pop("proxies", None):
        raise InputError(f"proxies={proxies!r}: not offered; set the variables HTTPS_PROXY and HTTP_PROXY instead")
    taken = {key: options.pop(key) for key in HUB_OPTIONS if key in options}
    return {key: value for key, value in taken.items() if value is not None}


def resolve(
    path_or_name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool | None = None,
    force_download: bool = False,
    subfolder: str = "",
    allow_patterns: Sequence[str] | None = None,
    variant: str | None = None,
) -> Path:
    """The folder of a checkpoint.

    Args:
        path_or_name: a folder or file, which beats every name; ``bundled`` or ``xlmr-mini``: the model in the package; or
            ``owner/name`` on the hub.
        revision: branch, tag or commit on the hub.
        cache_dir: where downloads are kept instead of ``HF_HOME``.
        token: of the hub; ``None``: the one logged in with.
        local_files_only: never ask the network; ``HF_HUB_OFFLINE=1`` says the same for all.
        force_download: fetch again what is in the cache.
        subfolder: the checkpoint's folder inside the repository.
        allow_patterns: fetch only files like these; ``None``: one kind of weights and the small files beside them.
        variant: of the weights, such as ``fp16``: see :func:`with_variant`.

    Raises:
        CheckpointError: neither a folder nor a repository that can be had; says what was tried and what would help.
    """
    name = os.fspath(path_or_name)
    path = Path(name).expanduser()
    inner = Path(subfolder)
    if inner.is_absolute() or ".." in inner.parts:
        raise InputError(f"subfolder={subfolder!r}: must be a folder inside the checkpoint's")
    if path.exists():
        folder = path / inner
    elif name in BUNDLED_NAMES:
        folder = bundled_folder() / inner
    elif _is_repo_id(name):
        prefix = f"{inner.as_posix()}/" if inner.parts else ""
        patterns = None if allow_patterns is None else [prefix + pattern for pattern in allow_patterns]
        folder = (
            _Download(name, revision, cache_dir, token, prefix, variant).fetch(
                patterns, bool(local_files_only), force_download
            )
            / inner
        )
    else:
        raise CheckpointError(f"{name!r}: no such folder, and not a hub name of the form 'owner/name'")
    if not folder.exists():
        raise CheckpointError(f"{name}: has no folder {subfolder!r}")
    return folder


def _is_repo_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.startswith((".", "/", "~"))


class _Download:
    """One repository at one revision, and how to get its files into the cache."""

    def __init__(
        self, name: str, revision: str | None, cache_dir: Any, token: Any, prefix: str, variant: str | None
    ) -> None:
        from huggingface_hub import constants

        self.name, self.revision, self.token, self.prefix, self.variant = name, revision, token, prefix, variant
        self.cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
        self.where = f"{name}@{revision}" if revision else name

    def fetch(self, patterns: Sequence[str] | None, local_files_only: bool, force: bool) -> Path:
        """The snapshot's folder, with the files that match, or one kind of weights and the small files beside it."""
        from huggingface_hub import HfApi, constants, errors, snapshot_download

        if local_files_only or constants.is_offline_mode():
            return self._cached(patterns, "offline")
        try:
            api = HfApi(token=self.token)
            if patterns is None:
                files = api.list_repo_files(self.name, revision=self.revision)
                patterns = wanted_files(files, self.prefix, self.variant)
            else:
                api.model_info(self.name, revision=self.revision)  # a download would take an old copy without a word
            return Path(
                snapshot_download(
                    self.name,
                    revision=self.revision,
                    cache_dir=self.cache,
                    token=self.token,
                    allow_patterns=list(patterns),
                    force_download=force,
                )
            )
        except errors.GatedRepoError as error:
            raise CheckpointError(
                f"{self.where}: access must be granted by its owner; log in or set HF_TOKEN"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise CheckpointError(f"{self.name}: the repository has no revision {self.revision!r}") from error
        except errors.RepositoryNotFoundError as error:
            raise CheckpointError(
                f"{self.where}: no such folder here, and no such repository on {constants.ENDPOINT} "
                "(a private one needs HF_TOKEN)"
            ) from error
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403):
                raise CheckpointError(
                    f"{self.where}: the hub {constants.ENDPOINT} refuses it ({status}): the token is not valid for it; "
                    "log in or set HF_TOKEN"
                ) from error
            meaning = {429: ": too many requests, try again later"}.get(status or 0, "")
            return self._cached(patterns, f"the hub {constants.ENDPOINT} answers {status}{meaning}", error)
        except (
            transport_error(),
            errors.LocalEntryNotFoundError,
            errors.OfflineModeIsEnabled,
            ConnectionError,
        ) as error:
            cause = error.__cause__
            if isinstance(cause, errors.HfHubHTTPError) and cause.response is not None:
                return self._cached(
                    patterns, f"the hub {constants.ENDPOINT} answers {cause.response.status_code}", error
                )
            return self._cached(patterns, f"the hub {constants.ENDPOINT} cannot be reached", error)
        except OSError as error:
            # What was fetched before can be read from a cache that cannot be written, or is full.
            reason = error.strerror or str(error)
            why = f"the cache {self.cache} cannot be written ({reason}); set HF_HOME or cache_dir"
            return self._cached(patterns, why, error)

    def _cached(self, patterns: Sequence[str] | None, why: str, cause: Exception | None = None) -> Path:
        """What an earlier download left; nothing is asked of the network."""
        from huggingface_hub import errors, snapshot_download

        folder = None
        try:
            folder = Path(
                snapshot_download(self.name, revision=self.revision, cache_dir=self.cache, local_files_only=True)
            )
        except errors.IncompleteSnapshotError as error:
            folder = Path(error.snapshot_path)  # the rest was not asked for, or the download broke off
        except (errors.LocalEntryNotFoundError, OSError, ValueError):
            folder = None
        looked = list(patterns) if patterns is not None else ["config.json", *(kind[0] for kind in WEIGHTS)]
        if folder is None or not any(_there(folder, pattern, self.prefix) for pattern in looked):
            raise CheckpointError(
                f"{self.where}: {why}, and not in the cache {self.cache} (looked for {', '.join(looked[:10])}); "
                f"with a connection run  hf download {self.name}  first"
            ) from cause
        if cause is not None:  # nobody asked for it
            log.warning("%s: %s; what is in the cache is used: %s", self.where, why, folder)
        return folder


def transport_error() -> type[Exception]:
    """What the hub library's HTTP client raises when there is no connection; which client that is depends on its version."""
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    return HTTPError


def _there(folder: Path, pattern: str, prefix: str) -> bool:
    return any(True for _ in folder.glob(pattern if pattern.startswith(prefix) else prefix + pattern))


def is_side_file(name: str) -> bool:
    """Whether a file is one of the small ones beside the weights; an index of shards is not."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in SIDE_FILES) and ".index." not in name


def with_variant(name: str, variant: str | None) -> str:
    """The name of a file of weights, or its pattern, in a variant: ``model.fp16.safetensors``, ``model.fp16-*-of-*...``.

    Raises:
        InputError: the variant is no part of a file's name.
    """
    if variant is None:
        return name
    if not re.fullmatch(r"\w[\w.-]*", str(variant)):
        raise InputError(f"variant={variant!r}: must be letters, digits, '.', '-' and '_', such as 'fp16'")
    start, dash, rest = name.partition("-")
    if dash:
        return f"{start}.{variant}-{rest}"
    start, _, last = name.rpartition(".")
    return f"{start}.{variant}.{last}"


def wanted_files(files: Sequence[str], prefix: str = "", variant: str | None = None) -> list[str]:
    """Of a repository's files below ``prefix``: the small ones, and the first kind of weights that is there whole."""
    names = [file.removeprefix(prefix) for file in files if file.startswith(prefix)]
    here = [name for name in names if "/" not in name]
    small = [
        name
        for name in names
        if (is_side_file(name) if name in here else fnmatch.fnmatch(name, f"{MODULE_FOLDERS}/*.json"))
    ]
    for kind in WEIGHTS:
        found = [[name for name in here if fnmatch.fnmatch(name, with_variant(pattern, variant))] for pattern in kind]
        if all(found):
            small += [name for group in found for name in group]
            break
    return [prefix + name for name in small]
