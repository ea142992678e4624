"""The loop of a fine-tuning: steps, scores, checkpoints and signals, whatever is learnt."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xlm.atomic import write_text
from xlm.errors import ConfigError, OutputError
from xlm.training.finetune_best import Scores, best_folder, keep_best
from xlm.training.finetune_model import kept
from xlm.training.outcome import Ended, stopped
from xlm.training.output import held
from xlm.training.recipe import changed_values
from xlm.training.report import Reporter
from xlm.training.runtime import Processes, Signals, processes
from xlm.training.state import Progress, checkpoint_folders, load_checkpoint, save_checkpoint
from xlm.training.steps import Cursor


@dataclass(frozen=True, kw_only=True)
class Outcome(Ended):
    """How a run ended; without a model, too, when it only checked its data.

    Attributes:
        scores: of the model on the evaluation files.
        epochs: how often the training examples were seen.
        alarms: what seemed wrong.
    """

    scores: dict[str, float]
    epochs: float
    alarms: list[str] = field(default_factory=list)


class Work:
    """Abstract: what a loop drives.

    Attributes:
        model, optimizer: whose state checkpoints keep; ``folder`` is where the tokenizer's files are.
        metric: the score that chooses the best model.
        every: steps between evaluations.
        steps: in all, as far as that is known.
        steps_an_epoch: to say how many epochs a run had.
        alarms: what seemed wrong so far.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    folder: Any
    metric: str
    every: int
    steps: int | None
    steps_an_epoch: float
    alarms: list[str]

    def step(self, number: int, done: float) -> tuple[dict[str, float], int]:
        """Step ``number`` at progress ``done``: its record, and the tokens of this process."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def done(self, progress: Progress) -> float:
        """Progress in [0, 1]."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def tell(self, record: dict[str, float], tokens: int, seconds: float, progress: Progress) -> None:
        """Take in the record of a step that was made."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def score(self, step: int) -> dict[str, float]:
        """The scores of the model as it is; empty where nothing is held out. The first process calls it."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def finish(self, chosen: tuple[int, dict[str, float]], step: int) -> Path:
        """The folder of the model of the ``chosen`` step, ``step`` being the last. The first process calls it."""
        raise TypeError(f"{type(self).__name__} is abstract")


@contextmanager
def opened(recipe: Any, resume: bool | None, quiet: bool) -> Iterator[tuple[Processes, Reporter, Path | None]]:
    """The processes, the reporter and the newest checkpoint of a recipe's output folder, which is locked meanwhile.

    Raises:
        ConfigError: there is no checkpoint where one is demanded.
        OutputError: the folder is no run's, or a finished one's and ``resume`` is None.
    """
    output = Path(recipe.output)
    with processes(recipe.device) as group, held(output, resume) if group.first else nullcontext():
        group.wait()
        found = checkpoint_folders(output)
        if resume and not found:
            raise ConfigError(f"{output}: there is no checkpoint to resume from")
        step = int(found[-1].name.removeprefix("step-")) if found else 0
        report = Reporter(output, step, quiet or not group.first, group.first)
        try:
            yield group, report, found[-1] if found else None
        finally:
            report.close()


def check_recipe(recipe: Any, checkpoint: Path | None) -> None:
    """A run goes on under its own recipe only. Raises ConfigError naming what was changed."""
    if checkpoint is None:
        return
    path = Path(recipe.output) / "recipe.json"
    try:
        before = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the run's recipe cannot be read: {error}") from error
    if changes := changed_values(before, recipe):
        raise ConfigError(
            f"{checkpoint} belongs to another recipe ({'; '.join(changes)}): restore the recipe, choose another "
            "output folder, or begin anew with --fresh"
        )


def conduct(
    recipe: Any,
    work: Callable[[Any, Reporter, Processes, bool], Work],
    *,
    resume: bool | None,
    quiet: bool,
    check: bool,
) -> Outcome:
    """Run a recipe, or with ``check`` only read and report on its data.

    Args:
        work: makes what the loop drives of recipe, reporter, processes and ``check``.
    """
    with opened(recipe, resume, quiet) as (group, report, checkpoint):
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        check_recipe(recipe, checkpoint)
        made = work(recipe, report, group, check)
        if check:
            ended = "its data were only checked"
            return Outcome(
                folder=None, scores={}, finished=True, step=0, epochs=0.0, seconds=0.0, alarms=made.alarms, ended=ended
            )
        return Loop(recipe, made, report, group, checkpoint).go()


