"""The pages for people: every task at ``/``, the HTTP interface at ``/docs``. All they load comes from this server."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse

from xlm.serving.errors import Refused

_OURS = Path(__file__).parent / "page"
_KINDS = {".js": "text/javascript", ".css": "text/css"}
_ASSETS = ("app.js", "style.css", "docs.js")
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")
# The browser itself refuses whatever another machine would have to send.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
}


def install(app: FastAPI) -> None:
    """Add the pages and what they load."""

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(_OURS / "index.html", headers=_HEADERS, media_type="text/html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        _swagger()
        return FileResponse(_OURS / "docs.html", headers=_HEADERS, media_type="text/html")

    @app.get("/page/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in _ASSETS + _SWAGGER:
            raise Refused(404, f"there is no {name}")
        folder = _OURS if name in _ASSETS else _swagger()
        return FileResponse(folder / name, media_type=_KINDS[Path(name).suffix])


def _swagger() -> Path:
    """The folder of Swagger UI's files, which the package fastapi-offline brings along.

    Raises:
        Refused: the package is not installed.
    """
    spec = find_spec("fastapi_offline")  # found, not imported: its files are all that is wanted
    if spec is None or spec.origin is None:
        raise Refused(404, "this page needs the package fastapi-offline: install it with  pip install 'xlm[serve]'")
    return Path(spec.origin).parent / "static"
