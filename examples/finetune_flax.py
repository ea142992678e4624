"""Fine-tune a text classifier in Flax with optax, in a minute on a CPU.

    python examples/finetune_flax.py                              the bundled model, sentences in thirteen languages
    python examples/finetune_flax.py --train a.jsonl --test b.jsonl --model FOLDER --out FOLDER

Unless files are given (JSON lines with ``text`` and ``label``), the task is to say which of eight sentences a text is. The
model learns it in some languages and is tested in others that it sees no example of: transfer across languages, in small.
The result is a folder that every framework here opens: ``xlm.AutoModelForSequenceClassification`` as well as the Flax classes.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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


def batches(
    rows: Rows, tokenizer: Any, label2id: dict[str, int], size: int, seed: int | None
) -> Iterator[dict[str, Any]]:
    """Batches of one shape, so that the step is compiled once; the last one is filled with rows that do not count."""
    order = np.arange(len(rows)) if seed is None else np.random.default_rng(seed).permutation(len(rows))
    texts = tokenizer([text for text, _ in rows], padding=True, truncation=True, return_tensors="np")
    for start in range(0, len(rows), size):
        chosen = order[start : start + size]
        filled = np.resize(chosen, size)
        labels = np.array([label2id[rows[i][1]] for i in filled])
        labels[len(chosen) :] = -100
        yield {
            "input_ids": np.asarray(texts["input_ids"])[filled],
            "attention_mask": np.asarray(texts["attention_mask"])[filled],
            "labels": labels,
        }


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
    parser.add_argument("--dtype", default="float32", help="in which the model computes: float32 or bfloat16")
    args = parser.parse_args(arguments)

    train, test = demo_rows() if args.train is None else (read_rows(args.train), read_rows(args.test or args.train))
    names = sorted({label for _, label in train})
    label2id = {name: number for number, name in enumerate(names)}
    folder = args.model or bundled_folder()
    tokenizer = xlm.AutoTokenizer.from_pretrained(folder)
    config = xlm.AutoConfig.from_pretrained(folder, id2label=dict(enumerate(names)))
    model = xlm.FlaxAutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=args.dtype)
    steps = args.epochs * -(-len(train) // args.batch)
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.lr, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))

    @jax.jit
    def step(params: Any, state: Any, batch: dict[str, Any], key: Any) -> tuple[Any, Any, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            return model(**batch, params=params, train=True, dropout_rng=key).loss

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    @jax.jit
    def predict(params: Any, ids: Any, mask: Any) -> jax.Array:
        return model(ids, mask, params=params).logits.argmax(-1)

    # Stacked parameters are what the model computes with; `model.params` is the same as a dictionary a layer.
    params, key = model.stacked, jax.random.key(0)
    state = optimizer.init(params)
    for epoch in range(args.epochs):
        losses = []
        for batch in batches(train, tokenizer, label2id, args.batch, seed=epoch):
            key, draw = jax.random.split(key)
            params, state, loss = step(params, state, batch, draw)
            losses.append(loss)
        if epoch % 5 == 4 or epoch == args.epochs - 1:
            print(f"epoch {epoch + 1:3}  loss {float(jnp.mean(jnp.stack(losses))):.3f}", flush=True)
    right = total = 0
    for batch in batches(test, tokenizer, label2id, args.batch, seed=None):
        real = batch["labels"] != -100
        found = np.asarray(predict(params, batch["input_ids"], batch["attention_mask"]))
        right, total = right + int((found == batch["labels"])[real].sum()), total + int(real.sum())
    model.set_stacked(params)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"accuracy {right / total:.2f} on {total} texts (chance {1 / len(names):.2f}); saved to {args.out}")
    return right / total


if __name__ == "__main__":
    main()
