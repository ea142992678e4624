"""The application: routes, page, health and metrics around the models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer

from xlm.errors import ConfigError
from xlm.serving import errors, pages
from xlm.serving.gate import Gate
from xlm.serving.metrics import Metrics
from xlm.serving.routes import router
from xlm.serving.served import Desk
from xlm.serving.settings import Settings


def create_app(models: dict[str, Any], settings: Settings | None = None, loading: Sequence[str] = ()) -> FastAPI:
    """The ASGI application over loaded engines.

    Args:
        models: name in requests -> an engine of `xlm.load`; the first is used where a request names none.
        settings: the limits.
        loading: names of further models, which ``app.state.desk.add(name, engine)`` brings later, from any thread; until
            then their requests get 503, and ``/ready`` says what is missing.

    Raises:
        ConfigError: no model, or two of the same name.
    """
    from xlm import __version__

    names = (*models, *loading)
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"models are {', '.join(names) or 'none'}: at least one is needed, each under a name of its own"
        )
    settings = settings or Settings()
    desk = Desk(names, settings)
    metrics = Metrics(desk)
    for name, engine in models.items():
        desk.add(name, engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="xlm", version=__version__, lifespan=lifespan, description=_ABOUT, docs_url=None, redoc_url=None
    )
    app.state.desk = desk
    errors.install(app)
    # The gate compares keys; this tells the interface page that there are some.
    keys = [Depends(HTTPBearer(auto_error=False))] if settings.api_keys else []
    app.include_router(router, dependencies=keys)
    pages.install(app)
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
    @app.get("/health", tags=["service"], responses={500: {"description": "A model's thread has died"}})
    async def health() -> Response:
        """Whether the process works: 500 when a model's thread has died."""
        dead = [model.name for model in list(desk.models.values()) if not model.scheduler.alive]
        return JSONResponse({"status": "dead" if dead else "ok", "dead": dead}, 500 if dead else 200)

    @app.get(
        "/ready", tags=["service"], responses={503: {"description": "Models are loaded, or the server shuts down"}}
    )
    async def ready(request: Request) -> Response:
        """Whether new work is welcome: 503 while models are loaded, and while shutting down."""
        if desk.draining:
            return JSONResponse({"status": "draining"}, 503, {"Retry-After": "5"})
        if loading := desk.loading:
            return JSONResponse({"status": "loading", "loading": loading}, 503, {"Retry-After": "2"})
        return JSONResponse({"status": "ready", "models": list(desk.names)})

    @app.get("/metrics", tags=["service"], response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")
