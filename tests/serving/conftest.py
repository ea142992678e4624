"""A real server on a free port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn

import xlm
from xlm.assets import bundled_folder
from xlm.serving.app import create_app
from xlm.serving.settings import Settings
from xlm.serving.wire import Wire

HEADS = {
    "rerank": ("ForSequenceClassification", {"num_labels": 1}),
    "classify": ("ForSequenceClassification", {"id2label": {0: "no", 1: "maybe", 2: "yes"}}),
    "tag": ("ForTokenClassification", {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}}),
    "answer": ("ForQuestionAnswering", {}),
    "choose": ("ForMultipleChoice", {}),
}


@contextmanager
def running(engines: dict[str, Any], settings: Settings | None = None) -> Iterator[str]:
    """The address of a server."""
    server = uvicorn.Server(uvicorn.Config(create_app(engines, settings), port=0, log_level="error", http=Wire))
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


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One small model a head, of random weights, with the bundled vocabulary."""
    found = {}
    for name, (head, fields) in HEADS.items():
        folder: Path = tmp_path_factory.mktemp(name)
        torch.manual_seed(len(name))
        config = xlm.XLMRobertaConfig(
            vocab_size=12000, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=130, initializer_range=0.5, **fields,
        )  # fmt: skip
        getattr(xlm, f"XLMRoberta{head}")(config).save_pretrained(folder)
        for file in ("sentencepiece.bpe.model", "tokenizer_config.json"):
            (folder / file).write_bytes((bundled_folder() / file).read_bytes())
        found[name] = xlm.load(folder)
    return found
