"""Fine-tuning: from labelled files to a model folder with its scores, to be stopped and resumed at any time.

    outcome = xlm.finetune("classify", train="train.jsonl", eval="dev.jsonl")
    xlm.load(outcome.model).classify(["a text"])

The loop is that of pretraining: packed rows without padding, the fused operations, checkpoints that resume bit for bit,
one process or ``torchrun``, the same metrics, curves and signals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xlm.families.auto import AutoConfig
from xlm.families.registry import family_of
from xlm.tokenizers import AutoTokenizer
from xlm.training import finetune_alarms as alarms
from xlm.training import translate_recipe
from xlm.training.finetune_best import check_metric, finish
from xlm.training.finetune_card import Told
from xlm.training.finetune_data import prepare
from xlm.training.finetune_loop import Outcome, Work, conduct
from xlm.training.finetune_model import folder_of
from xlm.training.finetune_recipe import FineTune, make_recipe
from xlm.training.finetune_trainer import FineTuner
from xlm.training.finetune_watch import Watch
from xlm.training.pretrain import EXIT_STOPPED
from xlm.training.report import Reporter
from xlm.training.runtime import Processes
from xlm.training.state import Progress

__all__ = ["EXIT_STOPPED", "Outcome", "finetune", "run"]


def finetune(
    task: str,
    model: str | Path | None = None,
    *,
    train: Any = (),
    eval: Any = None,
    output: str | Path = "runs/finetune",
    resume: bool | None = None,
    quiet: bool = False,
    **fields: Any,
) -> Outcome:
    """Fine-tune a model for a task.

    Args:
        task: ``classify``, ``tag``, ``answer``, ``choose``, ``embed``, ``rerank``, ``fill`` or ``generate``; ``translate``
            has a recipe of its own, :class:`xlm.training.translate_recipe.Translate`.
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
    values = {
        "task": task,
        "train": list(train) if isinstance(train, tuple) else train,
        "output": str(output),
        **fields,
    }
    values |= {} if model is None else {"model": str(model)}
    values |= {} if eval is None else {"eval": eval}
    if task == translate_recipe.NAME:
        from xlm.training import translate

        return translate.run(translate_recipe.make_translate(values), resume=resume, quiet=quiet)
    return run(make_recipe(values), resume=resume, quiet=quiet)


def run(recipe: FineTune, *, resume: bool | None = None, quiet: bool = False, check: bool = False) -> Outcome:
    """Run a recipe; with ``check`` only read and report on its data."""
    return conduct(recipe, _Tuning, resume=resume, quiet=quiet, check=check)


class _Tuning(Work):
    """Learning a task from its labelled files."""

    def __init__(self, recipe: FineTune, report: Reporter, group: Processes, check: bool) -> None:
        output = Path(recipe.output) if group.first else None
        self._recipe = recipe
        self._watch = Watch(recipe, report)
        self.alarms = self._watch.alarms
        self.folder = folder_of(recipe)
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        config = AutoConfig.from_pretrained(self.folder)
        limit = family_of(config).spec(config).max_tokens
        self._data = prepare(recipe, tokenizer, limit, output)
        self._watch.data(self._data, min(recipe.data.max_tokens, limit), output, check)
        task = self._data.task
        check_metric(recipe.metric, task.scores if recipe.eval else (), "eval")
        self.metric = recipe.metric or task.metric
        if check:
            return
        self._tuner = FineTuner(recipe, self._data, self.folder, tokenizer, group)
        self._plan, self.model, self.optimizer = self._tuner.plan, self._tuner.model, self._tuner.optimizer
        self.steps, self.steps_an_epoch = self._plan.steps, float(self._plan.steps_an_epoch)
        self.every = max(round(self._plan.steps_an_epoch / recipe.evaluations), 1)
        report.tell(str(self._tuner))

    def step(self, number: int, done: float) -> tuple[dict[str, float], int]:
        return self._tuner.step(number)

    def done(self, progress: Progress) -> float:
        return self._plan.done(progress.cursor.step)

    def tell(self, record: dict[str, float], tokens: int, seconds: float, progress: Progress) -> None:
        rate = self.optimizer.param_groups[-1]["lr"]
        self._watch.step(record, tokens, seconds, progress, self._plan, rate)

    def score(self, step: int) -> dict[str, float]:
        if self._data.held_out is None:
            return {}
        examples, task = self._data.held_out.examples, self._data.task
        answers = self._tuner.answers()
        scores = task.evaluate(examples, answers)
        self._watch.languages(examples, answers, step)
        self._watch.alarm(alarms.relabelled(task, examples, answers), step)
        return scores

    def finish(self, chosen: tuple[int, dict[str, float]], step: int) -> Path:
        told = Told(chosen[0], chosen[1], self._watch.by_language(chosen[0]), self.alarms)
        return finish(self._recipe, self._data, self.model, self.folder, self._tuner.rate, told, step)
