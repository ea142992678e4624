"""What finetune_flax.py and finetune_keras.py share: the rows of six tasks as arrays, and their scores.

No framework here: `xlm.tasks` makes rows of ids of examples, and answers of the head's scores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import answer
import choose
import language_model
import numpy as np
import tag

import xlm
from xlm.assets import DEMO_TEXTS, bundled_folder
from xlm.batches.masking import corrupt, eligible_tokens, ordinary_ids, select_per_sequence
from xlm.data.examples import read_examples
from xlm.tasks.answer import Answer
from xlm.tasks.base import Features, Scores, Task
from xlm.tasks.choose import Choose
from xlm.tasks.classify import Classify
from xlm.tasks.language import Fill, Generate
from xlm.tasks.tag import Tag

Arrays = dict[str, np.ndarray]
TASKS = ("classify", "tag", "answer", "choose", "fill", "generate")
HELD_OUT = ("German", "Russian", "Vietnamese")
EPOCHS = {"classify": 30, "tag": 10, "answer": 30, "choose": 20, "fill": 20, "generate": 20}
IGNORED = -100


def demo_rows() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Sentences and which they are of eight: in the languages to learn from, and in those to be tested in."""
    entries = tomllib.loads(DEMO_TEXTS.read_text("utf-8"))["same"]
    rows = [(name, {"text": t, "label": e["english"]}) for e in entries for name, t in e.items() if name != "shown"]
    return [row for name, row in rows if name not in HELD_OUT], [row for name, row in rows if name in HELD_OUT]


def _own_rows(kind: str) -> tuple[Sequence[Any], Sequence[Any]]:
    """Rows to learn from and to be tested on, where no files are given."""
    if kind == "classify":
        return demo_rows()
    given = {"tag": tag, "answer": answer, "choose": choose, "fill": language_model, "generate": language_model}
    rows = given[kind].ROWS
    return [row for n, row in enumerate(rows) if n % 5], rows[::5]


