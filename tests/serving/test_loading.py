"""A server listens before its models are there: what it says until then, and when one cannot be had."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xlm
from xlm.assets import bundled_folder
from xlm.errors import CheckpointError, ConfigError
from xlm.serving.app import create_app
from xlm.serving.loading import name_of, read_ahead
from xlm.serving.run import run
from xlm.serving.settings import Settings

from .test_faults import until
from .test_routes import TEXTS, post

httpx = pytest.importorskip("httpx")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_alive_at_once_ready_when_all_are_loaded(offline: Any) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    first, second = threading.Event(), threading.Event()
    said: list[str] = []
    errors: list[BaseException] = []

    def load_first() -> Any:
        first.wait(60)
        return xlm.load()

    def load_second() -> Any:
        second.wait(60)
        raise CheckpointError("b: damaged")

    def serve() -> None:
        try:
            run({"a": load_first, "b": load_second}, Settings(), port=port, say=said.append)
        except BaseException as error:
            errors.append(error)

    def answers(path: str) -> Any:
        try:
            return httpx.get(address + path, timeout=60)
        except httpx.TransportError:
            return None

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        assert until(lambda: answers("/health") is not None)
        assert answers("/health").json() == {"status": "ok", "dead": []}
        ready = answers("/ready")
        assert (ready.status_code, ready.json()["loading"]) == (503, ["a", "b"]) and ready.headers["Retry-After"]
        assert [model["id"] for model in answers("/v1/models").json()["data"]] == ["a", "b"]
        for route, body in (("/embed", {"inputs": "x"}), ("/v1/embeddings", {"input": "x", "model": "b"})):
            refused = post(address, route, **body)
            assert refused.status_code == 503 and refused.headers["Retry-After"], route
            assert "being loaded" in refused.text
        assert post(address, "/embed", inputs="x", model="c").status_code == 404
        assert "xlm_requests_total" in answers("/metrics").text
        first.set()
        assert until(lambda: answers("/ready").json()["loading"] == ["b"])
        np.testing.assert_allclose(post(address, "/embed", inputs=TEXTS).json(), offline.embed(TEXTS), atol=2e-5)
        assert post(address, "/embed", inputs="x", model="b").status_code == 503
    finally:
        first.set()
        second.set()
        thread.join(60)
    assert not thread.is_alive() and not said
    assert [str(error) for error in errors] == ["b: damaged"]


def test_listening_needs_no_framework() -> None:
    code = (
        "import sys, json, xlm.serving.run\n"
        "print(json.dumps([m for m in ('torch', 'sentencepiece', 'huggingface_hub') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == []


def test_a_model_that_cannot_be_had_ends_the_command(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    command = [sys.executable, "-m", "xlm", "serve", str(missing), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("xlm: ") and str(missing) in done.stderr and "Traceback" not in done.stderr


def test_names_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from xlm.cli import main

    assert (name_of(None), name_of("owner/name"), name_of(tmp_path)) == ("xlmr-mini", "owner/name", tmp_path.name)
    for folder in ("a", "b"):
        (tmp_path / folder / "model").mkdir(parents=True)
    assert main(["serve", str(tmp_path / "a" / "model"), str(tmp_path / "b" / "model")]) == 1
    assert "two models are called 'model'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="at least one"):
        create_app({})
    with pytest.raises(ConfigError, match="name of its own"):
        create_app({}, loading=["a", "a"])


def test_weights_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundled_folder()
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert size and read_ahead(folder) == size
    assert read_ahead(tmp_path) == read_ahead(tmp_path / "missing") == 0
    monkeypatch.setattr("xlm.serving.loading._memory", lambda: 2 * size - 2)
    assert read_ahead(folder) == 0
