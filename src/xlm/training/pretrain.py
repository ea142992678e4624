"""The pretraining loop: everything a recipe says, from text files to a model folder, to be stopped and resumed at any time."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xlm.backends.torch.auto import AutoModelForMaskedLM
from xlm.data.corpus import open_stores, sizes
from xlm.data.random import torch_seed
from xlm.data.store import Part, TokenStore
from xlm.data.vocabulary import load_vocabulary
from xlm.errors import ConfigError, OutputError, XLMError
from xlm.families.registry import family_of
from xlm.training.evaluate import LanguageScore, Validation
from xlm.training.files import run_lock, write_text_atomic
from xlm.training.init import initialize
from xlm.training.objectives import Result, contrastive_loss, masked_loss, to_batch
from xlm.training.optim import build_optimizer, clip_gradients, gradient_norm, rate_factor, set_rate
from xlm.training.recipe import Recipe
from xlm.training.report import Reporter
from xlm.training.state import Progress, checkpoint_folders, load_checkpoint, save_checkpoint, save_model
from xlm.training.steps import Cursor, MicroBatch, StepBuilder

EXIT_STOPPED = (
    75  # a signal or max_minutes ended the run early; it is saved and can be resumed (EX_TEMPFAIL: try again)
)


class NonFiniteLoss(XLMError, ArithmeticError):
    """A loss or gradient is not finite; the weights were not updated, and the batch was written to a file."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``finished`` or stopped early, where the model is, and the last scores."""

    finished: bool
    step: int
    tokens: int
    seconds: float
    model: Path | None
    scores: dict[str, LanguageScore]
    retrieval: dict[str, float]


def pretrain(recipe: Recipe, *, resume: bool | None = None, quiet: bool = False) -> Outcome:
    """Run a recipe. ``resume`` None goes on from the newest checkpoint if there is one, True demands one, False sets
    an earlier run aside (in ``previous-N`` of the output folder) and begins anew.

    Raises ``ConfigError``, ``DataError``, ``CheckpointError``, ``OutputError`` and ``NonFiniteLoss``, see there.
    """
    output = Path(recipe.output)
    with run_lock(output):
        if resume is False:
            set_aside(output)
        found = checkpoint_folders(output)
        if resume and not found:
            raise ConfigError(f"{output}: there is no checkpoint to resume from")
        return _Run(recipe, output, found[-1] if found else None, quiet).go()


def set_aside(output: Path) -> None:
    """Move what an earlier run left in the output folder into ``previous-N``, token stores excepted."""
    names = ("checkpoints", "metrics.jsonl", "loss.png", "tensorboard", "model", "recipe.json")
    present = [output / name for name in names if (output / name).exists()]
    if present:
        target = next(path for n in range(1, 10**6) if not (path := output / f"previous-{n}").exists())
        target.mkdir()
        for path in present:
            path.rename(target / path.name)


