"""Routes whose JSON is read and checked in one step, and answers whose arrays become JSON without Python numbers in between.

FastAPI resolves the arguments of a route by a general plan, and checks what it answers; for answers that take a millisecond
that is much of the work. The routes here have one shape, a request and a body, so that pydantic reads the body's bytes at
once. What the interface page says of them stays FastAPI's.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from xlm.serving.errors import Refused

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


class Json(Response):
    """Plain data and NumPy arrays as JSON; numbers of float32 arrays have the fewest digits that say the same float32."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes."""
        return orjson.dumps(content, option=_OPTIONS)


class Direct(APIRoute):
    """A route of a function ``(request, body)``; others are FastAPI's own."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """How a request is answered."""
        kinds = typing.get_type_hints(self.endpoint)
        if "body" not in kinds:
            return super().get_route_handler()
        adapter: TypeAdapter[Any] = TypeAdapter(kinds["body"])
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            kind = request.headers.get("content-type", "application/json")
            if "json" not in kind:  # a form of another site, sent by a browser, is no request
                raise Refused(415, f"content-type is {kind!r}: application/json is needed")
            content = await request.body()
            try:
                body = adapter.validate_json(content or b"null")
            except ValidationError as error:
                raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error
            found = await endpoint(request, body)
            return found if isinstance(found, Response) else Json(found)

        return handle
