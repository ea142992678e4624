"""From a name to a folder: an existing folder is itself, anything else is a repository of a model hub.

The network is ``huggingface_hub``'s business: ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and
``HF_HUB_DISABLE_PROGRESS_BARS`` mean what they mean everywhere.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xlm.errors import CheckpointError, InputError

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder")
# What this library can read; weights in the order of preference, the first kind a repository has is fetched alone.
SIDE_FILES = ("*.json", "*.model", "*.txt", "*.md", "*.bpe", "*.codes", "*.vocab")
WEIGHTS = (
    ("*.safetensors", "*.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model*.bin.index.json"),
    ("*.pt", "*.pth"),
    ("flax_model*.msgpack", "flax_model*.msgpack.index.json"),
    ("tf_model*.h5", "tf_model*.h5.index.json"),
)


def take_hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of :func:`resolve` from ``options`` and return those that are set."""
    if "use_auth_token" in options:  # the older name of the same option
        options.setdefault("token", options.pop("use_auth_token"))
    taken = {key: options.pop(key) for key in HUB_OPTIONS if key in options}
    return {key: value for key, value in taken.items() if value is not None}


def resolve(
    path_or_name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
    allow_patterns: Sequence[str] | None = None,
) -> Path:
    """The folder of a checkpoint.

    Args:
        path_or_name: a folder or file, which beats a hub name, or ``owner/name`` on the hub.
        revision: branch, tag or commit on the hub.
        cache_dir: where downloads are kept instead of ``HF_HOME``.
        token: of the hub; ``None``: the one logged in with.
        local_files_only: never ask the network.
        force_download: fetch again what is in the cache.
        subfolder: the checkpoint's folder inside the repository.
        allow_patterns: fetch only files like these; ``None``: one kind of weights and the small files beside them.

    Raises:
        CheckpointError: neither a folder nor a repository that can be had; says what was tried and what would help.
    """
    name = os.fspath(path_or_name)
    path = Path(name).expanduser()
    if path.exists():
        return path / subfolder if subfolder else path
    if not _is_repo_id(name):
        raise CheckpointError(f"{name!r}: no such folder, and not a hub name of the form 'owner/name'")
    folder = _download(name, revision, cache_dir, token, local_files_only, force_download, allow_patterns)
    folder = folder / subfolder if subfolder else folder
    if not folder.is_dir():
        raise CheckpointError(f"{name}: the repository has no folder {subfolder!r}")
    return folder


def _is_repo_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.startswith((".", "/", "~"))


def _download(
    name: str,
    revision: str | None,
    cache_dir: Any,
    token: Any,
    local_files_only: bool,
    force: bool,
    patterns: Sequence[str] | None,
) -> Path:
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    offline = local_files_only or constants.is_offline_mode()
    where = f"{name}@{revision}" if revision else name
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    options: dict[str, Any] = {"revision": revision, "cache_dir": cache, "token": token}
    try:
        if offline:
            return Path(snapshot_download(name, local_files_only=True, **options))
        if patterns is None:
            files = HfApi(token=token).list_repo_files(name, revision=revision)
            patterns = wanted_files(files)
        return Path(snapshot_download(name, allow_patterns=list(patterns), force_download=force, **options))
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{where}: access to this repository must be granted; log in or set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name}: the repository has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{where}: no such folder here, and no such repository on {constants.ENDPOINT} "
            "(a private one needs HF_TOKEN)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        why = "offline" if offline else "the hub cannot be reached"
        raise CheckpointError(
            f"{where}: {why}, and not in the cache {cache}; with a connection run  hf download {name}  first"
        ) from error
    except PermissionError as error:
        raise CheckpointError(f"{cache}: cannot be written ({error.strerror}); set HF_HOME or cache_dir") from error
    except (_transport_error(), errors.HfHubHTTPError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        return _cached(name, options, where, error)


def _transport_error() -> type[Exception]:
    """What the hub library's HTTP client raises when there is no connection; which client that is depends on its version."""
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    return HTTPError


def _cached(name: str, options: dict[str, Any], where: str, cause: Exception) -> Path:
    """What an earlier download left, when the hub does not answer now."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True, **options))
    except errors.LocalEntryNotFoundError:
        message = f"{where}: the hub cannot be reached ({cause}), and not in the cache {options['cache_dir']}"
        raise CheckpointError(message) from cause


def wanted_files(files: Sequence[str]) -> list[str]:
    """Of a repository's files: the small ones, and the first kind of weights that is there."""
    small = [f for f in files if any(fnmatch.fnmatch(f, p) for p in SIDE_FILES) and not f.endswith(".index.json")]
    for kind in WEIGHTS:
        found = [f for f in files if any(fnmatch.fnmatch(f, p) for p in kind)]
        if any(not f.endswith(".index.json") for f in found):
            return [*small, *found]
    return small


def push_folder(folder: Path, repo_id: str, **kwargs: Any) -> str:
    """Upload a folder to a repository, which is made if need be; returns the commit's address.

    Args:
        kwargs: ``private``, ``token``, ``revision``, ``commit_message``, ``create_pr``, ``exist_ok``.

    Raises:
        CheckpointError: the hub refuses.
        InputError: the folder is not there.
    """
    from huggingface_hub import HfApi, errors

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder to upload")
    api = HfApi(token=kwargs.pop("token", None))
    try:
        api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=kwargs.pop("exist_ok", True))
        message = kwargs.pop("commit_message", None) or "Upload model"
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, **kwargs))
    except (_transport_error(), errors.HfHubHTTPError) as error:
        raise CheckpointError(f"{repo_id}: the hub refused the upload: {error}") from error
