"""How long an equal model takes to an equal held-out loss: `transformers`' Trainer, and this library.

    python benchmarks/time_to_loss.py --data ../shared/data --vocabulary FOLDER --minutes 60 --out /tmp/race

XLM-R's architecture with 12 layers of 384 and the vocabulary of FOLDER (64,000 ids: ``xlm tokenizer train
en=../shared/data/pretrain/en.txt.gz ... --vocab-size 64000 --out FOLDER``), from nothing, on the same text with the same
languages. The Trainer trains for ``--minutes`` as a careful user lets it (see `mini_vs_trainer.py`); its last held-out loss is
the goal. Ours trains until its own, measured on the same masked tokens, is no higher; ``--plain`` gives it the
Trainer's optimizer and plain random weights, so that only the step differs. The report is the ratio of the two times;
neither counts tokenizing, ours counts its start from counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mini_quality import LANGUAGES, masked_scores
from mini_vs_trainer import LENGTH, ROWS, collator_tokenizer, training_rows

import xlm

SHAPE = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "max_position_embeddings": 66,
    "type_vocab_size": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def held_out(folder: Path, data: Path) -> float:
    """The mean loss of the languages on their held-out text, in nats a masked token."""
    engine = xlm.load(folder)
    return float(np.mean([masked_scores(engine, data, name, LENGTH, 32)["loss"] for name in LANGUAGES]))


def race_trainer(data: Path, vocabulary: Path, minutes: float, out: Path, shape: dict[str, Any]) -> dict[str, float]:
    """Train for ``minutes`` and score."""
    import transformers
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    tokenizer = xlm.AutoTokenizer.from_pretrained(vocabulary)
    engine = type("Tokens", (), {"tokenizer": tokenizer})()
    rows = training_rows(engine, data, 400_000)
    transformers.set_seed(1)
    config = transformers.XLMRobertaConfig(vocab_size=len(tokenizer), layer_norm_eps=1e-5, **shape)
    model = transformers.XLMRobertaForMaskedLM(config)
    start = [0.0]

    class Clock(TrainerCallback):
        """Ends the run on time."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = time.monotonic() - start[0] > 60 * minutes

    def factor(step: int) -> float:
        done = (time.monotonic() - start[0]) / (60 * minutes)
        return min(done / 0.06, 1.0) * max(1.0 - done, 0.0)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out), per_device_train_batch_size=ROWS, max_steps=10**6, use_cpu=True, report_to=[],
            save_strategy="no", logging_steps=100, disable_tqdm=True, bf16=xlm_bf16(),
        ),
        train_dataset=[{"input_ids": row.tolist()} for row in rows],
        data_collator=DataCollatorForLanguageModeling(collator_tokenizer(vocabulary), mlm_probability=0.15),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)),
        callbacks=[Clock()],
    )  # fmt: skip
    start[0] = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - start[0]
    model.save_pretrained(out / "model")
    for name in ("sentencepiece.bpe.model", "tokenizer_config.json"):
        (out / "model" / name).write_bytes((vocabulary / name).read_bytes())
    return {"seconds": seconds, "steps": trainer.state.global_step, "loss": held_out(out / "model", data)}


def xlm_bf16() -> bool:
    """Whether this CPU multiplies in bf16."""
    from xlm.training.runtime import use_bf16

    return use_bf16("auto", torch.device("cpu"))


def race_ours(
    data: Path, vocabulary: Path, minutes: float, goal: float, out: Path, shape: dict[str, Any], plain: bool
) -> dict[str, Any]:
    """Train for shares of ``minutes``, each run anew with its own schedule, until one's loss is at the goal."""
    recipe: dict[str, Any] = {
        "tokenizer": str(vocabulary.resolve()),
        "model": {"family": "xlm-roberta", "config": shape | {"layer_norm_eps": 1e-5}},
        "data": {
            "text": str(data.resolve() / "pretrain" / "{language}.txt.gz"),
            "languages": LANGUAGES,
            "alpha": 0.5,
            "cache": str((out / "tokens").resolve()),
        },
        "objectives": {"mlm": {}},
        "batch": {"tokens": ROWS * LENGTH, "phases": [{"length": LENGTH}]},
        "optimizer": {"learning_rate": 1e-3, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01},
        "schedule": {"warmup": 0.06},
    }
    if not plain:
        recipe["optimizer"] |= {"kind": "muon", "matrix_rate": 0.012}
        recipe["init"] = {"scale": 0.05, "bias": "unigram"}  # spectral word vectors of 64,000 ids take minutes
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    command = [sys.executable, "-m", "xlm.cli", "pretrain", str(out / "recipe.yaml"), "--fresh", "-q", "--json"]
    tried: list[dict[str, float]] = []
    for share in (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0):
        if share == 1 / 4:  # makes the token stores, which the Trainer has for nothing
            small = ["-o", str(out / "stores"), "--set", "schedule.steps=1", "--set", "init={}"]
            subprocess.run([*command, *small], check=True, stdout=subprocess.DEVNULL)
        begun, folder = time.monotonic(), out / f"share-{share:.2f}"
        limit = ["-o", str(folder), "--set", f"schedule.minutes={share * minutes}"]
        done = json.loads(subprocess.run([*command, *limit], check=True, stdout=subprocess.PIPE, text=True).stdout)
        seconds = time.monotonic() - begun
        tried.append({"seconds": seconds, "steps": done["step"], "loss": held_out(folder / "model", data)})
        print("ours", json.dumps(tried[-1]), flush=True)
        if tried[-1]["loss"] <= goal:
            break
    return tried[-1] | {"tried": tried}


def main() -> None:
    """Run both, one after the other, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plain", action="store_true", help="ours with the Trainer's optimizer and start")
    parser.add_argument("--layers", type=int, default=12, help="fewer, to try the script")
    options = parser.parse_args()
    shape = SHAPE | {"num_hidden_layers": options.layers}
    folders = {name: options.out / name for name in ("trainer", "ours")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    theirs = race_trainer(options.data, options.vocabulary, options.minutes, folders["trainer"], shape)
    print("trainer", json.dumps(theirs), flush=True)
    arguments = (options.data, options.vocabulary, options.minutes, theirs["loss"], folders["ours"], shape)
    ours = race_ours(*arguments, options.plain)
    report = {"trainer": theirs, "ours": ours, "reached": ours["loss"] <= theirs["loss"]}
    report["share_of_the_trainers_time"] = round(ours["seconds"] / theirs["seconds"], 3)
    (options.out / "report.json").write_text(json.dumps(report, indent=1), "utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
