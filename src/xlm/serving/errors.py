"""Faults -> HTTP answers. Routes under /v1 answer in the shape that OpenAI's clients read, all others in a plain one."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from xlm.errors import CheckpointError, InputError
from xlm.serving.tickets import Abandoned, Died, Overloaded


class Refused(Exception):
    """An answer other than 200: status, message, the parameter at fault, seconds to wait."""

    def __init__(self, status: int, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.retry_after = status, message, param, retry_after


_KINDS = ("body", "str", "int")
"""Parts of pydantic's places that name no field."""
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "overloaded_error"}


def answer(
    path: str, status: int, message: str, param: str | None = None, retry_after: int | None = None
) -> JSONResponse:
    """The JSON of a fault."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body: dict[str, Any]
    if path.startswith("/v1/"):
        body = {"error": {"message": message, "type": kind, "param": param, "code": status}}
    else:
        body = {"error": message, "error_type": kind, "param": param}
    headers = {"Retry-After": str(retry_after)} if retry_after else None
    return JSONResponse(body, status, headers)


def install(app: FastAPI) -> None:
    """Every fault of a route becomes an answer that names what is wrong."""

    @app.exception_handler(Refused)
    async def _(request: Request, error: Refused) -> JSONResponse:
        return answer(request.url.path, error.status, error.message, error.param, error.retry_after)

    @app.exception_handler(InputError)
    async def _(request: Request, error: InputError) -> JSONResponse:
        return answer(request.url.path, 400 if request.url.path.startswith("/v1/") else 422, str(error))

    @app.exception_handler(CheckpointError)
    async def _(request: Request, error: CheckpointError) -> JSONResponse:
        # Of a model in service: what it computes is of no use. Named here, as nothing in it is of the request.
        return answer(request.url.path, 500, str(error))

    @app.exception_handler(Overloaded)
    async def _(request: Request, error: Overloaded) -> JSONResponse:
        return answer(request.url.path, 429, str(error), retry_after=error.seconds)

    @app.exception_handler(Died)
    async def _(request: Request, error: Died) -> JSONResponse:
        return answer(request.url.path, 500, str(error))

    @app.exception_handler(Abandoned)
    async def _(request: Request, error: Abandoned) -> JSONResponse:
        if request.scope["xlm.gone"].done():  # nobody reads it, but it is counted
            return answer(request.url.path, 499, "the client has gone")
        return answer(request.url.path, 504, "the time for an answer is over")

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> JSONResponse:
        # Where several kinds are allowed, each has an error: the deepest is of the kind that was meant.
        deepest = max(error.errors(), key=lambda one: len(one["loc"]))
        parts = [part for part in deepest["loc"] if part not in _KINDS and not str(part).startswith(("list[", "dict["))]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
        message = f"{place or 'body'}: {deepest['msg']}"
        param = str(parts[0]) if parts else None
        malformed = deepest["type"] == "json_invalid" or request.url.path.startswith("/v1/")
        return answer(request.url.path, 400 if malformed else 422, message, param)

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        found = answer(request.url.path, error.status_code, str(error.detail))
        found.headers.update(error.headers or {})
        return found


def failed(path: str, error: Exception) -> JSONResponse:
    """The answer to a request that the model, or a fault of this program, let fail."""
    return answer(path, 500, f"the model failed: {type(error).__name__}")
