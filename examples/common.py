"""What the examples share: their options, and rows written to a file where none is given."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any


def options(description: str, rows: list[dict[str, Any]], arguments: list[str] | None = None) -> dict[str, Any]:
    """Keyword arguments of ``xlm.finetune`` from the command line; without files the ``rows`` are written to one."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--train", nargs="*")
    parser.add_argument("--eval", nargs="*")
    parser.add_argument("--model", help="a folder, or a name on the hub; default: the bundled model")
    parser.add_argument("--output", default=None)
    parser.add_argument("--epochs", type=float, default=10.0)
    given = parser.parse_args(arguments)
    folder = Path(given.output or tempfile.mkdtemp())
    if not given.train:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        given.train = given.eval = [str(path)]
    return {
        "model": given.model,
        "train": given.train,
        "eval": given.eval or None,
        "output": folder / "run",
        "epochs": given.epochs,
        "batch": 4 if given.train[0].endswith("rows.jsonl") else 32,
        "quiet": True,
    }
