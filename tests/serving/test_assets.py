"""The pages load what this server has, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("httpx")
pytest.importorskip("fastapi_offline")

from fastapi.testclient import TestClient

from xlm.serving import pages
from xlm.serving.app import create_app
from xlm.serving.settings import Settings

_NAMED = re.compile(r"""(?:src|href)\s*=\s*["']([^"']+)["']""")


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app({}, Settings(api_keys=("key",)), loading=["mini"])) as found:
        yield found


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_every_address_of_a_page_is_this_servers_and_answered(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    named = _NAMED.findall(page.text)
    assert sum(name.endswith((".js", ".css")) for name in named) >= 2
    assert not [name for name in named if re.match(r"[a-z]+://|//", name)]
    for name in named:
        if not name.startswith(("data:", "#")):
            found = client.get(name if name.startswith("/") else "/" + name)
            # The counters are not for everybody; the pages and all they load are.
            assert found.status_code == (401 if name == "/metrics" else 200), name
            assert found.content


def test_the_interface_page_shows_this_servers_routes(client: TestClient) -> None:
    script = client.get("/page/docs.js").text
    assert 'url: "openapi.json"' in script and "validatorUrl: null" in script
    assert "SwaggerUIBundle" in client.get("/page/swagger-ui-bundle.js").text[:2000]
    interface = client.get("/openapi.json").json()
    assert interface["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert interface["paths"]["/embed"]["post"]["security"] == [{"HTTPBearer": []}]


def test_no_other_interface_page_and_no_other_file(client: TestClient) -> None:
    headers = {"Authorization": "Bearer key"}
    for path in ("/redoc", "/page/redoc.standalone.js", "/page/docs.html", "/page/..%2fapp.py", "/page/"):
        assert client.get(path, headers=headers).status_code == 404, path


def test_a_missing_package_is_named(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "find_spec", lambda name: None)
    found: Any = client.get("/docs")
    assert found.status_code == 404 and "pip install 'xlm[serve]'" in found.json()["error"]
    assert client.get("/").status_code == 200
