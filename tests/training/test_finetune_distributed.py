"""Fine-tuning under torchrun: two processes learn what one does, and either goes on with what the other left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import toytasks
import xlm
from xlm.training.pretrain import EXIT_STOPPED

OPTIONS = ["learning_rate=5e-3", "batch=16", "precision=fp32", "log=1", "threads=1", "dropout=0.0", "device=cpu"]


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    base = toytasks.checkpoint(tmp_path / "base")
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "attention_probs_dropout_prob": 0.0}), "utf-8")
    train = toytasks.write(tmp_path / "train.jsonl", toytasks.rows("classify", 90, 1))
    held_out = toytasks.write(tmp_path / "dev.jsonl", toytasks.rows("classify", 24, 2))
    return ["--task", "classify", "--model", str(base), "--train", str(train), "--eval", str(held_out)]


def finetuned(count: int, data: list[str], output: Path, *changes: str) -> tuple[dict[str, Any], str]:
    """What ``xlm finetune --json`` prints, on so many processes, and its stderr."""
    launcher = [sys.executable]
    if count > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [*launcher, "-m", "xlm", "finetune", *data, "--json", "-o", str(output)]
    command += [part for change in (*OPTIONS, *changes) for part in ("--set", change)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    stopped = "max_minutes" in "".join(changes)
    # torchrun itself ends with 1 whenever its processes end with anything but 0.
    assert done.returncode in ((EXIT_STOPPED, 1) if stopped else (0,)), done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return outcomes[0], done.stderr


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return xlm.AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


@pytest.mark.slow
def test_two_processes_learn_what_one_does(data: list[str], tmp_path: Path) -> None:
    one, _ = finetuned(1, data, tmp_path / "one", "epochs=3")
    two, told = finetuned(2, data, tmp_path / "two", "epochs=3")
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
    whole, _ = finetuned(1, data, tmp_path / "whole", "epochs=1")
    stopped, told = finetuned(2, data, tmp_path / "parts", "epochs=1", "max_minutes=1e-9")
    assert not stopped["finished"] and stopped["step"] == 1 and stopped["model"] is None and "stopped at step 1" in told
    rest, told = finetuned(1, data, tmp_path / "parts", "epochs=1")
    assert rest["finished"] and rest["step"] == whole["step"] and "resumed from" in told
    got, want = weights(tmp_path / "parts" / "model"), weights(tmp_path / "whole" / "model")
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=2e-5, msg=name)
