"""The pretraining loop: everything a recipe says, from text files to a model folder, to be stopped and resumed at any time.

Under ``torchrun`` every process takes its share of a step's micro-batches; the first one writes and talks.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xlm.atomic import write_text
from xlm.data.vocabulary import load_vocabulary
from xlm.errors import ConfigError, OutputError
from xlm.folders import atomic_folder
from xlm.training.building import language_ids, make_model, open_corpus
from xlm.training.evaluate import LanguageScore, Validation, summary
from xlm.training.optim import rate_factor
from xlm.training.outcome import Ended, stopped
from xlm.training.output import check_finished, run_lock, set_aside
from xlm.training.recipe import Recipe, changed_fields
from xlm.training.report import Reporter
from xlm.training.runtime import Processes, Signals, choose_device, processes, use_bf16
from xlm.training.sharding import whole_model
from xlm.training.state import Progress, checkpoint_folders, load_checkpoint, save_checkpoint, save_model
from xlm.training.steps import Cursor, MicroBatch, StepBuilder
from xlm.training.trainer import Trainer
from xlm.training.watchdog import Watchdog

# A signal or max_minutes ended the run early; it is saved and can be resumed (EX_TEMPFAIL of sysexits.h: try again).
EXIT_STOPPED = 75


@dataclass(frozen=True, kw_only=True)
class Outcome(Ended):
    """How a run ended, how many tokens it read, and the last scores."""

    tokens: int
    scores: dict[str, LanguageScore]
    retrieval: dict[str, float]


def pretrain(recipe: Recipe, *, resume: bool | None = None, quiet: bool = False) -> Outcome:
    """Run a recipe. ``resume`` None goes on from the newest checkpoint if there is one, True demands one, False sets
    an earlier run aside (in ``previous-N`` of the output folder) and begins anew.

    Raises ``ConfigError``, ``DataError``, ``CheckpointError``, ``OutputError`` and ``NonFiniteLoss``, see there.
    """
    output = Path(recipe.output)
    with processes(recipe.device) as group, run_lock(output) if group.first else nullcontext():
        if resume is False and group.first:
            set_aside(output)
        if group.first:
            check_finished(output, resume)
        group.wait()
        found = checkpoint_folders(output)
        if resume and not found:
            raise ConfigError(f"{output}: there is no checkpoint to resume from")
        report = Reporter(output, _step_of(found), quiet or not group.first, group.first)
        try:
            return _Run(recipe, output, found[-1] if found else None, report, group).go()
        finally:
            report.close()


def _step_of(folders: list[Path]) -> int:
    return int(folders[-1].name.removeprefix("step-")) if folders else 0


class _Run:
    """One process's training: the parts, and the loop over them."""

    def __init__(
        self, recipe: Recipe, output: Path, checkpoint: Path | None, report: Reporter, group: Processes
    ) -> None:
        self.recipe, self.output, self.report, self.group = recipe, output, report, group
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self.device = choose_device(recipe.device)
        bf16 = use_bf16(recipe.precision, self.device)
        if checkpoint:
            self._check_recipe(checkpoint)
        self.vocabulary = load_vocabulary(recipe.path(recipe.tokenizer))
        report.tell("reading text")
        if not group.first:
            group.wait()  # the first process builds the token stores, the others find them
        corpus = open_corpus(recipe, self.vocabulary, output, lambda message: None)
        if group.first:
            group.wait()
        report.tell(str(corpus))
        if checkpoint:
            self._check_data(checkpoint, corpus.fingerprints())
        languages = language_ids(recipe, corpus.languages(recipe.data.pivot))
        self.builder = StepBuilder(recipe, self.vocabulary, corpus.texts, corpus.pairs, languages)
        self.validation = Validation(self.builder, self.vocabulary, corpus.valid, corpus.texts, corpus.held_out)
        probabilities = self.builder.text_probabilities
        self.model = make_model(recipe, self.vocabulary, corpus, languages, probabilities, checkpoint is None)
        if self.model.spec.num_languages and (unknown := sorted(corpus.valid.keys() - languages.keys())):
            report.tell(f"[yellow]held-out text of {', '.join(unknown)} is not scored: it is not trained on")
        self.model.train()
        if recipe.parallel == "replicate" or group.world == 1:
            self.model.to(self.device)  # one that will be cut goes there layer by layer
        size = sum(parameter.numel() for parameter in self.model.parameters())
        where = f"{self.device}" if group.world == 1 else f"{group.world} x {self.device.type}"
        report.tell(f"{type(self.model).__name__}: {size:,} parameters, {'bf16' if bf16 else 'fp32'} on {where}")
        self.trainer = Trainer(recipe, self.model, self.device, bf16, group, output, report.tell)
        self.progress = Progress(world=group.world)
        if checkpoint:
            self.progress = load_checkpoint(checkpoint, self.model, self.trainer.optimizer)
            report.tell(f"resumed from {checkpoint} at step {self.progress.cursor.step}")
            if self.progress.world != group.world:
                report.tell(
                    f"[yellow]{group.world} processes go on where {self.progress.world} stopped: the order of the data "
                    "is the same; contrastive candidates and, without batch.micro_tokens, masks are others"
                )
                self.progress.world = group.world
        self.stop: str | None = None
        self._new_window()
        if group.first:
            known = dataclasses.asdict(recipe) | {"stores": corpus.fingerprints()}
            write_text(output / "recipe.json", json.dumps(known, indent=1, ensure_ascii=False))

    def _check_recipe(self, checkpoint: Path) -> None:
        """A run goes on under its own recipe only.

        Raises ``ConfigError`` naming the fields that decide the weights and were changed.
        """
        try:
            before = json.loads((self.output / "recipe.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.output / 'recipe.json'}: the run's recipe cannot be read: {error}") from error
        if changes := changed_fields(before, self.recipe):
            raise ConfigError(
                f"{checkpoint} belongs to another recipe ({'; '.join(changes)}): restore the recipe, choose another "
                "output folder, or begin anew with --fresh"
            )

    def _check_data(self, checkpoint: Path, now: dict[str, str]) -> None:
        """A run goes on over its own text only.

        Raises ``ConfigError`` naming the languages whose text or pairs are not what they were.
        """
        before = json.loads((self.output / "recipe.json").read_text("utf-8")).get("stores", now)
        if changed := sorted(name for name in before | now if before.get(name) != now.get(name)):
            raise ConfigError(
                f"{checkpoint} was trained on other data: {', '.join(changed)} changed, came or went. Restore the files, "
                "choose another output folder, or begin anew with --fresh"
            )

    @property
    def done(self) -> float:
        """Progress in [0, 1]."""
        schedule = self.recipe.schedule
        if schedule.steps is not None:
            return min(self.progress.cursor.step / schedule.steps, 1.0)
        return min(self.progress.seconds / (60 * (schedule.minutes or 1.0)), 1.0)

    def go(self) -> Outcome:
        """Train to the end or until asked to stop, evaluating and saving on the way."""
        every, started = self.recipe.every, time.monotonic()
        saved_at = checked_at = self.progress.seconds
        saved_step = self.progress.cursor.step
        watchdog = Watchdog(every.stall_seconds, self.output, self.group.rank, self.report.tell)
        with Signals() as signals, watchdog, ThreadPoolExecutor(1) as pool:
            pending = self._submit(pool, self.progress.cursor, self.done)
            while self.done < 1.0 and self.stop is None:
                begun = time.monotonic()
                future, cursor, planned = pending
                watchdog.at(f"step {cursor.step}: waiting for its data")
                micros = future.result()
                following = self.builder.advance(cursor, planned)
                steps = self.recipe.schedule.steps
                pending = self._submit(pool, following, following.step / steps if steps else self.done)
                rate = self.recipe.optimizer.learning_rate
                rate *= rate_factor(self.recipe.schedule, cursor.step, self.done)
                record = self.trainer.step(cursor.step, rate, micros, watchdog.at)
                self._agree(following, micros, time.monotonic() - begun, time.monotonic() - started, signals)
                self._log(record)
                step, seconds = following.step, self.progress.seconds
                if self.done < 1.0 and self.stop is None:
                    if _due(step, every.evaluate, seconds, checked_at, every.evaluate_minutes):
                        watchdog.at(f"step {step}: evaluation")
                        self.evaluate()
                        checked_at = seconds
                    if _due(step, every.checkpoint, seconds, saved_at, every.checkpoint_minutes):
                        watchdog.at(f"step {step}: checkpoint")
                        saved_step = self._save() or saved_step
                        saved_at = seconds
            pending[0].cancel()
        finished = self.done >= 1.0
        if saved_step != self.progress.cursor.step:
            self._save(last=True)
        if not finished:
            self.report.tell(f"stopped at step {self.progress.cursor.step} ({self.stop}); run again to go on")
        scores, retrieval = self.evaluate() if finished else ({}, {})
        folder = self._finish() if finished else None
        self.report.plot()
        self.report.table(scores, retrieval)
        self.group.wait()  # the first process has drawn its curves
        progress = self.progress
        step = progress.cursor.step
        return Outcome(
            folder=folder,
            finished=finished,
            step=step,
            tokens=progress.tokens,
            seconds=progress.seconds,
            scores=scores,
            retrieval=retrieval,
            ended="" if finished else stopped(step, self.recipe.schedule.steps, str(self.stop), self.output),
        )

    def _submit(
        self, pool: ThreadPoolExecutor, cursor: Cursor, done: float
    ) -> tuple[Future[list[MicroBatch]], Cursor, float]:
        """Let the loader thread build the step at ``cursor`` while this one computes."""
        cursor = cursor.enter(self.builder.phase_at(done))
        return pool.submit(self.builder.build, cursor, done, self.group.rank, self.group.world), cursor, done

    def _agree(
        self, cursor: Cursor, micros: list[MicroBatch], seconds: float, since_start: float, signals: Signals
    ) -> None:
        """Advance by one step. The processes agree on the tokens, the clock and whether to stop."""
        (tokens,) = self.group.sum([sum(len(micro.ids) for micro in micros)])
        limit = 60 * (self.recipe.max_minutes or float("inf"))
        seconds, asked, late = self.group.most([seconds, signals.asked is not None, since_start > limit])
        self.progress.cursor = cursor
        self.progress.tokens += int(tokens)
        self.progress.seconds += seconds
        self._window_tokens += int(tokens)
        self._window_seconds += seconds
        if asked:
            self.stop = f"signal {signals.asked}" if signals.asked else "a signal to another process"
        elif late:
            self.stop = f"max_minutes = {self.recipe.max_minutes} is reached"

    def _log(self, record: dict[str, float]) -> None:
        """Record the means since the last record; steps may differ in what they trained."""
        step = self.progress.cursor.step
        for name, value in record.items():
            self._window[name].append(value)
        if step % self.recipe.every.log and self.done < 1.0:
            return
        entry: dict[str, Any] = {"step": step, "kind": "train", "tokens": self.progress.tokens}
        entry["minutes"] = self.progress.seconds / 60
        entry |= {name: sum(values) / len(values) for name, values in sorted(self._window.items())}
        entry["rate"] = self.trainer.optimizer.param_groups[-1]["lr"]
        entry["tokens_per_second"] = self._window_tokens / self._window_seconds
        self._new_window()
        self.report.record(entry)
        done = self.done
        self.report.progress(entry, done, self.progress.seconds * (1 - done) / done if done else float("inf"))

    def _new_window(self) -> None:
        self._window: dict[str, list[float]] = defaultdict(list)
        self._window_tokens, self._window_seconds = 0, 0.0

    def evaluate(self) -> tuple[dict[str, LanguageScore], dict[str, float]]:
        """Held-out scores, recorded."""
        if not self.group.first and not self.trainer.sharded:
            self.group.wait()
            return {}, {}
        self.model.eval()
        scores = self.validation.masked_scores(self.model, self.device)
        retrieval = self.validation.retrieval_scores(self.model, self.device)
        self.model.train()
        self.group.wait()
        if not self.group.first:
            return {}, {}
        if scores or retrieval:
            measured, text = summary(scores, retrieval)
            entry = {"step": self.progress.cursor.step, "kind": "valid", "tokens": self.progress.tokens}
            self.report.record(entry | {"minutes": self.progress.seconds / 60} | measured)
            self.report.plot()
            self.report.tell(f"step {entry['step']}: {text}")
        return scores, retrieval

    def _save(self, last: bool = False) -> int | None:
        """Checkpoint; a failure on the way is survived (the older checkpoint is intact) unless it is the last chance."""
        error: Exception | None = None
        try:
            folder, keep = self.vocabulary.folder, self.recipe.every.keep
            save_checkpoint(self.output, self.model, self.trainer.optimizer, self.progress, folder, keep, self.group)
        except (OSError, RuntimeError) as failure:  # torch.save reports a full disk as RuntimeError
            error = failure
        self.group.wait()
        if error and last:
            raise OutputError(
                f"{self.output}: the checkpoint could not be written; earlier ones are intact: {error}"
            ) from error
        if error:
            self.report.tell(
                f"[yellow]checkpoint at step {self.progress.cursor.step} failed, training goes on: {error}"
            )
            return None
        return self.progress.cursor.step

    def _finish(self) -> Path:
        """The finished model as a folder of its own, replacing an earlier one at once."""
        folder = self.output / "model"
        model = whole_model(self.model, self.group.first) if self.trainer.sharded else self.model
        if self.group.first:
            with atomic_folder(folder) as temporary:
                save_model(temporary, model, self.vocabulary.folder)
        self.group.wait()
        return folder


def _due(step: int, steps: int, seconds: float, last: float, minutes: float) -> bool:
    return bool(steps and step % steps == 0) or bool(minutes and seconds - last >= 60 * minutes)
