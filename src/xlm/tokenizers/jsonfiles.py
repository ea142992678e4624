"""Of ``tokenizer.json`` only what is not its vocabulary, where that is enough."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from xlm.jsonfile import parse_json, read_json

# Added tokens and the character map stand before the vocabulary: a third of a million bytes.
_BEFORE, _BEHIND = 1 << 20, 256
# What stands behind the vocabulary where the file is laid out as the reference lays it out: the model is the last key.
_TAIL = re.compile(rb"\]\s*\]\s*(,\s*\"byte_fallback\"\s*:\s*(true|false)\s*)?\}\s*\}\s*\Z")


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
        text = head[: bracket + 1].decode("utf-8") + "]}}"
    except UnicodeDecodeError:
        return read_json(path)
    return parse_json(text.encode(), path)
