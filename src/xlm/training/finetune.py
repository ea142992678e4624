"""Fine-tuning: from labelled files to a model folder with its scores, to be stopped and resumed at any time.

    outcome = xlm.finetune("classify", train="train.jsonl", eval="dev.jsonl")
    xlm.load(outcome.model).classify(["a text"])

The loop is that of pretraining: packed rows without padding, the fused operations, checkpoints that resume bit for bit,
one process or ``torchrun``, the same metrics, curves and signals.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xlm.data.random import torch_seed
from xlm.errors import ConfigError, OutputError
from xlm.tokenizers import AutoTokenizer
from xlm.training import finetune_alarms as alarms
from xlm.training.cpu import make_fast
from xlm.training.files import atomic_folder, run_lock, write_text_atomic
from xlm.training.finetune_card import write_card
from xlm.training.finetune_data import class_weights, prepare, report_record, report_table
from xlm.training.finetune_loss import Head
from xlm.training.finetune_model import build_optimizer, folder_of, kept, learning_rate, make_model
from xlm.training.finetune_recipe import FineTune, changed, make_recipe
from xlm.training.finetune_steps import Packed, Plan, by_tokens
from xlm.training.fused import retire_gradient
from xlm.training.optim import clip_gradients, gradient_norm, rate_factor, set_rate
from xlm.training.pretrain import EXIT_STOPPED, set_aside
from xlm.training.report import Reporter
from xlm.training.runtime import Processes, Signals, choose_device, processes, use_bf16
from xlm.training.state import Progress, checkpoint_folders, load_checkpoint, save_checkpoint, save_model
from xlm.training.steps import Cursor
from xlm.training.trainer import NonFiniteLoss

__all__ = ["EXIT_STOPPED", "Outcome", "describe", "finetune", "run"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        model: the finished model's folder, for :func:`xlm.load`; None when the run was stopped early.
        scores: of that model on the evaluation files.
        finished: False when a signal or ``max_minutes`` ended the run; the same call goes on.
        step, epochs, seconds: how far it went, and how long it trained.
        alarms: what seemed wrong.
    """

    model: Path | None
    scores: dict[str, float]
    finished: bool
    step: int
    epochs: float
    seconds: float
    alarms: list[str] = field(default_factory=list)


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
            return Outcome(None, {}, True, 0, 0.0, 0.0, made.alarms) if check else made.go()
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
        self.alarms: list[str] = []
        self.folder = folder_of(recipe)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self._load(check)
        if check:
            return
        self.device = choose_device(recipe.device)
        self.bf16 = use_bf16(recipe.precision, self.device)
        self.model = make_model(recipe, self.data.task, self.folder)
        self.rate = learning_rate(recipe, self.model)
        self.model.to(self.device).train()
        self._fast = make_fast(self.model, self.bf16) if self.device.type == "cpu" else None
        self.optimizer = build_optimizer(self.model, recipe, self.rate)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._words = self.model.get_input_embeddings().weight
        lang2id = getattr(self.model.config, "lang2id", None) or {}
        self._languages = [lang2id.get(e.language) for e in self.data.train.examples]
        self._eval_languages = [lang2id.get(e.language) for e in self._held_out]
        self.head = Head(
            self.data.task,
            self.model,
            self.device,
            class_weights(recipe, self.data.task, self.data.train.examples),
            self.tokenizer.mask_token_id,
            tuple(self.tokenizer.all_special_ids),
            self._languages,
        )
        self.plan = Plan(self.data.features.items, recipe.batch, recipe.epochs, recipe.seed)
        self.schedule = recipe.schedule(self.plan.steps)
        self.every = max(round(self.plan.steps_an_epoch / recipe.evaluations), 1)
        self.guess = alarms.guessing_loss(self.data.task, self.data.train.examples)
        learning = sum(p.numel() for p in self.parameters)
        total = sum(p.numel() for p in self.model.parameters())
        where = f"{self.device}" if group.world == 1 else f"{group.world} x {self.device.type}"
        report.tell(
            f"{type(self.model).__name__}: {learning:,} of {total:,} parameters learn at {self.rate:.1e}, "
            f"{self.plan.steps:,} steps of {recipe.batch} in {'bf16' if self.bf16 else 'fp32'} on {where}"
        )
        self.progress = Progress(world=group.world)
        self.scores: list[tuple[int, dict[str, float]]] = []
        if checkpoint:
            self.progress = load_checkpoint(checkpoint, kept(self.model), self.optimizer)
            self.progress.world = group.world
            # What was scored before stands in metrics.jsonl, up to the step of the checkpoint.
            valid = [r for r in report.records if r["kind"] == "valid"]
            self.scores = [(r["step"], {n: v for n, v in r.items() if n not in ("step", "kind")}) for r in valid]
            report.tell(f"resumed from {checkpoint} at step {self.progress.cursor.step}")
        self.stop: str | None = None
        self._new_window()
        if group.first:
            text = json.dumps(dataclasses.asdict(recipe), indent=1, ensure_ascii=False)
            write_text_atomic(output / "recipe.json", text)

    @property
    def _held_out(self) -> list[Any]:
        return self.data.held_out.examples if self.data.held_out else []

    def _load(self, check: bool) -> None:
        """Read the data, tell what it is, and sound the alarms that it gives rise to."""
        from xlm.families.auto import AutoConfig
        from xlm.families.registry import family_of

        recipe, first = self.recipe, self.group.first
        config = AutoConfig.from_pretrained(self.folder)
        limit = family_of(config).spec(config).max_tokens
        self.data = prepare(recipe, self.tokenizer, limit, self.output if first else None)
        if first:
            record = report_record(self.data)
            write_text_atomic(self.output / "data.json", json.dumps(record, indent=1, ensure_ascii=False))
        self.report.show(report_table(self.data))
        for name, loaded in (("train", self.data.train), ("eval", self.data.held_out)):
            if loaded and loaded.bad:
                path = self.output / f"quarantine-{name}.jsonl"
                self.report.tell(f"[yellow]{name}: {len(loaded.bad):,} rows cannot be used: they are in {path}")
            if loaded and loaded.repaired:
                self.report.tell(f"{name}: {loaded.repaired:,} sentences with an I- that continued nothing: read as B-")
        if self.data.held_out is None and not check:
            self.report.tell("[yellow]no evaluation files: the model of the last step is kept, nothing is scored")
        size = min(recipe.data.max_tokens, limit)
        self._alarm(alarms.truncated(self.data.truncated(), recipe.max_truncated, size))

    def _alarm(self, message: str | None) -> None:
        """Tell an alarm once, and stop where the recipe says so."""
        kind = (message or "").partition(":")[0]
        if message is None or any(old.startswith(kind) for old in self.alarms):
            return
        self.alarms.append(message)
        step = self.progress.cursor.step if hasattr(self, "progress") else 0
        self.report.record({"step": step, "kind": "alarm", "message": message})
        self.report.tell(f"[bold red]alarm[/] {message}")
        if self.recipe.on_alarm == "stop":
            raise ConfigError(f"stopped by an alarm (on_alarm is stop): {message}")

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
        return min(self.progress.cursor.step / self.plan.steps, 1.0)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def go(self) -> Outcome:
        """Train to the end or until asked to stop, evaluating and saving on the way."""
        started, saved_at, saved_step = time.monotonic(), self.progress.seconds, self.progress.cursor.step
        with Signals() as signals:
            while self.done < 1.0 and self.stop is None and not self._patience_is_over():
                begun = time.monotonic()
                record, tokens = self._step(self.progress.cursor.step)
                self._agree(tokens, time.monotonic() - begun, time.monotonic() - started, signals)
                self._log(record)
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
        scores = dict(self._best()[1]) if self.scores else {}
        epochs = step / self.plan.steps_an_epoch
        return Outcome(folder, scores, finished, step, epochs, self.progress.seconds, self.alarms)

    def _step(self, number: int) -> tuple[dict[str, float], int]:
        """One optimizer step over this process's share of the batch; the record of all processes, and the tokens here."""
        torch.manual_seed(torch_seed(self.recipe.seed, "step", number, self.group.rank))
        mine = self.plan.step(number)[self.group.rank :: self.group.world]
        # Contrastive candidates are those of one pass: it is not cut.
        limit = 1 << 62 if self.data.task.name == "embed" else self.recipe.micro_tokens
        batches = [
            self.head.pack(items, self.recipe.seed, "masks", number, self.group.rank, place)
            for place, items in enumerate(by_tokens(mine, limit))
        ]
        (count,) = self.group.sum([sum(self.head.count(batch) for batch in batches)])
        loss = correct = 0.0
        for batch in batches:
            with self._autocast():
                made = self.head.loss(batch, 1.0 / max(count, 1))
            made.scaled.backward()
            loss, correct = loss + made.sum, correct + made.correct
        self.group.sum_gradients(self.parameters)
        norm = gradient_norm(self.parameters)
        loss, correct = self.group.sum([loss, correct])
        task = self.data.task.name
        record = {f"loss_{task}": loss / max(count, 1), "gradient": float(norm), "right": correct / max(count, 1)}
        if not math.isfinite(record["gradient"]) or not math.isfinite(loss):
            self._refuse(number, record, batches)
        if self.recipe.clip is not None:
            clip_gradients(self.parameters, norm, self.recipe.clip)
        set_rate(self.optimizer, self.rate * rate_factor(self.schedule, number, self.done))
        self.optimizer.step()
        if self._fast is not None:
            self._fast.refresh()
            retire_gradient(self._words)
        for parameter in self.parameters:
            parameter.grad = None
        return record, sum(len(batch.ids) for batch in batches)

    def _autocast(self) -> Any:
        """bf16 where the device computes in it; a CPU's operations know by themselves what to compute in it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and self._fast is None)

    def _refuse(self, step: int, record: dict[str, float], batches: list[Packed]) -> None:
        examples = [str(item.example) for batch in batches for item in batch.items]
        raise NonFiniteLoss(
            f"step {step}: loss is {record[f'loss_{self.data.task.name}']}, gradient {record['gradient']}: stopped before "
            f"the update; training examples {', '.join(examples[:20])} (from 0): lower learning_rate"
        )

    def _agree(self, tokens: int, seconds: float, since_start: float, signals: Signals) -> None:
        """Advance by one step. The processes agree on the tokens, the clock and whether to stop."""
        (total,) = self.group.sum([tokens])
        limit = 60 * (self.recipe.max_minutes or float("inf"))
        seconds, asked, late = self.group.most([seconds, signals.asked is not None, since_start > limit])
        self.progress.cursor = Cursor(step=self.progress.cursor.step + 1)
        self.progress.tokens += int(total)
        self.progress.seconds += seconds
        self._window_tokens += int(total)
        self._window_seconds += seconds
        if asked:
            self.stop = f"signal {signals.asked}" if signals.asked else "a signal to another process"
        elif late:
            self.stop = f"max_minutes = {self.recipe.max_minutes} is reached"

    def _log(self, record: dict[str, float]) -> None:
        """Record the means since the last record, and watch for a loss that is stuck."""
        for name, value in record.items():
            self._window[name].append(value)
        step = self.progress.cursor.step
        task = self.data.task
        self._recent = [*self._recent, record[f"loss_{task.name}"]][-50:]
        if step % self.recipe.log and self.done < 1.0:
            return
        entry: dict[str, Any] = {"step": step, "kind": "train", "epoch": round(step / self.plan.steps_an_epoch, 3)}
        entry |= {name: sum(values) / len(values) for name, values in sorted(self._window.items())}
        entry["rate"] = self.optimizer.param_groups[-1]["lr"]
        entry["tokens_per_second"] = self._window_tokens / max(self._window_seconds, 1e-9)
        self._new_window()
        self.report.record(entry)
        done = self.done
        self.report.progress(entry, done, self.progress.seconds * (1 - done) / done if done else float("inf"))
        if len(self._recent) >= 20 and self.recipe.class_weights == "none":
            warmup = self.schedule.warmup if self.schedule.warmup < 1 else self.schedule.warmup / self.plan.steps
            mean = sum(self._recent) / len(self._recent)
            classes = len(task.labels) or round(math.exp(self.guess or 0.0))
            self._alarm(alarms.stuck(mean, self.guess, done, warmup, classes))

    def _new_window(self) -> None:
        self._window: dict[str, list[float]] = defaultdict(list)
        self._window_tokens, self._window_seconds = 0, 0.0
        if not hasattr(self, "_recent"):
            self._recent: list[float] = []

    # -- scores and files ---------------------------------------------------------------------------------------------

    @property
    def metric(self) -> str:
        """The score that chooses among checkpoints."""
        return self.recipe.metric or self.data.task.metric

    def _better(self, new: dict[str, float], old: dict[str, float]) -> bool:
        lower = self.metric in ("loss", "mse", "perplexity")
        return new[self.metric] < old[self.metric] if lower else new[self.metric] > old[self.metric]

    def _best(self) -> tuple[int, dict[str, float]]:
        best = self.scores[0]
        for scored in self.scores[1:]:
            if self._better(scored[1], best[1]):
                best = scored
        return best

    def _patience_is_over(self) -> bool:
        if self.recipe.patience is None or not self.scores:
            return False
        since = [step for step, _ in self.scores if step > self._best()[0]]
        if len(since) >= self.recipe.patience and self.done < 1.0:
            self.report.tell(f"no better {self.metric} for {len(since)} evaluations: stopped early")
            return True
        return False

    def _evaluate(self) -> None:
        """Score the evaluation files, record it, and keep the model if it is the best."""
        if self.data.held_out is None or self.data.held_out_features is None:
            return
        values: list[float] = []
        names: list[str] = []
        if self.group.first:
            examples, task = self._held_out, self.data.task
            self.model.eval()
            with self._autocast():
                raw = self.head.scores(
                    self.data.held_out_features.items, self.recipe.micro_tokens, self._eval_languages
                )
            self.model.train()
            answers = task.answers(examples, self.data.held_out_features, raw)
            scores = task.evaluate(examples, answers)
            if self.metric not in scores:
                raise ConfigError(f"metric is {self.metric!r}: {task.name} is scored by {', '.join(scores)}")
            names, values = list(scores), list(scores.values())
            self._alarm(alarms.relabelled(task, examples, answers))
        if self.group.world > 1:
            names, values = self.group.share((names, values))
        scores = dict(zip(names, values, strict=True))
        step = self.progress.cursor.step
        self.scores.append((step, scores))
        if self.group.first:
            entry: dict[str, Any] = {"step": step, "kind": "valid", **scores}
            self.report.record(entry)
            best = self._best()[0] == step
            shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            self.report.tell(f"step {step}: {shown}{'  (best)' if best and len(self.scores) > 1 else ''}")
            if best:
                with atomic_folder(self.output / "best") as temporary:
                    kept(self.model).save_pretrained(temporary)
        self.group.wait()

    def _save(self, last: bool = False) -> int | None:
        """Checkpoint; a failure on the way is survived (the older checkpoint is intact) unless it is the last chance."""
        error: Exception | None = None
        if self.group.first:
            try:
                save_checkpoint(
                    self.output, kept(self.model), self.optimizer, self.progress, self.folder, self.recipe.keep
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
        """The best model as a folder of its own, with tokenizer, card and scores, replacing an earlier one at once."""
        folder = self.output / "model"
        if self.group.first:
            step, scores = self._best() if self.scores else (self.progress.cursor.step, {})
            model = self.model
            if self.scores and step != self.progress.cursor.step:
                best = type(kept(self.model)).from_pretrained(self.output / "best")
                model = best.model if hasattr(best, "model") else best
            with atomic_folder(folder) as temporary:
                self._write(temporary, model, step, scores)
            shutil.rmtree(self.output / "best", ignore_errors=True)
            # A finished run is not resumed: what it would take is gone.
            shutil.rmtree(self.output / "checkpoints", ignore_errors=True)
            self.report.tell(f"the model is in {folder}")
        self.group.wait()
        return folder

    def _write(self, folder: Path, model: Any, step: int, scores: dict[str, float]) -> None:
        from xlm.backends.torch.lora import merge_lora, save_adapter

        if hasattr(model, "lora"):
            save_adapter(model, folder / "adapter", self.recipe.model)
            merge_lora(model)
        save_model(folder, model, self.folder)
        write_card(folder, model, self.recipe, self.data, self.rate, step, scores, self.alarms)
        write_text_atomic(folder / "scores.json", json.dumps(scores, indent=1))


def describe(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain values."""
    return dataclasses.asdict(outcome) | {"model": None if outcome.model is None else str(outcome.model)}
