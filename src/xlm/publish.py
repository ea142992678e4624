"""From a folder to a hub: whatever has ``save_pretrained`` gets ``push_to_hub``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from xlm.errors import ArgumentError, CheckpointError, InputError
from xlm.hub import transport_error

UPLOAD = ("private", "token", "revision", "commit_message", "commit_description", "create_pr", "tags")
"""What an upload takes beside the files; ``save_pretrained(push_to_hub=True)`` passes it on."""


class Published:
    """Gives a class with ``save_pretrained`` a ``push_to_hub``."""

    def push_to_hub(
        self,
        repo_id: str,
        use_temp_dir: bool | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        max_shard_size: int | str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        revision: str | None = None,
        commit_description: str | None = None,
        tags: Sequence[str] | None = None,
        **saving: Any,
    ) -> str:
        """Save to a folder and upload what was written to a hub repository, which is made if need be.

        Args:
            repo_id: ``owner/name``.
            use_temp_dir: save to a folder that is removed afterwards; ``False``: to one with the repository's name here.
                ``None``: to the latter if it exists.
            private, revision, create_pr, commit_message, commit_description: of the repository and the commit; a branch
                ``revision`` is made if need be.
            max_shard_size, safe_serialization: of ``save_pretrained``, as are further arguments.
            tags: for the model card.

        Returns:
            the address of the commit.

        Raises:
            CheckpointError: the hub refuses.
            OutputError: the folder cannot be written; then nothing was asked of the hub.
        """
        if max_shard_size is not None:
            saving["max_shard_size"] = max_shard_size
        if not safe_serialization:
            saving["safe_serialization"] = False
        here = Path(repo_id.rpartition("/")[2])
        temporary = not here.is_dir() if use_temp_dir is None else use_temp_dir
        with tempfile.TemporaryDirectory() if temporary else nullcontext(here) as folder:
            before = stamps(Path(folder))
            self.save_pretrained(folder, **saving)  # type: ignore[attr-defined]
            return push_folder(
                Path(folder),
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                create_pr=create_pr,
                tags=tags,
                before=before,
            )


def take_upload(cls: type[Any], options: dict[str, Any], push: bool) -> dict[str, Any]:
    """Of the further arguments of a ``save_pretrained``, those of the upload that follows it.

    Raises:
        ArgumentError: others, or any where nothing is uploaded; names the argument.
    """
    if "use_auth_token" in options:  # the older name of the same option
        options["token"] = options.pop("use_auth_token")
    for name in ("max_shard_size", "safe_serialization"):  # of weights, where there are none
        options.pop(name, None)
    for name, value in options.items():
        if name not in ("repo_id", *UPLOAD):
            raise ArgumentError(f"{name}={value!r}: no argument of {cls.__name__}.save_pretrained")
        if not push and name != "token" and value is not None:
            raise ArgumentError(f"{name}={value!r}: is for push_to_hub=True")
    return dict(options)


def push_saved(folder: Path, before: dict[str, int], options: dict[str, Any]) -> None:
    """Upload what was written into a folder since ``before`` was noted; the repository's name is the folder's by default."""
    options = dict(options)
    push_folder(folder, options.pop("repo_id", None) or folder.name, before=before, **options)


def stamps(folder: Path) -> dict[str, int]:
    """When each file of a folder was last written, in nanoseconds."""
    files = (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else ()
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
    tags: Sequence[str] | None = None,
    before: dict[str, int] | None = None,
) -> str:
    """Upload a folder to a repository, which is made if need be; returns the commit's address.

    Args:
        before: what :func:`stamps` said earlier: files that have not been written since stay here. ``None``: all go.

    Raises:
        CheckpointError: the hub refuses.
        InputError: the folder is not there.
    """
    from huggingface_hub import HfApi, errors, metadata_load, metadata_save

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder to upload")
    if tags:
        card = folder / "README.md"
        data = (metadata_load(card) if card.is_file() else None) or {}
        metadata_save(card, {**data, "tags": list(dict.fromkeys([*(data.get("tags") or ()), *tags]))})
    now = stamps(folder)
    files = None if before is None else [name for name, written in now.items() if before.get(name) != written]
    api = HfApi(token=token)
    try:
        repo_id = str(api.create_repo(repo_id, private=private, exist_ok=True).repo_id)
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repo_id,
                folder_path=os.fspath(folder),
                commit_message=commit_message or "Upload model",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
                allow_patterns=None if files is None else [_literal(name) for name in files],
            )
        )
    except (transport_error(), errors.HfHubHTTPError) as error:
        raise CheckpointError(f"{repo_id}: the hub refused the upload: {error}") from error


def _literal(name: str) -> str:
    """A pattern that matches one name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
