"""The application: routes, page, health and metrics around the models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from xlm.serving import errors
from xlm.serving.gate import Gate
from xlm.serving.metrics import Metrics
from xlm.serving.routes import router
from xlm.serving.served import Desk, Served
from xlm.serving.settings import Settings


def create_app(models: dict[str, Any], settings: Settings | None = None) -> FastAPI:
    """The ASGI application over loaded engines.

    Args:
        models: name in requests -> an engine of `xlm.load`; the first is used where a request names none.
        settings: the limits.
    """
    from xlm import __version__

    settings = settings or Settings()
    desk = Desk([Served(name, engine, settings) for name, engine in models.items()], settings)
    metrics = Metrics(desk)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(title="xlm", version=__version__, lifespan=lifespan, description=_ABOUT)
    app.state.desk = desk
    errors.install(app)
    app.include_router(router)
    _service(app, desk, metrics)
    app.add_middleware(
        Gate,
        settings=settings,
        observe=metrics.observe,
        draining=lambda: desk.draining,  # type: ignore[arg-type]
    )
    return app


_ABOUT = (
    "Cross-lingual encoders: vectors, reranking, masks, labels, spans, answers and choices, in a hundred languages."
)


def _service(app: FastAPI, desk: Desk, metrics: Metrics) -> None:
    page = files("xlm.serving") / "page"

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse((page / "index.html").read_text("utf-8"), headers=_PAGE_HEADERS)

    @app.get("/page/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        kind = {"app.js": "text/javascript", "style.css": "text/css"}.get(name)
        if kind is None:
            raise errors.Refused(404, f"there is no {name}")
        return Response((page / name).read_bytes(), media_type=kind)

    @app.get("/health", tags=["service"])
    async def health() -> Response:
        """Whether the process works: 500 when a model's thread has died."""
        dead = [model.name for model in desk.models.values() if not model.scheduler.alive]
        return JSONResponse({"status": "dead" if dead else "ok", "dead": dead}, 500 if dead else 200)

    @app.get("/ready", tags=["service"])
    async def ready(request: Request) -> Response:
        """Whether new work is welcome: 503 while shutting down."""
        if desk.draining:
            return JSONResponse({"status": "draining"}, 503, {"Retry-After": "5"})
        return JSONResponse({"status": "ready", "models": list(desk.models)})

    @app.get("/metrics", tags=["service"])
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
}
