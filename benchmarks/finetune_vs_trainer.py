"""The same fine-tuning by ``xlm finetune`` and by transformers' Trainer, from one checkpoint: score and seconds.

    python benchmarks/finetune_vs_trainer.py --seeds 1 2 3
    python benchmarks/finetune_vs_trainer.py --side ours --seeds 1       # one side, one seed at a time: results add up

Both sides take the same rows, batch size, epochs, learning rate, warm-up, decay, clipping, weight decay (none on biases and
norms), AdamW, fp32, and the same number of threads; theirs pads each batch to its longest row, and with ``--grouped`` it too
puts rows of similar length together.
Seconds are those of training alone: no loading, no evaluation; beside the clock's stand the processor's, which other
processes of a busy machine hardly change. Results go to ``--out``, a line a run; the last lines
compare the sides as far as both are there. Set OMP_NUM_THREADS for the number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

OPTIONS: dict[str, Any] = {"epochs": 1.0, "batch": 32, "learning_rate": 1.8e-4, "warmup": 0.1, "weight_decay": 0.01}


def ours(base: Path, given: argparse.Namespace, seed: int, options: dict[str, Any], folder: Path) -> dict[str, float]:
    """xlm's loop."""
    import xlm
    from xlm.training.finetune_trainer import FineTuner

    spent = [0.0]
    step = FineTuner.step

    def timed(tuner: Any, number: int) -> Any:
        begun = time.process_time()
        made = step(tuner, number)
        spent[0] += time.process_time() - begun
        return made

    FineTuner.step = timed
    outcome = xlm.finetune(
        "classify", base, train=given.train, eval=given.eval, output=folder / "ours", resume=False, quiet=True, seed=seed,
        precision="fp32", checkpoint_minutes=0.0, log=1000, evaluations=1 / options["epochs"],
        data={"limit": given.limit}, **options,
    )  # fmt: skip
    FineTuner.step = step
    return {
        "seconds": outcome.seconds,
        "cpu_seconds": spent[0],
        "accuracy": outcome.scores["accuracy"],
        "steps": outcome.step,
    }


def theirs(base: Path, given: argparse.Namespace, seed: int, options: dict[str, Any], folder: Path) -> dict[str, float]:
    """transformers' own model, tokenizer and Trainer."""
    import transformers

    from xlm.data.examples import read_examples

    transformers.set_seed(seed)
    train = read_examples(given.train, "classify", limit=given.limit).examples
    held_out = read_examples(given.eval, "classify").examples
    labels = sorted({example.label for example in train})
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=len(labels), dtype="float32"
    )

    def rows(examples: list[Any]) -> list[dict[str, Any]]:
        pairs = None if examples[0].pair is None else [e.pair for e in examples]
        encoded = tokenizer([e.text for e in examples], pairs, truncation=True, max_length=256)["input_ids"]
        return [{"input_ids": ids, "labels": labels.index(e.label)} for ids, e in zip(encoded, examples, strict=True)]

    arguments = transformers.TrainingArguments(
        str(folder / "theirs"), num_train_epochs=options["epochs"], per_device_train_batch_size=options["batch"],
        learning_rate=options["learning_rate"], warmup_steps=options["warmup"], weight_decay=options["weight_decay"],
        lr_scheduler_type="linear", max_grad_norm=1.0, adam_beta2=0.999, adam_epsilon=1e-8, seed=seed, report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no", eval_strategy="no",
        dataloader_pin_memory=False, per_device_eval_batch_size=32,
        train_sampling_strategy="group_by_length" if given.grouped else "random",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows(train), data_collator=transformers.DataCollatorWithPadding(tokenizer)
    )
    begun, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    gold = rows(held_out)
    predicted = trainer.predict(gold).predictions.argmax(-1)
    right = float(np.mean([p == row["labels"] for p, row in zip(predicted.tolist(), gold, strict=True)]))
    return {"seconds": seconds, "cpu_seconds": cpu, "accuracy": right, "steps": trainer.state.global_step}


def main() -> None:
    """Run what is asked for, then compare what is there."""
    from xlm.assets import bundled_folder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default="../shared/data/classify/sst2/en.train.jsonl.gz")
    parser.add_argument("--eval", default="../shared/data/classify/sst2/en.dev.jsonl.gz")
    parser.add_argument("--grouped", action="store_true", help="theirs puts rows of similar length together")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--side", choices=["both", "ours", "theirs"], default="both")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--epochs", type=float, default=OPTIONS["epochs"])
    parser.add_argument("--out", type=Path, default=Path("finetune_vs_trainer.jsonl"))
    given = parser.parse_args()
    options = {**OPTIONS, "epochs": given.epochs}
    sides = {"ours": ours, "theirs": theirs}
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    for side in sides if given.side == "both" else [given.side]:
        for seed in given.seeds:
            with tempfile.TemporaryDirectory() as folder:
                base = Path(shutil.copytree(given.model or bundled_folder(), Path(folder) / "base"))
                found = sides[side](base, given, seed, options, Path(folder))
            record = {"side": side, "seed": seed, "threads": threads, "limit": given.limit, **options, **found}
            print(json.dumps(record), flush=True)
            with given.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
    runs = [json.loads(line) for line in given.out.read_text("utf-8").splitlines()]
    by_side = {side: [run for run in runs if run["side"] == side] for side in sides}
    if all(by_side.values()):
        for side, found in by_side.items():
            scores, seconds = [run["accuracy"] for run in found], [run["seconds"] for run in found]
            spread = np.std(scores, ddof=1) if len(scores) > 1 else float("nan")
            print(
                f"{side:6}  {len(found)} runs  accuracy {100 * np.mean(scores):.1f} ± {100 * spread:.1f} %  "
                f"median {np.median(seconds):.1f} s, of the processor {np.median([r['cpu_seconds'] for r in found]):.1f} s"
            )
        for kind in ("seconds", "cpu_seconds"):
            middle = {side: np.median([run[kind] for run in found]) for side, found in by_side.items()}
            print(f"ours is {middle['theirs'] / middle['ours']:.2f} x as fast by {kind}")


if __name__ == "__main__":
    main()