class Loop:
    """One process's run of some work, from the beginning or from a checkpoint.

    Args:
        recipe: whose ``output``, ``patience``, ``checkpoint_minutes``, ``max_minutes`` and ``keep`` count here.
    """

    def __init__(
        self, recipe: Any, work: Work, report: Reporter, group: Processes, checkpoint: Path | None = None
    ) -> None:
        self.recipe, self.work, self.report, self.group = recipe, work, report, group
        self.output = Path(recipe.output)
        self.progress = Progress(world=group.world)
        # What was scored before stands in metrics.jsonl, up to the step of the checkpoint.
        before = [r for r in report.records if r["kind"] == "valid"] if checkpoint else []
        scored = [(r["step"], {n: v for n, v in r.items() if n not in ("step", "kind")}) for r in before]
        self.scores = Scores(work.metric, scored)
        # By another metric than before the best may be one whose weights are gone: those that are there can be chosen.
        if self.scores and not best_folder(self.output, self.scores.best()[0]).is_dir():
            there = [one for one in scored if best_folder(self.output, one[0]).is_dir()]
            self.scores = Scores(work.metric, there)
        self._scored_at: int = group.share(before[-1]["step"] if before else 0)
        self._saved_best = self.scores.best()[0] if self.scores else None
        if checkpoint:
            self.progress = load_checkpoint(checkpoint, kept(work.model), work.optimizer)
            self.progress.world = group.world
            report.tell(f"resumed from {checkpoint} at step {self.progress.cursor.step}")
        self.stop: str | None = None
        if group.first:
            text = json.dumps(dataclasses.asdict(recipe), indent=1, ensure_ascii=False)
            write_text(self.output / "recipe.json", text)

    @property
    def done(self) -> float:
        """Progress in [0, 1]."""
        return self.work.done(self.progress)

    def go(self) -> Outcome:
        """Train to the end or until asked to stop, evaluating and saving on the way."""
        started, saved_at, saved_step = time.monotonic(), self.progress.seconds, self.progress.cursor.step
        with Signals() as signals:
            self._evaluate_if_due()  # a run that was asked to stop at such a step saved only
            while self.done < 1.0 and self.stop is None and not self._patience_is_over():
                begun = time.monotonic()
                record, tokens = self.work.step(self.progress.cursor.step, self.done)
                tokens, seconds = self._agree(tokens, time.monotonic() - begun, time.monotonic() - started, signals)
                self.work.tell(record, tokens, seconds, self.progress)
                if self.stop is None:
                    self._evaluate_if_due()
                minutes = self.recipe.checkpoint_minutes
                if minutes and self.progress.seconds - saved_at >= 60 * minutes and self.stop is None:
                    saved_step, saved_at = self._save() or saved_step, self.progress.seconds
        step = self.progress.cursor.step
        finished = self.stop is None
        if not finished:
            if saved_step != step:
                self._save(last=True)
            self.report.tell(f"stopped at step {step} ({self.stop}); run again to go on")
        self.report.plot()
        folder = self._finish() if finished else None
        self.group.wait()  # the first process has drawn its curves
        scores = dict(self.scores.best()[1]) if self.scores else {}
        return Outcome(
            folder=folder,
            scores=scores,
            finished=finished,
            step=step,
            epochs=step / self.work.steps_an_epoch,
            seconds=self.progress.seconds,
            alarms=self.work.alarms,
            ended="" if finished else stopped(step, self.work.steps, str(self.stop), self.output),
        )

    def _agree(self, tokens: int, seconds: float, since_start: float, signals: Signals) -> tuple[int, float]:
        """Advance by one step. The processes agree on the tokens, the clock (both returned) and whether to stop."""
        (total,) = self.group.sum([tokens])
        limit = 60 * (self.recipe.max_minutes or float("inf"))
        seconds, asked, late = self.group.most([seconds, signals.asked is not None, since_start > limit])
        self.progress.cursor = Cursor(step=self.progress.cursor.step + 1)
        self.progress.tokens += int(total)
        self.progress.seconds += seconds
        if asked:
            self.stop = f"signal {signals.asked}" if signals.asked else "a signal to another process"
        elif late:
            self.stop = f"max_minutes = {self.recipe.max_minutes} is reached"
        return int(total), seconds

    def _patience_is_over(self) -> bool:
        patience, stale = self.recipe.patience, self.scores.since_best()
        if patience is None or stale < patience or self.done >= 1.0:
            return False
        self.report.tell(f"no better {self.scores.metric} for {stale} evaluations: stopped early")
        return True

    def _evaluate_if_due(self) -> None:
        """Score what is held out if this step is one for it and was not scored yet; record it, and keep the model if it
        is the best."""
        step, scores = self.progress.cursor.step, {}
        if step == self._scored_at or (step % self.work.every and self.done < 1.0):
            return
        self._scored_at = step
        if self.group.first:
            scores = self.work.score(step)
        scores = self.group.share(scores)
        if not scores:
            return
        again, best = bool(self.scores), self.scores.add(step, scores)
        if self.group.first:
            if best:  # before the record: what is recorded as the best is there
                keep_best(self.output, self.work.model, step, self._saved_best)
            self.report.record({"step": step, "kind": "valid", **scores})
            shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            self.report.tell(f"step {step}: {shown}{'  (best)' if best and again else ''}")
        self.group.wait()

    def _save(self, last: bool = False) -> int | None:
        """Checkpoint; a failure on the way is survived (the older checkpoint is intact) unless it is the last chance."""
        error: Exception | None = None
        if self.group.first:
            model, optimizer, folder = kept(self.work.model), self.work.optimizer, self.work.folder
            try:
                save_checkpoint(self.output, model, optimizer, self.progress, folder, self.recipe.keep)
            except (OSError, RuntimeError) as failure:  # torch.save reports a full disk as RuntimeError
                error = failure
        self.group.wait()
        if error and last:
            raise OutputError(f"{self.output}: the checkpoint could not be written: {error}") from error
        if error:
            self.report.tell(f"[yellow]checkpoint failed, training goes on: {error}")
            return None
        self._saved_best = self.scores.best()[0] if self.scores else None
        return self.progress.cursor.step

    def _finish(self) -> Path:
        """The best model in its folder."""
        if self.group.first:
            step = self.progress.cursor.step
            folder = self.work.finish(self.scores.best() if self.scores else (step, {}), step)
            self.report.tell(f"the model is in {folder}")
        self.group.wait()
        return self.output / "model"
