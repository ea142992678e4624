"""What a run tells: a progress line, ``metrics.jsonl``, plots, TensorBoard where it is installed, and a last table.

A sink that fails (a full disk, a broken TensorBoard) is left out after one warning; training goes on.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from xlm.atomic import write_text
from xlm.training.evaluate import LanguageScore
from xlm.training.plots import write_plots

log = logging.getLogger("xlm.training")


class Reporter:
    """Collects records (dicts with ``step`` and ``kind``: ``train`` or ``valid``) and shows them on stderr."""

    def __init__(self, output: Path, start_step: int, quiet: bool = False, writes: bool = True) -> None:
        self.output, self._quiet, self._writes = output, quiet, writes
        self.console = Console(stderr=True, highlight=False)
        self.records = read_records(output / "metrics.jsonl", start_step)
        self._broken: set[str] = set()
        self._board: Any = None
        self._try("metrics.jsonl", self._rewrite)
        self._try("TensorBoard", self._open_board)
        if not quiet and sys.stderr.isatty():
            self._status = self.console.status("starting")
            self._status.start()
        else:
            self._status = None

    def _try(self, name: str, call, *arguments: Any) -> None:
        if name in self._broken or not self._writes:
            return
        try:
            call(*arguments)
        except ImportError:
            self._broken.add(name)
        except Exception as error:
            self._broken.add(name)
            log.warning("%s is left out from now on: %s", name, error)
            self.tell(f"[yellow]{name} is left out from now on: {error}")

    def _rewrite(self) -> None:
        write_text(self.output / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in self.records))

    def _open_board(self) -> None:
        # TensorBoard loads TensorFlow wherever it is installed, ten seconds and 400 MB for nothing: say there is none.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(
            str(self.output / "tensorboard"), purge_step=self.records[-1]["step"] + 1 if self.records else None
        )

    def tell(self, message: str) -> None:
        """One line on stderr."""
        if not self._quiet:
            self.console.print(message)

    def show(self, what: RenderableType) -> None:
        """A table or another block on stderr."""
        if not self._quiet:
            self.console.print(what)

    def record(self, record: dict[str, Any]) -> None:
        """Keep a record in every sink."""
        clean = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in record.items()}
        self.records.append(clean)
        self._try("metrics.jsonl", self._append, clean)
        if self._board is not None:
            self._try("TensorBoard", self._write_board, clean)

    def _append(self, record: Mapping[str, Any]) -> None:
        with (self.output / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _write_board(self, record: Mapping[str, Any]) -> None:
        for key, value in record.items():
            if isinstance(value, int | float) and key != "step":
                self._board.add_scalar(f"{record['kind']}/{key}", value, record["step"])
            elif isinstance(value, Mapping):
                for name, number in value.items():
                    for of, one in number.items() if isinstance(number, Mapping) else [("", number)]:
                        self._board.add_scalar(f"{key}/{name}/{of}".rstrip("/"), one, record["step"])

    def progress(self, record: Mapping[str, Any], done: float, seconds_left: float) -> None:
        """The progress line: losses, tokens a second, time left."""
        if self._quiet:
            return
        losses = "  ".join(f"{k.removeprefix('loss_')} {record[k]:.3f}" for k in record if k.startswith("loss_"))
        text = (
            f"step {record['step']}  {done:4.0%}  {losses}  lr {record['rate']:.2e}  grad {record['gradient']:.2f}  "
            f"{record['tokens_per_second']:,.0f} tokens/s  {clock(seconds_left)} left"
        )
        if self._status is not None:
            self._status.update(text)
        else:
            self.console.print(text, soft_wrap=True)

    def plot(self) -> None:
        """Write ``loss.png`` and ``report.html``."""
        self._try("loss.png", write_plots, self.records, self.output)

    def table(self, scores: Mapping[str, LanguageScore], retrieval: Mapping[str, float]) -> None:
        """The last table, on stderr."""
        if self._quiet or not scores:
            return
        table = Table(
            "language", "loss", "unigram", "top-1 %", "unigram %", "translation first %", title="held-out text"
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for language, s in scores.items():
            found = f"{100 * retrieval[language]:.0f}" if language in retrieval else ""
            row = [
                f"{s.loss:.2f}",
                f"{s.unigram_loss:.2f}",
                f"{100 * s.top1:.1f}",
                f"{100 * s.unigram_top1:.1f}",
                found,
            ]
            table.add_row(language, *row)
        self.console.print(table)

    def close(self) -> None:
        """End the progress line and flush what is buffered."""
        if self._status is not None:
            self._status.stop()
        if self._board is not None:
            self._try("TensorBoard", self._board.close)


def read_records(path: Path, up_to: int) -> list[dict[str, Any]]:
    """The records of an earlier part of the run, up to step ``up_to``; a torn last line is dropped."""
    records: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text("utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("step", 0) <= up_to:
                records.append(record)
    return records


def clock(seconds: float) -> str:
    """``1:02:03``, ``2:03`` or ``?``."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
