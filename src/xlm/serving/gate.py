"""What every request passes first: keys, the size and pace of its body, and word of a client that has gone.

A pure ASGI layer: the body is read here, under its limits, before a route sees the request, and the connection is watched
while the route works, so that work for nobody is dropped.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import traceback
import uuid
import zlib
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xlm.serving import errors
from xlm.serving.settings import Settings

access = logging.getLogger("xlm.serving.access")
log = logging.getLogger(__name__)
_SMALL = 1 << 16
"""Bytes of a body that are not counted among those of all requests: whoever sends little is not held up by who sends much."""
_OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json", "/favicon.ico")


class Gate:
    """The layer around the application.

    Args:
        app: the application inside.
        settings: the limits.
        observe: called with (method, path, status, seconds) of every finished request.
        draining: whether new work is refused with 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        observe: Callable[[str, str, int, float], None],
        draining: Callable[[], bool],
    ) -> None:
        self.app, self.settings, self.observe, self.draining = app, settings, observe, draining
        self._held = 0  # bytes of all large bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 499
        scope["xlm.id"] = uuid.uuid4().hex

        async def timed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", scope["xlm.id"].encode())]
            async with asyncio.timeout(self.settings.send_seconds):
                await send(message)

        try:
            await self._admit(scope, receive, timed_send)
        except TimeoutError:  # a client that does not take its answer: the server closes the connection
            status = 499
        except Exception as error:  # what the error says may hold a text: its kind and place are logged
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("request %s failed: %s\n%s", scope["xlm.id"], type(error).__name__, frames)
            if status == 499:  # nothing sent yet
                await errors.failed(scope["path"], error)(scope, receive, timed_send)
        finally:
            seconds = time.monotonic() - started
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            self.observe(scope["method"], path, status, seconds)
            if access.isEnabledFor(logging.INFO):
                line = {
                    "id": scope["xlm.id"],
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "ms": round(seconds * 1000, 1),
                    "tokens": scope.get("xlm.tokens", 0),
                }
                access.info(json.dumps(line))

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = None
        if not self._is_open(path) and not self._known(headers.get("authorization", "")):
            refusal = errors.answer(path, 401, "no valid API key: send  Authorization: Bearer KEY")
        elif self.draining() and scope["method"] == "POST":
            refusal = errors.answer(path, 503, "the server is shutting down", retry_after=5)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self.settings.body_seconds):
                    complete = await self._read(headers, receive, body)
            except TimeoutError:
                refusal = errors.answer(path, 408, f"the body did not arrive within {self.settings.body_seconds:g} s")
            except errors.Refused as error:
                refusal = errors.answer(path, error.status, error.message, error.param, error.retry_after)
            else:
                if complete:  # else gone before it had said what it wants
                    await self._watched(scope, receive, send, bytes(body))
                return
            await refusal(scope, receive, send)
        finally:
            self._held -= max(0, len(body) - _SMALL)

    def _is_open(self, path: str) -> bool:
        """Whether a path needs no key."""
        return path in _OPEN or path.startswith("/page/") or (self.settings.open_metrics and path == "/metrics")

    def _known(self, header: str) -> bool:
        keys = self.settings.api_keys
        if not keys:
            return True
        sent = header.removeprefix("Bearer ").strip().encode()
        # All keys are compared, each in constant time, so that the time says nothing about them.
        return sum(hmac.compare_digest(sent, key.encode()) for key in keys) > 0

    async def _read(self, headers: MutableMapping[str, str], receive: Receive, body: bytearray) -> bool:
        """Fill ``body``, unpacked; false when the client leaves before its end."""
        limit = self.settings.body_bytes
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
            raise errors.Refused(413, f"the body has {declared[:20]} bytes, the limit is {limit:,}")
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip"):
            raise errors.Refused(415, f"content-encoding is {encoding[:40]!r}: it must be gzip or absent")
        unpack = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
        sent, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            chunk = message.get("body", b"")
            sent += len(chunk)
            if unpack is not None:
                try:
                    chunk = unpack.decompress(chunk, limit - len(body) + 1)
                except zlib.error as error:
                    raise errors.Refused(400, f"the body is no valid gzip: {error}") from error
                if unpack.unused_data:
                    raise errors.Refused(400, "the body goes on behind the end of its gzip stream")
            counted = max(0, len(body) - _SMALL)
            body += chunk
            self._held += max(0, len(body) - _SMALL) - counted
            if len(body) > limit or sent > limit:  # a packed body may be long and hold nothing
                raise errors.Refused(413, f"the body has more than the limit of {limit:,} bytes")
            if self._held > self.settings.bodies_bytes:
                raise errors.Refused(429, "the bodies of all requests are too large together", retry_after=1)
            more = message.get("more_body", False)
        if unpack is not None and sent and not unpack.eof:
            raise errors.Refused(400, "the body is cut off: its gzip stream does not end")
        return True

    async def _watched(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Run the application with the body read; the future ``scope["xlm.gone"]`` is done when the client leaves."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        scope["xlm.gone"] = gone
        delivered = False

        async def replay() -> dict[str, Any]:
            nonlocal delivered
            if not delivered:
                delivered = True
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.wait({gone})
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not gone.done():
                gone.set_result(None)

        # The headers tell of a compressed body that is plain by now.
        scope["headers"] = [
            pair for pair in scope["headers"] if pair[0] not in (b"content-encoding", b"content-length")
        ] + [(b"content-length", str(len(body)).encode())]
        watcher = asyncio.create_task(watch())
        try:
            await self.app(scope, replay, send)
        finally:
            watcher.cancel()
