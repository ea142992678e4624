"""The language of texts: embeddings and word rules of XLM models, refused where all languages are read alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toytasks
import xlm
from xlm.cli import main
from xlm.errors import InputError
from xlm.training.finetune_data import features_of

TEXTS = ["the film was good .", "Ana was in Rome"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toytasks.spoken(tmp_path)


def test_the_language_embedding_is_that_of_the_documented_forward(folder: Path) -> None:
    model = xlm.AutoModel.from_pretrained(folder).eval()
    tokenizer = xlm.AutoTokenizer.from_pretrained(folder)
    engine = xlm.load(folder)
    assert engine.languages == ("en", "fr") and engine.lang is None
    states = {}
    for name, number in ((None, None), ("en", 0), ("fr", 1)):
        engine.lang = name
        states[name] = engine.encode(TEXTS)
        for text, found in zip(TEXTS, states[name], strict=True):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            langs = None if number is None else torch.full_like(ids, number)
            with torch.no_grad():
                want = model(ids, langs=langs).last_hidden_state[0].numpy()
            np.testing.assert_allclose(found, want, atol=2e-5)
    assert np.abs(states["en"][0] - states["fr"][0]).max() > 0.1
    np.testing.assert_array_equal(xlm.load(folder, lang="fr").encode(TEXTS)[1], states["fr"][1])


def test_texts_are_generated_in_the_language(folder: Path) -> None:
    """The published model adds ``config.lang_id`` to every token that it generates."""
    model = xlm.XLMWithLMHeadModel.from_pretrained(folder, causal=True)
    model.save_pretrained(folder)
    engine = xlm.load(folder)
    prompt = torch.tensor([engine.tokenizer("Ana was")["input_ids"][:-1]])
    found = {}
    for number, name in enumerate(("en", "fr")):
        engine.lang, model.config.lang_id = name, number
        want = engine.tokenizer.decode(model.generate(prompt, max_new_tokens=6)[0, prompt.shape[1] :].tolist())
        found[name] = engine.generate(["Ana was"], max_new_tokens=6)[0]["generated"]
        assert found[name] == want
    assert found["en"] != found["fr"]


def test_the_commands_take_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = {}
    for name in ("en", "fr"):
        assert main(["embed", "-m", str(folder), "--lang", name, "--json", TEXTS[0]]) == 0
        vectors[name] = json.loads(capsys.readouterr().out)["embedding"]
    np.testing.assert_allclose(vectors["fr"], xlm.load(folder, lang="fr").embed(TEXTS[:1])[0], rtol=1e-5, atol=1e-6)
    assert np.abs(np.subtract(vectors["en"], vectors["fr"])).max() > 1e-3
    assert main(["embed", "-m", str(folder), "--lang", "de", TEXTS[0]]) == 1
    assert "lang is 'de'" in capsys.readouterr().err


def test_unknown_languages_and_models_without(folder: Path, tmp_path: Path) -> None:
    engine = xlm.load(folder)
    with pytest.raises(InputError, match=r"lang is 'de': .* knows en, fr"):
        engine.lang = "de"
    assert engine.lang is None
    roberta = toytasks.checkpoint(tmp_path / "roberta")
    with pytest.raises(InputError, match=r"lang is 'en': .* reads all languages alike and has no place for one"):
        xlm.load(roberta, lang="en")
    assert xlm.load(roberta).languages == ()


def test_training_splits_each_language_by_its_own_rules(folder: Path) -> None:
    from xlm.tasks.classify import Classify
    from xlm.tasks.examples import TextExample

    class Noted:
        """A tokenizer that notes in which language it was asked."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.asked, self.lang = inner, [], None
            self.TEXT_OPTIONS, self.lang2id = inner.TEXT_OPTIONS, inner.lang2id

        def __call__(self, texts: list[str], **options: Any) -> Any:
            self.asked.append((self.lang, list(texts)))
            return self.inner(texts, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    tokenizer = Noted(xlm.AutoTokenizer.from_pretrained(folder))
    languages = ["en", "fr", None, "en", "de"]
    examples = [TextExample(f"{n} film", None, "ab"[n % 2], language) for n, language in enumerate(languages)]
    task = Classify.of(examples, None, None)
    found = features_of(task, examples, tokenizer, 32, training=True)
    assert [call for call in tokenizer.asked if call[1]] == [
        ("en", ["0 film", "3 film"]),
        ("fr", ["1 film"]),
        (None, ["2 film", "4 film"]),
    ]
    whole = task.features(examples, tokenizer.inner, 32, training=True)
    assert [item.example for item in found.items] == [0, 1, 2, 3, 4] and found.lengths == whole.lengths
    assert [item.target for item in found.items] == [item.target for item in whole.items]
