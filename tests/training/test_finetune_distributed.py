"""Fine-tuning under torchrun: two processes learn what one does, and either goes on with what the other left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import toytasks
import xlm
from torchrun import finetuned

OPTIONS = ("learning_rate=5e-3", "batch=16", "precision=fp32", "log=1", "threads=1", "dropout=0.0", "device=cpu")


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    base = toytasks.checkpoint(tmp_path / "base")
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "attention_probs_dropout_prob": 0.0}), "utf-8")
    train = toytasks.write(tmp_path / "train.jsonl", toytasks.rows("classify", 90, 1))
    held_out = toytasks.write(tmp_path / "dev.jsonl", toytasks.rows("classify", 24, 2))
    return ["--task", "classify", "--model", str(base), "--train", str(train), "--eval", str(held_out)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return xlm.AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


@pytest.mark.slow
def test_two_processes_learn_what_one_does(data: list[str], tmp_path: Path) -> None:
    one, _ = finetuned(1, data, tmp_path / "one", "epochs=3", *OPTIONS)
    two, told = finetuned(2, data, tmp_path / "two", "epochs=3", *OPTIONS)
    assert "on 2 x cpu" in told
    assert two["finished"] and two["step"] == one["step"] and two["scores"] == pytest.approx(one["scores"])
    got, want = weights(tmp_path / "two" / "model"), weights(tmp_path / "one" / "model")
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=2e-5, msg=name)
    lines = [(tmp_path / x / "metrics.jsonl").read_text("utf-8").splitlines() for x in ("one", "two")]
    losses = [[r["loss_classify"] for r in map(json.loads, one) if r["kind"] == "train"] for one in lines]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_one_goes_on_with_what_two_left(data: list[str], tmp_path: Path) -> None:
    whole, _ = finetuned(1, data, tmp_path / "whole", "epochs=1", *OPTIONS)
    stopped, told = finetuned(2, data, tmp_path / "parts", "epochs=1", "max_minutes=1e-9", *OPTIONS)
    assert not stopped["finished"] and stopped["step"] == 1 and stopped["model"] is None and "stopped at step 1" in told
    rest, told = finetuned(1, data, tmp_path / "parts", "epochs=1", *OPTIONS)
    assert rest["finished"] and rest["step"] == whole["step"] and "resumed from" in told
    got, want = weights(tmp_path / "parts" / "model"), weights(tmp_path / "whole" / "model")
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=2e-5, msg=name)
