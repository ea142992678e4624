"""Every recipe that comes with the library is valid, and trains at toy scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import xlm
from xlm.training.pretrain import pretrain
from xlm.training.recipe import load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
# Those of translation are in test_translate.py.
PRETRAINING = [path for path in RECIPES if "task" not in yaml.safe_load(path.read_text("utf-8"))]
SMALL = {
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 64},
    "xlm-roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_recipes_are_valid_and_train_at_toy_scale(path: Path, toy: Callable[..., Path], tmp_path: Path) -> None:
    load_recipe(path)
    toy_recipe = yaml.safe_load(toy().read_text("utf-8"))
    recipe = yaml.safe_load(path.read_text("utf-8"))
    recipe["tokenizer"], recipe["output"], recipe["threads"] = toy_recipe["tokenizer"], toy_recipe["output"], 1
    if "path" in recipe["model"]:  # goes on from another recipe's weights
        size = len(xlm.AutoTokenizer.from_pretrained(toy_recipe["tokenizer"]))
        config = xlm.XLMRobertaXLConfig(vocab_size=size, max_position_embeddings=66, **SMALL["xlm-roberta"])
        xlm.XLMRobertaXLForMaskedLM(config).save_pretrained(tmp_path / "begun")
        recipe["model"]["path"] = str(tmp_path / "begun")
    else:
        given = recipe["model"]["config"]
        for name in ("vocab_size", "init"):
            given.pop(name, None)
        given |= SMALL["xlm" if recipe["model"]["family"] == "xlm" else "xlm-roberta"]
        given |= {"max_position_embeddings": 64 if recipe["model"]["family"] == "xlm" else 66}
    files = {key: value for key, value in toy_recipe["data"].items() if key in recipe["data"] and key != "held_out"}
    recipe["data"] = recipe["data"] | files | {"languages": ["en", "sw"]}
    recipe["batch"] = {"tokens": 256, "phases": [{"length": 32}]}
    recipe["schedule"] = {"steps": 3}
    if "contrastive" in recipe["objectives"]:
        recipe["objectives"]["contrastive"]["pairs"] = 4
    if "translation_steps" in recipe.get("init", {}):
        recipe["init"] |= {"translation_steps": 2, "translation_pairs": 8}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    outcome = pretrain(load_recipe(tmp_path / "toy.yaml"), quiet=True)
    assert outcome.finished and outcome.step == 3
