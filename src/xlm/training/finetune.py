"""Fine-tuning: from labelled files to a model folder with its scores, to be stopped and resumed at any time.

    outcome = xlm.finetune("classify", train="train.jsonl", eval="dev.jsonl")
    xlm.load(outcome.model).classify(["a text"])

The loop is that of pretraining: packed rows without padding, the fused operations, checkpoints that resume bit for bit,
one process or ``torchrun``, the same metrics, curves and signals.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xlm.errors import CheckpointError, ConfigError, OutputError
from xlm.families.auto import AutoConfig
from xlm.families.registry import family_of
from xlm.tokenizers import AutoTokenizer
from xlm.training import finetune_alarms as alarms
from xlm.training.files import run_lock, write_text_atomic
from xlm.training.finetune_best import Scores, finish, keep_best
from xlm.training.finetune_data import prepare
from xlm.training.finetune_model import folder_of, kept
from xlm.training.finetune_recipe import FineTune, changed, make_recipe
from xlm.training.finetune_trainer import FineTuner
from xlm.training.finetune_watch import Watch
from xlm.training.pretrain import EXIT_STOPPED, set_aside
from xlm.training.report import Reporter
from xlm.training.runtime import Processes, Signals, processes
from xlm.training.state import Progress, checkpoint_folders, load_checkpoint, save_checkpoint
from xlm.training.steps import Cursor

__all__ = ["EXIT_STOPPED", "Outcome", "describe", "finetune", "run"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: the finished model's; None when the run was stopped early, or only checked its data.
        scores: of that model on the evaluation files.
        finished: False when a signal or ``max_minutes`` ended the run; the same call goes on.
        step, epochs, seconds: how far it went, and how long it trained.
        alarms: what seemed wrong.
        ended: why there is no model, where there is none.
    """

    folder: Path | None
    scores: dict[str, float]
    finished: bool
    step: int
    epochs: float
    seconds: float
    alarms: list[str] = field(default_factory=list)
    ended: str = ""

    @property
    def model(self) -> Path:
        """The finished model's folder, for :func:`xlm.load`. Raises CheckpointError where there is none."""
        if self.folder is None:
            raise CheckpointError(f"this run has no model: {self.ended}")
        return self.folder


def finetune(
    task: str,
    model: str | Path | None = None,
    *,
    train: Any,
    eval: Any = None,
    output: str | Path = "runs/finetune",
    resume: bool | None = None,
    quiet: bool = False,
    **fields: Any,
) -> Outcome:
    """Fine-tune a model for a task.

    Args:
        task: ``classify``, ``tag``, ``answer``, ``choose``, ``embed``, ``rerank``, ``fill`` or ``generate``.
        model: a folder, or a name on the hub; None: the model in the package.
        train, eval: a file or several (JSONL, CSV, TSV, CoNLL, SQuAD, Parquet, ``hub:NAME:CONFIG:SPLIT``).
        output: the run's folder; the model is written to ``model`` in it.
        resume: None goes on from the newest checkpoint if there is one, True demands one, False begins anew.
        quiet: no progress on stderr.
        fields: every other field of :class:`xlm.training.finetune_recipe.FineTune`, nested ones as mappings.

    Raises:
        ConfigError, DataError, InputError, CheckpointError, OutputError: see there; each names what is wrong and where.
        NonFiniteLoss: a loss or gradient is not finite; the weights of the last checkpoint are intact.
    """
    values = {"task": task, "train": train, "output": str(output), **fields}
    values |= {} if model is None else {"model": str(model)}
    values |= {} if eval is None else {"eval": eval}
    return run(make_recipe(values), resume=resume, quiet=quiet)


def run(recipe: FineTune, *, resume: bool | None = None, quiet: bool = False, check: bool = False) -> Outcome:
    """Run a recipe; with ``check`` only read and report on its data."""
    output = Path(recipe.output)
    with processes(recipe.device) as group, run_lock(output) if group.first else nullcontext():
        if resume is False and group.first:
            set_aside(output)
            shutil.rmtree(output / "best", ignore_errors=True)
        group.wait()
        found = checkpoint_folders(output)
        if resume and not found:
            raise ConfigError(f"{output}: there is no checkpoint to resume from")
        step = int(found[-1].name.removeprefix("step-")) if found else 0
        report = Reporter(output, step, quiet or not group.first, group.first)
        try:
            made = _Run(recipe, output, found[-1] if found else None, report, group, check)
            if check:
                return Outcome(None, {}, True, 0, 0.0, 0.0, made.watch.alarms, "its data were only checked")
            return made.go()
        finally:
            report.close()


