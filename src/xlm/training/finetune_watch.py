"""What a fine-tuning tells on its way: what its data are, the means of its steps, and alarms, each of them once."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.markup import escape

from xlm.atomic import write_text
from xlm.errors import ConfigError, InputError
from xlm.tasks.language import LanguageTask
from xlm.training import finetune_alarms as alarms
from xlm.training.finetune_data import Prepared, report_record, report_table
from xlm.training.finetune_recipe import FineTune
from xlm.training.finetune_steps import Plan
from xlm.training.report import Reporter
from xlm.training.state import Progress

_RECENT = 50  # steps whose mean loss says whether anything is learnt


class Watch:
    """Sees every step of a run, records it, and sounds the alarms of :mod:`xlm.training.finetune_alarms`.

    Attributes:
        alarms: what seemed wrong so far.
    """

    def __init__(self, recipe: FineTune, report: Reporter) -> None:
        self.alarms: list[str] = []
        self._recipe, self._report = recipe, report
        self._recent: list[float] = []
        self._new_window()

    def alarm(self, message: str | None, step: int) -> None:
        """Tell an alarm once. Raises ConfigError where the recipe says that a run stops there."""
        kind = (message or "").partition(":")[0]
        if message is None or any(old.startswith(kind) for old in self.alarms):
            return
        self.alarms.append(message)
        self._report.record({"step": step, "kind": "alarm", "message": message})
        self._report.tell(f"[bold red]alarm[/] {escape(message)}")
        if self._recipe.on_alarm == "stop":
            raise ConfigError(f"stopped by an alarm (on_alarm is stop): {message}")

    def data(self, data: Prepared, max_tokens: int, output: Path | None, check: bool) -> None:
        """Tell what the data are, in ``data.json`` too where there is an output folder; rows hold ``max_tokens``."""
        self._task = data.task
        self._guess = alarms.guessing_loss(data.task, data.train.examples)
        if output is not None:
            write_text(output / "data.json", json.dumps(report_record(data), indent=1, ensure_ascii=False))
        report = self._report
        report.show(report_table(data))
        for name, loaded in (("train", data.train), ("eval", data.held_out)):
            for note in loaded.notes if loaded else ():
                report.tell(f"{name}: {escape(note)}")
            if loaded and loaded.bad:
                path = report.output / f"quarantine-{name}.jsonl"
                report.tell(f"[yellow]{name}: {len(loaded.bad):,} rows cannot be used: they are in {path}")
            if loaded and loaded.repaired:
                report.tell(f"{name}: {loaded.repaired:,} sentences with an I- that continued nothing: read as B-")
        if data.held_out is None and not check:
            report.tell("[yellow]no evaluation files: the model of the last step is kept, nothing is scored")
        if data.held_out is not None:
            self.alarm(alarms.overlap(data.train.examples, data.held_out.examples), 0)
        self.alarm(alarms.alike(data.task.labels), 0)
        self.alarm(alarms.rare(data.task, data.train.examples), 0)
        self.alarm(alarms.unknown({name: part.unknown for name, part in data.report["train"].items()}), 0)
        self.alarm(alarms.truncated(data.truncated(), self._recipe.max_truncated, max_tokens), 0)

    def languages(self, examples: Sequence[Any], answers: Sequence[Any], step: int) -> None:
        """Score every language of the evaluation set by itself, where it has several; rows of running text have none."""
        of_language: dict[str, list[int]] = defaultdict(list)
        for number, example in enumerate(examples):
            of_language[example.language or "?"].append(number)
        if isinstance(self._task, LanguageTask) or len(of_language) < 2:
            return
        found: dict[str, dict[str, float]] = {}
        for language, members in sorted(of_language.items()):
            with suppress(InputError):  # a language may have no query whose documents can be ranked
                found[language] = self._task.evaluate([examples[n] for n in members], [answers[n] for n in members])
        self._report.record({"step": step, "kind": "languages", "languages": found})
        shown = "  ".join(f"{language} {scores[self._task.metric]:.4g}" for language, scores in found.items())
        self._report.tell(f"step {step}: {self._task.metric} by language: {shown}")

    def by_language(self, step: int) -> dict[str, dict[str, float]]:
        """The scores of :meth:`languages` at a step, by language."""
        there = (one for one in self._report.records if one["kind"] == "languages" and one["step"] == step)
        return next(there, {}).get("languages", {})

    def step(
        self, record: dict[str, float], tokens: int, seconds: float, progress: Progress, plan: Plan, rate: float
    ) -> None:
        """Take in a step; every ``log`` of them record the means, and look whether the loss is stuck."""
        for name, value in record.items():
            self._window[name].append(value)
        self._tokens += tokens
        self._seconds += seconds
        self._recent = [*self._recent, record[f"loss_{self._task.name}"]][-_RECENT:]
        step, done = progress.cursor.step, plan.done(progress.cursor.step)
        if step % self._recipe.log and done < 1.0:
            return
        entry: dict[str, Any] = {"step": step, "kind": "train", "epoch": round(step / plan.steps_an_epoch, 3)}
        entry |= {name: sum(values) / len(values) for name, values in sorted(self._window.items())}
        entry["rate"] = rate
        entry["tokens_per_second"] = self._tokens / max(self._seconds, 1e-9)
        self._new_window()
        self._report.record(entry)
        self._report.progress(entry, done, progress.seconds * (1 - done) / done if done else float("inf"))
        if len(self._recent) >= 20 and self._recipe.class_weights == "none":
            warmup = self._recipe.schedule(plan.steps).warmup
            mean = sum(self._recent) / len(self._recent)
            classes = len(self._task.labels) or round(math.exp(self._guess or 0.0))
            share = warmup if warmup < 1 else warmup / plan.steps
            self.alarm(alarms.stuck(mean, self._guess, done, share, classes), step)

    def _new_window(self) -> None:
        self._window: dict[str, list[float]] = defaultdict(list)
        self._tokens, self._seconds = 0, 0.0