def options(description: str, dtypes: str, arguments: list[str] | None) -> argparse.Namespace:
    """The command line of both scripts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="classify")
    parser.add_argument("--model", help="a folder or hub name; the bundled model unless given")
    parser.add_argument("--train", help="a file as `xlm finetune` reads it (JSONL, CSV, CoNLL, SQuAD, text; .gz too)")
    parser.add_argument("--test", help="another one; the training file unless given")
    parser.add_argument("--limit", type=int, help="use so many examples of each file")
    parser.add_argument("--out", type=Path, default=Path("finetuned"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="the longest row")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--dtype", default="float32", help=dtypes)
    given = parser.parse_args(arguments)
    given.model = given.model or bundled_folder()
    given.epochs = given.epochs or EPOCHS[given.task]
    return given


@dataclass
class Job:
    """One task, its data and what a model for it needs.

    Attributes:
        head: how the names of the classes end that have the head.
        config: of the model, with labels or a causal mask.
        train, test: examples; ``features`` are the test examples as rows.
    """

    task: Task
    tokenizer: Any
    config: Any
    train: list[Any]
    test: list[Any]
    tokens: int
    features: Features

    @classmethod
    def of(cls, given: argparse.Namespace) -> Job:
        """The job that a command line describes."""
        train, test = _examples(given)
        kind: Any = {"answer": Answer, "choose": Choose, "fill": Fill, "generate": Generate}.get(given.task)
        task: Task = kind() if kind else (Classify.of(train) if given.task == "classify" else Tag.of(train))
        changed: dict[str, Any] = {"is_decoder": True} if given.task == "generate" else {}
        if task.labels:
            changed["id2label"] = dict(enumerate(task.labels))
        tokenizer = xlm.AutoTokenizer.from_pretrained(given.model)
        config = xlm.AutoConfig.from_pretrained(given.model, **changed)
        return cls(task, tokenizer, config, train, test, given.tokens, task.features(test, tokenizer, given.tokens))

    @property
    def head(self) -> str:
        """How the documented class ends."""
        return self.task.head

    def batch(self, size: int) -> int:
        """``size``, or all rows where there are fewer."""
        return min(size, len(self.training(0)[0]["input_ids"]))

    def training(self, seed: int) -> tuple[Arrays, Arrays]:
        """Inputs and targets of the training rows; ``seed`` masks tokens anew for ``fill``."""
        return self._arrays(self.task.features(self.train, self.tokenizer, self.tokens, training=True), seed)

    def testing(self) -> tuple[Arrays, Arrays]:
        """Inputs of the test rows, and targets where these make the inputs (``fill``, ``generate``)."""
        return self._arrays(self.features, 1_000_000)

    def _arrays(self, features: Features, seed: int) -> tuple[Arrays, Arrays]:
        rows = [row for item in features.items for row in item.rows]
        width, pad = max(len(row) for row in rows), self.tokenizer.pad_token_id
        ids, mask = np.full((len(rows), width), pad, np.int32), np.zeros((len(rows), width), np.int32)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        targets = [item.target for item in features.items]
        inputs = {"input_ids": ids, "attention_mask": mask}
        if isinstance(self.task, Fill):
            inputs["input_ids"], labels = self._masked(rows, ids, seed)
            return inputs, {"labels": labels}
        if isinstance(self.task, Generate):
            return inputs, {"labels": np.where(mask == 1, ids, IGNORED)}
        if isinstance(self.task, Choose):
            if len({len(item.rows) for item in features.items}) > 1:
                raise SystemExit("examples with different numbers of choices: give files where they are as many")
            inputs = {name: array.reshape(len(features.items), -1, width) for name, array in inputs.items()}
        if targets[0] is None:
            return inputs, {}
        if isinstance(self.task, Answer):
            starts, ends = np.array(targets, np.int32).T
            return inputs, {"start_positions": starts, "end_positions": ends}
        if isinstance(self.task, Tag):
            targets = [np.pad(t, (0, width - len(t)), constant_values=IGNORED) for t in targets]
        return inputs, {"labels": np.array(targets, np.int32)}

    def _masked(self, rows: list[Any], ids: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        special, draw = self.tokenizer.all_special_ids, np.random.default_rng(seed)
        flat = np.concatenate(rows)
        places = select_per_sequence(eligible_tokens(flat, special), [len(row) for row in rows], 0.15, draw)
        others = ordinary_ids(self.config.vocab_size, special)
        masked = corrupt(flat, places, self.tokenizer.mask_token_id, others, draw)
        labels = np.full(len(flat), IGNORED, np.int32)
        labels[masked.positions] = masked.targets
        real = ids != self.tokenizer.pad_token_id
        fed, wanted = ids.copy(), np.full_like(ids, IGNORED)
        fed[real], wanted[real] = masked.ids, labels
        return fed, wanted

    def evaluate(self, output: Mapping[str, Any]) -> dict[str, float]:
        """How good a model's output for all of :meth:`testing` is."""
        if isinstance(self.task, Answer):
            logits = np.stack([np.asarray(output["start_logits"]), np.asarray(output["end_logits"])], -1)
        else:
            logits = np.asarray(output["logits"])
        if isinstance(self.task, Fill | Generate):
            labels = self.testing()[1]["labels"]
            if isinstance(self.task, Generate):
                logits, labels = logits[:, :-1], labels[:, 1:]
            scores: list[Scores] = [_guesses(*pair) for pair in zip(logits, labels, strict=True)]
        else:
            scores = list(logits)
        return self.task.evaluate(self.test, self.task.answers(self.test, self.features, scores))


def _examples(given: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    if given.train:
        files = (given.train, given.test or given.train)
        train, test = (read_examples(f, given.task, limit=given.limit, max_bad=0.01).examples for f in files)
        return train, test
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, rows in enumerate(_own_rows(given.task)):
            path = Path(folder) / f"{number}.jsonl"
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
            found.append(read_examples(path, given.task, limit=given.limit).examples)
    return found[0], found[1]


def _guesses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Summed loss, right guesses and guesses of one row: logits (s, vocab), labels (s,)."""
    chosen = np.flatnonzero(labels != IGNORED)
    wide, wanted = logits[chosen].astype(np.float64), labels[chosen]
    wide -= wide.max(-1, keepdims=True)
    loss = np.log(np.exp(wide).sum(-1)) - wide[np.arange(len(chosen)), wanted]
    return np.array([loss.sum(), (wide.argmax(-1) == wanted).sum(), len(chosen)])
