"""The language of requests, behind a server: as the engine asked directly answers, also when requests share a forward."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toytasks
import xlm
from xlm.cli.serve import _by_model
from xlm.errors import InputError
from xlm.serving.scheduler import model_runner
from xlm.serving.settings import Settings

from .conftest import running
from .test_routes import TEXTS, post

WORDS = ["the film was good .", "Ana was in Rome", "good"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toytasks.spoken(tmp_path_factory.mktemp("spoken"))


def test_the_server_reads_texts_in_the_engines_language_and_in_a_requests(folder: Path) -> None:
    want = {name: xlm.load(folder, lang=name).embed(WORDS) for name in (None, "en", "fr")}
    assert (want["fr"][0] @ want["en"][0]) < 0.99
    with running({"two": xlm.load(folder, lang="fr"), "mini": xlm.load()}, Settings(tokens_a_pack=64)) as address:
        np.testing.assert_allclose(post(address, "/embed", inputs=WORDS).json(), want["fr"], atol=2e-5)
        np.testing.assert_allclose(post(address, "/embed", inputs=WORDS, lang="en").json(), want["en"], atol=2e-5)
        # Through a thread of the engine's, and where the scheduler pools by itself.
        found = [item["dense"] for item in post(address, "/embed_all", inputs=WORDS, lang="en").json()]
        np.testing.assert_allclose(found, want["en"], atol=2e-5)
        with ThreadPoolExecutor(8) as pool:  # in packs together
            asked = ["en", "fr"] * 16
            answers = pool.map(lambda lang: post(address, "/embed", inputs=WORDS, lang=lang).json(), asked)
            for lang, found in zip(asked, answers, strict=True):
                np.testing.assert_allclose(found, want[lang], atol=2e-5)
        info = post(address, "/tokenize", inputs=WORDS[:1], lang="fr")
        assert info.status_code == 200
        unknown = post(address, "/embed", inputs=WORDS, lang="de")
        assert unknown.status_code == 422 and unknown.json()["param"] == "lang" and "knows en, fr" in unknown.text
        alike = post(address, "/embed", inputs=TEXTS, model="mini", lang="fr")
        assert alike.status_code == 422 and "reads all languages alike" in alike.text


def test_rows_with_and_without_a_language_share_a_pack(folder: Path) -> None:
    engine = xlm.load(folder)
    rows = engine.ids(WORDS)
    run = model_runner(engine.states)
    with torch.inference_mode():
        mixed = run([list(row) for row in rows], [1, None, 0])
    parts = mixed.split([len(row) for row in rows])
    for lang, text, part in zip(("fr", None, "en"), WORDS, parts, strict=True):
        np.testing.assert_allclose(part.numpy(), xlm.load(folder, lang=lang).encode([text])[0], atol=2e-5)


def test_another_language_leaves_the_engine_as_it_was(folder: Path) -> None:
    engine = xlm.load(folder, lang="en")
    before = engine.embed(WORDS)
    french = engine.speaking("fr")
    assert (french.lang, engine.lang, engine.tokenizer.lang) == ("fr", "en", "en")
    np.testing.assert_array_equal(french.embed(WORDS), xlm.load(folder, lang="fr").embed(WORDS))
    np.testing.assert_array_equal(engine.embed(WORDS), before)


@pytest.mark.parametrize(
    ("given", "want"),
    [([], {}), (["fr"], {"a": "fr", "b": "fr"}), (["b=de", "fr"], {"a": "fr", "b": "de"}), (["a=en"], {"a": "en"})],
)
def test_languages_of_the_command_line(given: list[str], want: dict[str, Any]) -> None:
    assert _by_model(given, ["a", "b"]) == want
    with pytest.raises(InputError, match="no model 'c'"):
        _by_model([*given, "c=fr"], ["a", "b"])


def test_the_command_passes_languages_and_warns_of_open_servers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xlm.cli import main

    found: dict[str, Any] = {}
    monkeypatch.setattr("xlm.serving.run.run", lambda loaders, settings, **_: found.update(loaders, settings=settings))
    assert main(["serve", f"two={folder}", "--lang", "two=fr", "--host", "0.0.0.0", "--open-metrics"]) == 0
    assert found["two"]().lang == "fr" and found["settings"].open_metrics and found["settings"].plain_text
    assert "without keys" in capsys.readouterr().err
    monkeypatch.setenv("XLM_API_KEYS", "one two")
    assert main(["serve", f"two={folder}", "--host", "0.0.0.0", "--special-tokens"]) == 0
    assert found["settings"].api_keys == ("one", "two") and not found["settings"].plain_text
    assert "without keys" not in capsys.readouterr().err
