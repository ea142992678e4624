"""A toy corpus and recipe that train in a second."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

WORDS = {
    "en": "the capital of France is a city hello world Paris river mountain".split(),
    "sw": "mji mkuu wa Ufaransa ni Paris habari dunia mto mlima".split(),
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Recipes set the number of threads; the tests after them get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toy(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """``toy(**changes)`` writes a corpus and a recipe, and returns the recipe's path."""
    rng = random.Random(0)
    for language, words in WORDS.items():
        for folder, count in (("text", 400), ("valid", 60)):
            (tmp_path / folder).mkdir(exist_ok=True)
            lines = [" ".join(rng.choices(words, k=rng.randint(3, 12))) for _ in range(count)]
            (tmp_path / folder / f"{language}.txt").write_text("\n".join(lines), "utf-8")
    (tmp_path / "pairs").mkdir()
    lines = []
    for _ in range(300):
        chosen = [rng.randrange(9) for _ in range(rng.randint(2, 8))]
        lines.append("\t".join(" ".join(WORDS[name][i] for i in chosen) for name in ("sw", "en")))
    (tmp_path / "pairs" / "sw.tsv").write_text("\n".join(lines), "utf-8")

    def make(**changes: Any) -> Path:
        recipe: dict[str, Any] = {
            "tokenizer": str(tiny_model),
            "data": {
                "text": "text/{language}.txt",
                "valid": "valid/{language}.txt",
                "pairs": "pairs/{language}.tsv",
                "held_out": 0.2,
            },
            "model": {
                "config": {
                    "hidden_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "intermediate_size": 64,
                    "max_position_embeddings": 66,
                }
            },
            "objectives": {
                "mlm": {"share": 0.7},
                "tlm": {"share": 0.3},
                "contrastive": {"pairs": 8, "every": 2, "mask_rate": 0.1},
            },
            "batch": {"tokens": 512, "micro_tokens": 300, "phases": [{"length": 32, "until": 0.5}, {"length": 48}]},
            "schedule": {"steps": 8},
            "every": {"log": 2, "checkpoint": 3, "checkpoint_minutes": 0, "valid_length": 32},
            "threads": 1,
            "output": str(tmp_path / "run"),
        }
        for key, value in changes.items():
            at = recipe
            *parents, last = key.split("__")
            for parent in parents:
                at = at.setdefault(parent, {})
            at[last] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe), "utf-8")
        return path

    return make
