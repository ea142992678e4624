"""A real server on a free port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn

import xlm
from xlm.serving.app import create_app
from xlm.serving.settings import Settings


@contextmanager
def running(engines: dict[str, Any], settings: Settings | None = None) -> Iterator[str]:
    """The address of a server."""
    server = uvicorn.Server(uvicorn.Config(create_app(engines, settings), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def offline() -> Any:
    """The bundled model, asked directly."""
    return xlm.load()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of the bundled model, named ``mini``."""
    settings = Settings(inputs=64, characters=20_000, body_bytes=200_000)
    with running({"mini": xlm.load()}, settings) as url:
        yield url