class _Run:
    """One process's training: the parts, and the loop over them."""

    def __init__(
        self,
        recipe: FineTune,
        output: Path,
        checkpoint: Path | None,
        report: Reporter,
        group: Processes,
        check: bool,
    ) -> None:
        self.recipe, self.output, self.report, self.group = recipe, output, report, group
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        if checkpoint:
            self._check_recipe(checkpoint)
        self.watch = Watch(recipe, report)
        self.folder = folder_of(recipe)
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        config = AutoConfig.from_pretrained(self.folder)
        limit = family_of(config).spec(config).max_tokens
        self.data = prepare(recipe, tokenizer, limit, output if group.first else None)
        self.watch.data(self.data, min(recipe.data.max_tokens, limit), output if group.first else None, check)
        if check:
            return
        self.tuner = FineTuner(recipe, self.data, self.folder, tokenizer, group)
        self.plan, self.model = self.tuner.plan, self.tuner.model
        self.every = max(round(self.plan.steps_an_epoch / recipe.evaluations), 1)
        report.tell(str(self.tuner))
        self.progress = Progress(world=group.world)
        # What was scored before stands in metrics.jsonl, up to the step of the checkpoint.
        before = [r for r in report.records if r["kind"] == "valid"] if checkpoint else []
        scored = [(r["step"], {n: v for n, v in r.items() if n not in ("step", "kind")}) for r in before]
        self.scores = Scores(recipe.metric or self.data.task.metric, scored)
        if checkpoint:
            self.progress = load_checkpoint(checkpoint, kept(self.model), self.tuner.optimizer)
            self.progress.world = group.world
            report.tell(f"resumed from {checkpoint} at step {self.progress.cursor.step}")
        self.stop: str | None = None
        if group.first:
            text = json.dumps(dataclasses.asdict(recipe), indent=1, ensure_ascii=False)
            write_text_atomic(output / "recipe.json", text)

    def _check_recipe(self, checkpoint: Path) -> None:
        """A run goes on under its own recipe only. Raises ConfigError naming what was changed."""
        try:
            before = json.loads((self.output / "recipe.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.output / 'recipe.json'}: the run's recipe cannot be read: {error}") from error
        if changes := changed(before, self.recipe):
            raise ConfigError(
                f"{checkpoint} belongs to another recipe ({'; '.join(changes)}): restore the recipe, choose another "
                "output folder, or begin anew with --fresh"
            )

    @property
    def done(self) -> float:
        """Progress in [0, 1]."""
        return self.plan.done(self.progress.cursor.step)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def go(self) -> Outcome:
        """Train to the end or until asked to stop, evaluating and saving on the way."""
        started, saved_at, saved_step = time.monotonic(), self.progress.seconds, self.progress.cursor.step
        with Signals() as signals:
            while self.done < 1.0 and self.stop is None and not self._patience_is_over():
                begun = time.monotonic()
                record, tokens = self.tuner.step(self.progress.cursor.step)
                tokens, seconds = self._agree(tokens, time.monotonic() - begun, time.monotonic() - started, signals)
                rate = self.tuner.optimizer.param_groups[-1]["lr"]
                self.watch.step(record, tokens, seconds, self.progress, self.plan, rate)
                step = self.progress.cursor.step
                if self.stop is None and (step % self.every == 0 or self.done >= 1.0):
                    self._evaluate()
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
        scores = dict(self.scores.best()[1]) if self.scores else {}
        ended = f"it was stopped at step {step} of {self.plan.steps} ({self.stop}) and saved in {self.output}"
        ended = "" if finished else f"{ended}: the same call goes on from there"
        epochs = step / self.plan.steps_an_epoch
        return Outcome(folder, scores, finished, step, epochs, self.progress.seconds, self.watch.alarms, ended)

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

    # -- scores and files ---------------------------------------------------------------------------------------------

    def _patience_is_over(self) -> bool:
        patience, stale = self.recipe.patience, self.scores.since_best()
        if patience is None or stale < patience or self.done >= 1.0:
            return False
        self.report.tell(f"no better {self.scores.metric} for {stale} evaluations: stopped early")
        return True

    def _evaluate(self) -> None:
        """Score the evaluation files, record it, and keep the model if it is the best."""
        if self.data.held_out is None:
            return
        values: list[float] = []
        names: list[str] = []
        if self.group.first:
            examples, task = self.data.held_out.examples, self.data.task
            answers = self.tuner.answers()
            scores = task.evaluate(examples, answers)
            if self.scores.metric not in scores:
                raise ConfigError(f"metric is {self.scores.metric!r}: {task.name} is scored by {', '.join(scores)}")
            names, values = list(scores), list(scores.values())
            self.watch.alarm(alarms.relabelled(task, examples, answers), self.progress.cursor.step)
        if self.group.world > 1:
            names, values = self.group.share((names, values))
        scores = dict(zip(names, values, strict=True))
        step = self.progress.cursor.step
        again, best = bool(self.scores), self.scores.add(step, scores)
        if self.group.first:
            self.report.record({"step": step, "kind": "valid", **scores})
            shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            self.report.tell(f"step {step}: {shown}{'  (best)' if best and again else ''}")
            if best:
                keep_best(self.output, self.model)
        self.group.wait()

    def _save(self, last: bool = False) -> int | None:
        """Checkpoint; a failure on the way is survived (the older checkpoint is intact) unless it is the last chance."""
        error: Exception | None = None
        if self.group.first:
            try:
                save_checkpoint(
                    self.output, kept(self.model), self.tuner.optimizer, self.progress, self.folder, self.recipe.keep
                )
            except (OSError, RuntimeError) as failure:  # torch.save reports a full disk as RuntimeError
                error = failure
        self.group.wait()
        if error and last:
            raise OutputError(f"{self.output}: the checkpoint could not be written: {error}") from error
        if error:
            self.report.tell(f"[yellow]checkpoint failed, training goes on: {error}")
            return None
        return self.progress.cursor.step

    def _finish(self) -> Path:
        """The best model in its folder."""
        if self.group.first:
            step = self.progress.cursor.step
            chosen = self.scores.best() if self.scores else (step, {})
            folder = finish(
                self.recipe, self.data, self.model, self.folder, self.tuner.rate, chosen, step, self.watch.alarms
            )
            self.report.tell(f"the model is in {folder}")
        self.group.wait()
        return self.output / "model"


def describe(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain values; ``model`` is None where there is none."""
    values = dataclasses.asdict(outcome)
    folder = values.pop("folder")
    return {"model": None if folder is None else str(folder), **values}
