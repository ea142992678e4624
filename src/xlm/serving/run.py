"""The server process: listen, load the models, and on SIGTERM finish what is under way."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import uvicorn

from xlm.serving.app import create_app
from xlm.serving.memory import bound_caches
from xlm.serving.settings import Settings
from xlm.serving.wire import Wire


class _Server(uvicorn.Server):
    """uvicorn's server with a drain: not ready at once, closed when the last request is answered, or when time is over."""

    def __init__(self, config: uvicorn.Config, desk: Any, settings: Settings) -> None:
        super().__init__(config)
        self.desk, self.settings = desk, settings

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT:  # by hand: now
            super().handle_exit(sig, frame)
            return
        if (
            self.desk.draining
        ):  # asked twice: as soon as what is under way is answered, and no signal raised anew at the end
            self.should_exit = True
            return
        self.desk.draining = True
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        end = time.monotonic() + self.settings.drain_seconds
        time.sleep(0.2)  # for a load balancer's last look at /ready
        while self.desk.under_way and time.monotonic() < end:
            time.sleep(0.05)
        self.should_exit = True


class _Loading(threading.Thread):
    """Brings the models, one after the other, beside the event loop, which answers /health and /ready meanwhile."""

    def __init__(self, loaders: Mapping[str, Callable[[], Any]], desk: Any) -> None:
        super().__init__(name="xlm-loading", daemon=True)  # told to stop, the process does not wait for it
        self.loaders, self.desk = loaders, desk
        self.error: BaseException | None = None

    def run(self) -> None:
        """Load, and keep what went wrong for the thread that waits."""
        try:
            for name, load in self.loaders.items():
                self.desk.add(name, load())
        except BaseException as error:
            self.error = error


def run(
    loaders: Mapping[str, Callable[[], Any]],
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    log_requests: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve until told to stop; returns after SIGTERM or Ctrl-C when all is answered.

    Args:
        loaders: name in requests -> what loads its engine, called when the server listens already.
        settings: the limits.
        host: where to listen.
        port: where to listen; 0: any free one.
        log_requests: a JSON line a request on stderr.
        say: takes the lines for whoever started the server.

    Raises:
        XLMError: of a loader; the server has ended.
    """
    bound_caches()  # before a loader imports PyTorch
    app = create_app({}, settings, loading=tuple(loaders))
    desk = app.state.desk
    if log_requests:
        access = logging.getLogger("xlm.serving.access")
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        access.handlers, access.propagate = [handler], False
        access.setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(settings.drain_seconds),
        backlog=4096,
        http=Wire,
        ws="none",
    )
    server = _Server(config, desk, settings)
    loading = _Loading(loaders, desk)

    async def main() -> None:
        serving = asyncio.ensure_future(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            place = server.servers[0].sockets[0].getsockname()
            shown = f"[{place[0]}]" if ":" in place[0] else place[0]
            loading.start()
            while loading.is_alive() and not serving.done():
                await asyncio.sleep(0.01)
            if loading.error is not None:
                server.should_exit = True
            elif not desk.loading:
                # What is there now stays: collections, which stop every thread, need not look at it again.
                gc.freeze()
                gc.enable()
                say(f"{', '.join(loaders)} at http://{shown}:{place[1]}  (page: /  interface: /docs  stop: Ctrl-C)")
        await serving

    # The model's thread gives the interpreter up at every operation, and by default waits 5 ms to have it back when the event
    # loop is busy: a forward of a hundred operations would crawl just when there is most to do.
    sys.setswitchinterval(0.0005)
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(main())
    finally:
        gc.unfreeze()
    if loading.error is not None:
        raise loading.error
