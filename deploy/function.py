"""A serverless function: the model is loaded once a container, an event is one request.

The handler takes what AWS Lambda passes for an HTTP request (payload version 2.0); others differ in names alone.
"""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

import xlm
from xlm.errors import XLMError


@cache
def engine() -> Any:
    """The model named by XLM_MODEL, or the bundled one."""
    return xlm.load(os.environ.get("XLM_MODEL") or None, dtype=os.environ.get("XLM_DTYPE", "float32"))


def handler(event: dict[str, Any], context: object = None) -> dict[str, Any]:
    """``{"texts": [...]}`` -> ``{"embeddings": [[...], ...]}``; what is wrong with a request is said with status 422."""
    try:
        texts = json.loads(event.get("body") or "{}").get("texts")
        if not isinstance(texts, list) or len(texts) > 256:
            return _answer(422, {"error": "texts must be a list of at most 256 texts"})
        return _answer(200, {"embeddings": engine().embed(texts).tolist()})
    except (XLMError, ValueError) as error:
        return _answer(422, {"error": str(error)})


def _answer(status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"statusCode": status, "headers": {"Content-Type": "application/json"}, "body": json.dumps(body)}
