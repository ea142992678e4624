"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# No deadline: a shared machine is slow at times. Derandomised, so that a red run is red again.
settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real text and measured references beside the repository; without it the test is skipped."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder 'shared' beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a masked language model of two thin layers with random weights, and a tokenizer of many scripts."""
    import torch

    import xlm
    from xlm.assets import DEMO_TEXTS
    from xlm.tokenizers.train import train_sentencepiece

    folder = tmp_path_factory.mktemp("tiny-model")
    texts = tomllib.loads(DEMO_TEXTS.read_text("utf-8"))
    lines = [value for entry in texts["same"] for value in entry.values()]
    lines += [entry["text"].replace("<mask>", entry["word"]) for entry in texts["fill"]]
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join([*lines, "Paris is the capital of France. hello world"] * 3), "utf-8")
    train_sentencepiece({"all": corpus}, 640, folder)
    corpus.unlink()
    tokenizer = xlm.XLMRobertaTokenizer(folder / "sentencepiece.bpe.model")
    config = xlm.XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    xlm.XLMRobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
