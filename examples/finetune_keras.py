"""Fine-tune a text classifier in Keras with compile and fit, in a minute on a CPU.

    python examples/finetune_keras.py                              the bundled model, sentences in thirteen languages
    python examples/finetune_keras.py --train a.jsonl --test b.jsonl --model FOLDER --out FOLDER

Unless files are given (JSON lines with ``text`` and ``label``), the task is to say which of eight sentences a text is. The
model learns it in some languages and is tested in others that it sees no example of: transfer across languages, in small.
The result is a folder that every framework here opens (``xlm.AutoModelForSequenceClassification`` as well as the TF classes)
with a SavedModel in ``saved_model/1`` that TensorFlow Serving runs without this library.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

import xlm
from xlm.assets import DEMO_TEXTS, bundled_folder

Rows = list[tuple[str, str]]
HELD_OUT = ("German", "Russian", "Vietnamese")


def demo_rows() -> tuple[Rows, Rows]:
    """(text, label) of the demo's sentences: the languages to learn from, and those to be tested in."""
    entries = tomllib.loads(DEMO_TEXTS.read_text("utf-8"))["same"]
    rows = [(text, entry["english"], name) for entry in entries for name, text in entry.items() if name != "shown"]
    train = [(text, label) for text, label, name in rows if name not in HELD_OUT]
    return train, [(text, label) for text, label, name in rows if name in HELD_OUT]


def read_rows(path: Path) -> Rows:
    """(text, label) of a file of JSON lines."""
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [(record["text"], str(record["label"])) for record in records]


def features(rows: Rows, tokenizer: Any, label2id: dict[str, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What ``fit`` takes: inputs by their documented names, and labels."""
    batch = tokenizer([text for text, _ in rows], padding=True, truncation=True, return_tensors="np")
    inputs = {name: np.asarray(batch[name]) for name in ("input_ids", "attention_mask")}
    return inputs, np.array([label2id[label] for _, label in rows])


def main(arguments: list[str] | None = None) -> float:
    """Train, test, save; returns the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder or hub name; the bundled model unless given")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--out", type=Path, default=Path("classifier"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--dtype", default="float32", help="a Keras policy: float32, mixed_bfloat16, mixed_float16")
    args = parser.parse_args(arguments)

    train, test = demo_rows() if args.train is None else (read_rows(args.train), read_rows(args.test or args.train))
    names = sorted({label for _, label in train})
    label2id = {name: number for number, name in enumerate(names)}
    folder = args.model or bundled_folder()
    tokenizer = xlm.AutoTokenizer.from_pretrained(folder)
    config = xlm.AutoConfig.from_pretrained(folder, id2label=dict(enumerate(names)))
    model = xlm.TFAutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=args.dtype)

    import keras  # after the model's classes, which choose Keras' backend

    keras.utils.set_random_seed(0)
    steps = args.epochs * -(-len(train) // args.batch)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=args.lr, warmup_steps=steps // 10
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
    # No loss is named: the head has one.
    model.compile(optimizer=optimizer, metrics=["accuracy"])
    inputs, labels = features(train, tokenizer, label2id)
    history = model.fit(inputs, labels, epochs=args.epochs, batch_size=args.batch, verbose=0).history
    for epoch in sorted({*range(4, args.epochs, 5), args.epochs - 1}):
        print(f"epoch {epoch + 1:3}  loss {history['loss'][epoch]:.3f}", flush=True)

    inputs, labels = features(test, tokenizer, label2id)
    found = model.predict(inputs, batch_size=args.batch, verbose=0).logits.argmax(-1)
    model.save_pretrained(args.out, saved_model=True)
    tokenizer.save_pretrained(args.out)
    accuracy = float((found == labels).mean())
    print(f"accuracy {accuracy:.2f} on {len(labels)} texts (chance {1 / len(names):.2f}); saved to {args.out}")
    return accuracy


if __name__ == "__main__":
    main()
