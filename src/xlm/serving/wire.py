"""The HTTP protocol of a connection, with what uvicorn leaves open: an end to headers that do not end."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Wire(HttpToolsProtocol):
    """uvicorn's protocol; a request's head must arrive within ``head_seconds``, and in ``head_bytes`` (about: what is read at
    once is counted at once). Bodies are the gate's."""

    head_seconds = 20.0
    head_bytes = 1 << 18
    _timer: asyncio.TimerHandle | None = None
    _head = 0

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """Wait for the end of its head."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Wait no more."""
        self._stop()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Read on; refuse a head that is too long."""
        super().data_received(data)
        if self._timer is not None:
            self._head += len(data)
            if self._head > self.head_bytes and not self.transport.is_closing():
                self._stop()
                self.send_400_response(f"The headers are longer than {self.head_bytes} bytes.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._head = None, 0
