"""A model hub on this machine: the few routes that ``huggingface_hub`` asks for, over folders.

with LoopbackHub() as hub:
    hub.add("owner/name", folder, revision="main")
    hub.connect(monkeypatch, cache)        # huggingface_hub now asks this hub and keeps files in `cache`
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Repository:
    """One repository: what folder each revision shows, and the token that it takes to see it."""

    revisions: dict[str, Path] = field(default_factory=dict)
    token: str | None = None


def sha_of(text: str) -> str:
    """Forty hexadecimal digits, as a commit has."""
    return hashlib.sha1(text.encode()).hexdigest()


class LoopbackHub:
    """Serves repositories on 127.0.0.1 while the context is open; ``requests`` lists ``METHOD path`` of what was asked."""

    def __init__(self, uploads: Path | None = None) -> None:
        self.uploads = uploads or Path("/nonexistent")
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """The address, for ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, folder: Path, revision: str = "main", token: str | None = None) -> str:
        """Serve a folder as a repository's revision; returns its commit."""
        repository = self.repositories.setdefault(name, Repository())
        repository.revisions[revision] = folder
        repository.token = token
        commit = self.commit(name, revision)
        repository.revisions[commit] = folder
        return commit

    def commit(self, name: str, revision: str) -> str:
        """The commit that a revision stands for: a digest of the names and contents of its files."""
        folder = self.repositories[name].revisions[revision]
        digest = [f"{path}:{sha_of(path.read_bytes().hex())}" for path in sorted(folder.rglob("*")) if path.is_file()]
        return sha_of(name + "".join(digest))

    def connect(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Let ``huggingface_hub`` ask this hub only, without a login, and keep what it fetches in ``cache``."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.hf_api import api as default_api

        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(default_api, "endpoint", self.endpoint)
        assert HfApi().endpoint == self.endpoint


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Tests read ``requests`` instead."""

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_POST(self) -> None:
            """Make a repository, say how files are to be sent (all of them inside the commit), take a commit."""
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"{self.command} {path}")
            hub.headers.append(dict(self.headers))
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if path == "api/repos/create":
                wanted = json.loads(data)
                name = "/".join(part for part in (wanted.get("organization"), wanted["name"]) if part)
                folder = hub.uploads / name
                folder.mkdir(parents=True, exist_ok=True)
                hub.repositories.setdefault(name, Repository({"main": folder}))
                return self._send(200, {"url": f"{hub.endpoint}/{name}", "id": name, "name": name}, {}, True)
            if path == "api/validate-yaml":
                return self._send(200, {"errors": [], "warnings": []}, {}, True)
            if "/preupload/" in path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(data)["files"]
                ]
                return self._send(200, {"files": files}, {}, True)
            name = path.removeprefix("api/models/").partition("/commit/")[0]
            for line in data.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    target = hub.repositories[name].revisions["main"] / entry["value"]["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(base64.b64decode(entry["value"]["content"]))
            commit = hub.add(name, hub.repositories[name].revisions["main"])
            answer = {"commitOid": commit, "commitUrl": f"{hub.endpoint}/{name}/commit/{commit}", "success": True}
            return self._send(200, answer, {}, True)

        def _answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"{self.command} {path}")
            hub.headers.append(dict(self.headers))
            api = path.startswith("api/models/")
            rest = path.removeprefix("api/models/")
            name = next(
                (n for n in sorted(hub.repositories, key=len, reverse=True) if f"{rest}/".startswith(f"{n}/")), None
            )
            if name is None:
                return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}, body)
            repository = hub.repositories[name]
            if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
                return self._send(401, {"error": "Unauthorized"}, {"X-Error-Code": "RepoNotFound"}, body)
            parts = [part for part in rest.removeprefix(name).split("/") if part]
            revision = parts[1] if len(parts) > 1 else "main"
            folder = repository.revisions.get(revision)
            if folder is None:
                return self._send(404, {"error": "No such revision"}, {"X-Error-Code": "RevisionNotFound"}, body)
            commit = hub.commit(name, revision)
            files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
            if not api:
                return self._file(folder, "/".join(parts[2:]), commit, body)
            if parts[:1] == ["tree"]:
                rows = [
                    {
                        "type": "file",
                        "path": p.relative_to(folder).as_posix(),
                        "size": p.stat().st_size,
                        "oid": sha_of(p.name),
                    }
                    for p in files
                ]
                return self._send(200, rows, {}, body)
            siblings = [{"rfilename": p.relative_to(folder).as_posix()} for p in files]
            return self._send(200, {"id": name, "modelId": name, "sha": commit, "siblings": siblings}, {}, body)

        def _file(self, folder: Path, file: str, commit: str, body: bool) -> None:
            path = folder / file
            if not path.is_file():
                return self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}, body)
            data = path.read_bytes()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
            return self._bytes(200, data, {**headers, "Content-Type": "application/octet-stream"}, body)

        def _send(self, status: int, value: Any, headers: dict[str, str], body: bool) -> None:
            self._bytes(status, json.dumps(value).encode(), {**headers, "Content-Type": "application/json"}, body)

        def _bytes(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    return Handler