class _Run:
    """One process's training: the parts, and the loop over them."""

    def __init__(self, recipe: Recipe, output: Path, checkpoint: Path | None, quiet: bool) -> None:
        self.recipe, self.output = recipe, output
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self.device = choose_device(recipe.device)
        self.bf16 = use_bf16(recipe.precision, self.device)
        step = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
        self.report = Reporter(output, step, quiet)
        self.vocabulary = load_vocabulary(recipe.path(recipe.tokenizer))
        self._open_data()
        self.model = self._make_model(fresh=checkpoint is None)
        self.optimizer = build_optimizer(self.model, recipe.optimizer)
        self.progress = Progress()
        if checkpoint:
            self.progress = load_checkpoint(checkpoint, self.model, self.optimizer, recipe.fingerprint)
            self.report.tell(f"resumed from {checkpoint} at step {self.progress.cursor.step}")
        self.stop: str | None = None
        self._new_window()
        write_text_atomic(output / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=1, ensure_ascii=False))

    def _open_data(self) -> None:
        recipe, data = self.recipe, self.recipe.data
        cache = recipe.path(data.cache) if data.cache else self.output / "tokens"

        def stores(pattern: str | None, part: Part, required: bool = True) -> dict[str, TokenStore]:
            if pattern is None:
                return {}
            return open_stores(
                str(recipe.path(pattern)),
                data.languages,
                self.vocabulary,
                cache,
                part,
                limit=data.limit,
                held_out=data.held_out if part != "text" else 0.0,
                required=required,
            )

        self.report.tell("reading text")
        texts = stores(data.text, "text") if recipe.objectives.mlm else {}
        needs_pairs = recipe.objectives.tlm or recipe.objectives.contrastive
        pairs = stores(data.pairs, "pairs", required=False) if needs_pairs else {}
        held_out = stores(data.pairs, "held-out pairs", required=False) if data.held_out else {}
        self.texts, self.pairs = texts, pairs
        self.builder = StepBuilder(recipe, self.vocabulary, texts, pairs)
        valid = stores(data.valid, "text", required=False)
        self.validation = Validation(self.builder, self.vocabulary, valid, texts, held_out)
        total = sum(sizes(texts).values())
        pair_count = sum(len(store) // 2 for store in pairs.values())
        self.report.tell(f"{total:,} tokens of text in {len(texts)} languages, {pair_count:,} pairs in {len(pairs)}")

    def _make_model(self, fresh: bool) -> Any:
        recipe, vocabulary = self.recipe, self.vocabulary
        torch.manual_seed(torch_seed(recipe.seed, "init"))
        if recipe.model.path:
            model = AutoModelForMaskedLM.from_pretrained(recipe.path(recipe.model.path))
            if model.config.vocab_size < vocabulary.size:
                raise ConfigError(
                    f"model.path: vocab_size is {model.config.vocab_size}, the tokenizer has {vocabulary.size} tokens: "
                    "at least as many rows are needed"
                )
        else:
            family = family_of(recipe.model.family)
            values = {
                "vocab_size": vocabulary.size,
                "pad_token_id": vocabulary.pad_id,
                "bos_token_id": vocabulary.bos_id,
            }
            values |= {"eos_token_id": vocabulary.eos_id, **recipe.model.config}
            if family.model_type == "xlm":
                values = {"pad_index": vocabulary.pad_id, "n_langs": len(self.builder.languages), **values}
            model = AutoModelForMaskedLM.from_config(family.config_class(**values))
            if fresh:
                initialize(
                    model,
                    recipe.init,
                    text=self.texts,
                    pairs=self.pairs,
                    probabilities=self.builder.text_probabilities,
                    seed=recipe.seed,
                )
        longest = max(phase.length for phase in recipe.batch.phases)
        if longest > model.spec.max_tokens:
            raise ConfigError(
                f"batch.phases: length {longest}, but the model has positions for {model.spec.max_tokens} tokens"
            )
        size = sum(p.numel() for p in model.parameters())
        self.report.tell(
            f"{type(model).__name__}: {size:,} parameters, {'bf16' if self.bf16 else 'fp32'} on {self.device}"
        )
        return model.to(self.device).train()

    # -- the loop -----------------------------------------------------------------------------------------------------

    @property
    def done(self) -> float:
        """Progress in [0, 1]."""
        schedule = self.recipe.schedule
        if schedule.steps is not None:
            return min(self.progress.cursor.step / schedule.steps, 1.0)
        return min(self.progress.seconds / (60 * (schedule.minutes or 1.0)), 1.0)

    def go(self) -> Outcome:
        every, started = self.recipe.every, time.monotonic()
        saved_at = checked_at = self.progress.seconds
        saved_step = self.progress.cursor.step
        with self._signals(), ThreadPoolExecutor(1) as pool:
            cursor = self._enter(self.progress.cursor, self.done)
            pending = pool.submit(self.builder.build, cursor, self.done), cursor, self.done
            while self.done < 1.0 and self.stop is None:
                begun = time.monotonic()
                future, cursor, planned = pending
                micros = future.result()
                following = self.builder.advance(cursor, planned)
                ahead = following.step / self.recipe.schedule.steps if self.recipe.schedule.steps else self.done
                following = self._enter(following, ahead)
                pending = pool.submit(self.builder.build, following, ahead), following, ahead
                record = self._step(cursor, micros)
                self.progress.cursor = following
                self.progress.tokens += (tokens := sum(len(micro.ids) for micro in micros))
                self.progress.seconds += time.monotonic() - begun
                self._log(record, tokens, time.monotonic() - begun)
                step, seconds = following.step, self.progress.seconds
                if self.recipe.max_minutes and time.monotonic() - started > 60 * self.recipe.max_minutes:
                    self.stop = f"max_minutes = {self.recipe.max_minutes} is reached"
                if self.done < 1.0 and self.stop is None:
                    if _due(step, every.evaluate, seconds, checked_at, every.evaluate_minutes):
                        self.evaluate()
                        checked_at = seconds
                    if _due(step, every.checkpoint, seconds, saved_at, every.checkpoint_minutes):
                        saved_step = self._save() or saved_step
                        saved_at = seconds
            pending[0].cancel()
        finished = self.done >= 1.0
        if saved_step != self.progress.cursor.step:
            self._save(last=True)
        if not finished:
            self.report.tell(f"stopped at step {self.progress.cursor.step}: {self.stop}; run again to go on")
        scores, retrieval = self.evaluate() if finished else ({}, {})
        folder = self._finish() if finished else None
        self.report.plot()
        self.report.table(scores, retrieval)
        self.report.close()
        return Outcome(
            finished, self.progress.cursor.step, self.progress.tokens, self.progress.seconds, folder, scores, retrieval
        )

    def _enter(self, cursor: Cursor, done: float) -> Cursor:
        return cursor.enter(self.builder.phase_at(done))

    def _step(self, cursor: Cursor, micros: list[MicroBatch]) -> dict[str, float]:
        torch.manual_seed(torch_seed(self.recipe.seed, "step", cursor.step))
        targets: dict[str, int] = defaultdict(int)
        for micro in micros:
            targets[micro.objective] += len(micro.targets)
        results: dict[str, list[Result]] = defaultdict(list)
        for micro in micros:
            for name, result in self._backward(micro, targets[micro.objective]):
                results[name].append(result)
        parameters = list(self.model.parameters())
        norm = gradient_norm(parameters)
        record = {"gradient": float(norm)}
        for name, parts in results.items():
            count = max(sum(part.count for part in parts), 1)
            record[f"loss_{name}"] = sum(part.loss for part in parts) / count
            record[f"top1_{name}"] = sum(part.correct for part in parts) / count
        if bad := [name for name, value in record.items() if not math.isfinite(value)]:
            self._refuse(cursor.step, bad, record, micros)
        if self.recipe.optimizer.clip is not None:
            clip_gradients(parameters, norm, self.recipe.optimizer.clip)
        rate = self.recipe.optimizer.learning_rate * rate_factor(self.recipe.schedule, cursor.step, self.done)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return record | {"rate": rate}

    def _backward(self, micro: MicroBatch, targets: int) -> list[tuple[str, Result]]:
        """Forward and backward of one micro-batch; its losses by name."""
        objectives = self.recipe.objectives
        weight = {"mlm": objectives.mlm, "tlm": objectives.tlm}.get(micro.objective)
        losses: list[torch.Tensor] = []
        results: list[tuple[str, Result]] = []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            states_NH = self.model.states(to_batch(micro, self.model.spec, self.device))
            if len(micro.targets):
                factor = (
                    weight.weight if weight else objectives.contrastive.mlm_weight if objectives.contrastive else 0.0
                )
                loss, result = masked_loss(self.model, states_NH, micro, factor / targets)
                losses.append(loss)
                results.append(("mlm_pairs" if micro.pairs else micro.objective, result))
            if micro.pairs and (options := objectives.contrastive):
                loss, result = contrastive_loss(states_NH, micro, options.temperature)
                losses.append(loss * (options.weight / result.count))
                results.append(("contrastive", result))
        if losses:
            torch.stack(losses).sum().backward()
        return results

    def _refuse(self, step: int, bad: list[str], record: dict[str, float], micros: list[MicroBatch]) -> None:
        path = self.output / f"nonfinite-step-{step}.json"
        dump = [
            {"objective": m.objective, "languages": m.row_languages, "lengths": m.lengths, "ids": m.ids.tolist()}
            for m in micros
        ]
        write_text_atomic(
            path, json.dumps({"step": step, "values": {k: str(v) for k, v in record.items()}, "micro_batches": dump})
        )
        languages = ", ".join(sorted({name for m in micros for name in m.row_languages}))
        raise NonFiniteLoss(
            f"step {step}: {', '.join(f'{name} is {record[name]}' for name in bad)}: stopped before the update. "
            f"The batch (seed {self.recipe.seed}, languages {languages}) is in {path}; the last checkpoint is intact: "
            "lower optimizer.learning_rate"
        )

    def _log(self, record: dict[str, float], tokens: int, seconds: float) -> None:
        """Record the means since the last record; steps may differ in what they trained."""
        step = self.progress.cursor.step
        for name, value in record.items():
            self._window[name].append(value)
        self._window_tokens += tokens
        self._window_seconds += seconds
        if step % self.recipe.every.log and self.done < 1.0:
            return
        entry: dict[str, Any] = {"step": step, "kind": "train", "tokens": self.progress.tokens}
        entry["minutes"] = self.progress.seconds / 60
        entry |= {name: sum(values) / len(values) for name, values in sorted(self._window.items())}
        entry |= {"rate": record["rate"], "tokens_per_second": self._window_tokens / self._window_seconds}
        self._new_window()
        self.report.record(entry)
        done = self.done
        self.report.progress(entry, done, self.progress.seconds * (1 - done) / done if done else float("inf"))

    def _new_window(self) -> None:
        self._window: dict[str, list[float]] = defaultdict(list)
        self._window_tokens, self._window_seconds = 0, 0.0

    def evaluate(self) -> tuple[dict[str, LanguageScore], dict[str, float]]:
        """Held-out scores, recorded."""
        self.model.eval()
        scores = self.validation.masked_scores(self.model, self.device)
        retrieval = self.validation.retrieval_scores(self.model, self.device)
        self.model.train()
        if scores or retrieval:
            count = max(len(scores), 1)
            entry: dict[str, Any] = {"step": self.progress.cursor.step, "kind": "valid", "tokens": self.progress.tokens}
            entry["minutes"] = self.progress.seconds / 60
            entry["loss"] = sum(s.loss for s in scores.values()) / count
            entry["top1"] = sum(s.top1 for s in scores.values()) / count
            entry["unigram_loss"] = sum(s.unigram_loss for s in scores.values()) / count
            entry["loss_by_language"] = {name: round(s.loss, 4) for name, s in scores.items()}
            entry["top1_by_language"] = {name: round(s.top1, 4) for name, s in scores.items()}
            found = f", translation first {100 * sum(retrieval.values()) / len(retrieval):.1f} %" if retrieval else ""
            if retrieval:
                entry["retrieval"] = sum(retrieval.values()) / len(retrieval)
                entry["retrieval_by_language"] = {name: round(value, 4) for name, value in retrieval.items()}
            self.report.record(entry)
            self.report.plot()
            self.report.tell(
                f"step {entry['step']}: held-out loss {entry['loss']:.3f} (unigram {entry['unigram_loss']:.3f}), "
                f"top-1 {100 * entry['top1']:.1f} %{found}"
            )
        return scores, retrieval

    def _save(self, last: bool = False) -> int | None:
        """Checkpoint; a failure on the way is survived (the older checkpoint is intact) unless it is the last chance."""
        try:
            save_checkpoint(
                self.output,
                self.model,
                self.optimizer,
                self.progress,
                self.recipe.fingerprint,
                self.vocabulary.folder,
                self.recipe.every.keep,
            )
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            if last:
                raise OutputError(
                    f"{self.output}: the checkpoint could not be written; earlier ones are intact: {error}"
                ) from error
            self.report.tell(
                f"[yellow]checkpoint at step {self.progress.cursor.step} failed, training goes on: {error}"
            )
            return None
        return self.progress.cursor.step

    def _finish(self) -> Path:
        """The finished model as a folder of its own, replacing an earlier one at once."""
        from xlm.training.files import atomic_folder

        folder = self.output / "model"
        with atomic_folder(folder) as temporary:
            save_model(temporary, self.model, self.vocabulary.folder)
        return folder

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGINT and SIGUSR1 end the run after the step, saved; a second signal ends the process at once."""

        def ask(number: int, frame: object) -> None:
            if self.stop is not None:
                raise KeyboardInterrupt
            self.stop = f"signal {signal.Signals(number).name}"

        chosen = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        try:
            before = {number: signal.signal(number, ask) for number in chosen}
        except ValueError:  # not the main thread: signals stay as they are
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _due(step: int, steps: int, seconds: float, last: float, minutes: float) -> bool:
    return bool(steps and step % steps == 0) or bool(minutes and seconds - last >= 60 * minutes)


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU or the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device = {name!r}: it must be auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device = {name!r}: no CUDA device is at hand")
    return device


def use_bf16(precision: str, device: torch.device) -> bool:
    """``auto`` is bf16 on GPUs, and on CPUs that multiply in it; others emulate it at a fraction of fp32's speed."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    cpu = getattr(torch, "cpu", None)
    return any(bool(getattr(cpu, name, bool)()) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
