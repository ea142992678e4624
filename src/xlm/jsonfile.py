"""JSON written by other people, read strictly by everything that reads any: what Python's parser lets through silently, or
ends a program with, becomes a typed error that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlm.atomic import with_retries
from xlm.errors import CheckpointError


def read_json(path: Path, error: type[Exception] = CheckpointError) -> Any:
    """What a JSON file holds; transient errors of network file systems are tried again.

    Raises:
        CheckpointError: there is no such file, or it cannot be read.
        error: it is no JSON, nested too deeply, or names a key of an object twice.
    """
    try:
        raw = with_retries(path.read_bytes)
    except FileNotFoundError as missing:
        raise CheckpointError(f"{path}: no such file; a checkpoint folder needs a {path.name}") from missing
    except OSError as fault:
        raise CheckpointError(f"{path}: cannot be read: {fault.strerror or fault}") from fault
    return parse_json(raw, path, error)


def read_object(path: Path, error: type[Exception] = CheckpointError) -> dict[str, Any]:
    """:func:`read_json` of a file that must hold an object."""
    found = read_json(path, error)
    if not isinstance(found, dict):
        raise error(f"{path}: holds a {type(found).__name__}, not an object")
    return found


def parse_json(raw: bytes, path: Path, error: type[Exception] = CheckpointError) -> Any:
    """What the bytes of a JSON file hold; ``path`` is its name in errors, which are those of :func:`read_json`."""

    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique_keys(path, error))
    except RecursionError as fault:
        raise error(f"{path}: nested too deeply") from fault
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise error(f"{path}: not JSON: {fault}") from fault
    except ValueError as fault:
        if isinstance(fault, error):
            raise
        raise error(f"{path}: not JSON: {fault}") from fault  # a number of more digits than Python reads


def unique_keys(
    path: Path, error: type[Exception] = CheckpointError
) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """What makes objects of pairs for ``json.loads``, and refuses a key that stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            seen: set[str] = set()
            double = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise error(f"{path}: the key {double[:200]!r} stands twice")
        return out

    return unique
