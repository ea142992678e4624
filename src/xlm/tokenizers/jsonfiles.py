"""JSON files read with errors that name them; of ``tokenizer.json`` only what is not its vocabulary, where that is enough."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from xlm.errors import CheckpointError

# Added tokens and the character map stand before the vocabulary: a third of a million bytes.
_BEFORE, _BEHIND = 1 << 20, 256
# What stands behind the vocabulary where the file is laid out as the reference lays it out: the model is the last key.
_TAIL = re.compile(rb"\]\s*\]\s*(,\s*\"byte_fallback\"\s*:\s*(true|false)\s*)?\}\s*\}\s*\Z")


def read_json(path: Path) -> Any:
    """A JSON file; ``CheckpointError`` names the file and the place of the fault."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error


def read_head(path: Path) -> Any:
    """``tokenizer.json`` without its vocabulary, which is nearly all of it; the whole file where it is laid out otherwise."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_BEFORE)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _BEHIND))
            tail = stream.read()
    except OSError:
        return read_json(path)
    # In a string the quotes would be escaped, so that this is a key.
    key = head.find(b'"vocab":')
    bracket = head.find(b"[", key)
    if key < 0 or bracket < 0 or size < bracket + _BEHIND or not _TAIL.search(tail):
        return read_json(path)
    try:
        return json.loads(head[: bracket + 1].decode("utf-8") + "]}}")
    except (json.JSONDecodeError, UnicodeDecodeError):
        return read_json(path)
