"""Recipes: what is unknown, mistyped, out of range or contradictory is refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from xlm.errors import ConfigError
from xlm.training.optim import rate_factor
from xlm.training.recipe import Schedule, changed_fields, load_recipe

GOOD = {
    "tokenizer": "tok",
    "data": {"text": "{language}.txt", "pairs": "{language}.tsv"},
    "objectives": {"mlm": {}},
    "schedule": {"steps": 10},
}


def write(folder: Path, values: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


def test_a_recipe_is_read_with_defaults_and_overrides(tmp_path: Path) -> None:
    assignments = ["optimizer.learning_rate=1e-4", "data.languages=[en, sw]", "objectives.tlm={}"]
    recipe = load_recipe(write(tmp_path, GOOD), assignments, "out")
    assert recipe.optimizer.learning_rate == 1e-4
    assert recipe.data.alpha == 0.3 and recipe.output == "out"
    assert recipe.objectives.tlm is not None
    assert recipe.path("tok") == tmp_path / "tok"


def test_yaml_reads_no_as_false_and_the_recipe_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.languages\[0\] = False: it must be text"):
        load_recipe(write(tmp_path, GOOD), ["data.languages=[no]"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "optimizer.learning_rat=1",
            r"optimizer\.learning_rat = 1 is not a known field .*did you mean 'learning_rate'",
        ),
        ("optimizer.learning_rate=fast", r"optimizer\.learning_rate = 'fast': it must be a finite number"),
        ("optimizer.learning_rate=-1", r"optimizer\.learning_rate = -1\.0: it must be greater than 0"),
        ("optimizer.learning_rate=.inf", r"it must be a finite number"),
        ("optimizer.betas=[0.9]", r"optimizer\.betas = \[0\.9\]: it must have exactly 2 entries"),
        ("masking.rate=1.5", r"masking\.rate = 1\.5: it must be at most 0\.9"),
        ("masking.shares=[1, 1, 1]", r"masking\.shares .*sum to 1"),
        ("batch.tokens=true", r"batch\.tokens = True: it must be a whole number"),
        ("batch.phases=[{length: 64, until: 0.5}]", r"the last must be 1\.0"),
        ("batch.tokens=64", r"batch\.tokens = 64: it must hold at least one sequence of 128"),
        ("precision=fp8", r"precision = 'fp8': it must be one of auto, fp32, bf16"),
        ("objectives={}", r"at least one of mlm, tlm, contrastive, clm"),
        ("data.text=null", r"data\.text is missing"),
        ("schedule={}", r"exactly one must be given"),
        ("schedule={steps: 5, minutes: 3}", r"exactly one must be given"),
        ("schedule={steps: 10, warmup: 11}", r"exceed the run"),
        ("schedule={minutes: 10, warmup: 11}", r"fractions below 1"),
        ("objectives.contrastive={alone: true}", r"leaves no step"),
        ("data=5", r"data is 5: it must be a mapping"),
        ("nonsense", r"--set 'nonsense': it must read field\.field=value"),
        ("tokenizer.x=1", r"tokenizer is 'tok', not a mapping"),
    ],
)
def test_bad_fields_are_named(tmp_path: Path, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, GOOD), [assignment])


def test_missing_fields_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokenizer is missing"):
        load_recipe(write(tmp_path, {key: value for key, value in GOOD.items() if key != "tokenizer"}))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [", "utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe(tmp_path / "broken.yaml")


def test_what_may_change_on_resume_and_what_may_not(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    before = json.loads(json.dumps(dataclasses.asdict(load_recipe(path))))
    free = ["max_minutes=5", "every.log=3", "device=cpu", "data.cache=x", "gradient_checkpointing=true"]
    assert changed_fields(before, load_recipe(path, free, "elsewhere")) == []
    changed = changed_fields(before, load_recipe(path, ["seed=2", "optimizer.betas=[0.9, 0.95]"]))
    assert changed == ["optimizer.betas was [0.9, 0.98], is [0.9, 0.95]", "seed was 1, is 2"]
    del before["optimizer"]["eps"], before["precision"]  # written before these fields existed
    assert changed_fields(before, load_recipe(path)) == []
    assert changed_fields(before, load_recipe(path, ["precision=bf16"])) == ["precision was auto, is bf16"]


def test_rates_warm_up_hold_and_decay() -> None:
    linear = Schedule(steps=100, warmup=10, hold=20, final=0.1)
    factors = [rate_factor(linear, step, step / 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1.0
    assert set(factors[10:31]) == {1.0}
    assert factors[65] == pytest.approx(0.1 + 0.9 * 0.5) and min(factors[31:]) > 0.1
    cosine = Schedule(steps=100, warmup=0.1, decay="cosine")
    assert rate_factor(cosine, 55, 0.55) == pytest.approx(0.5)
    root = Schedule(steps=1000, warmup=100, decay="inverse_sqrt")
    assert rate_factor(root, 399, 0.399) == pytest.approx(0.5)
    clocked = Schedule(minutes=10, warmup=0.1)
    assert rate_factor(clocked, 7, 0.05) == pytest.approx(0.5, abs=0.01)
    assert rate_factor(clocked, 7, 0.55) == pytest.approx(0.5)
    assert rate_factor(clocked, 7, 1.0) == 0.0
