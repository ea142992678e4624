"""Which checkpoint of a fine-tuning is the best, and the folder that the best one becomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xlm.atomic import write_text
from xlm.errors import ConfigError
from xlm.folders import atomic_folder, remove_folder
from xlm.training.finetune_card import Told, write_card
from xlm.training.finetune_data import Prepared
from xlm.training.finetune_model import kept, reloaded
from xlm.training.finetune_recipe import FineTune, model_path
from xlm.training.output import remove_state, step_folders
from xlm.training.state import save_model

_LOWER = ("loss", "mse", "perplexity")  # scores of which less is better
Scored = tuple[int, dict[str, float]]
"""A step, and the scores of the model as it was then."""


def check_metric(metric: str | None, names: Sequence[str], missing: str) -> None:
    """Raise ConfigError where the metric that is to choose among models is none of the scores that there will be;
    ``missing`` says what to give where there will be none."""
    if metric is not None and metric not in names:
        raise ConfigError(
            f"metric is {metric!r}: it must be one of {', '.join(names)}"
            if names
            else f"metric is {metric!r}: nothing is scored without {missing}"
        )


class Scores:
    """The scores of a run so far, the earliest first; ``metric`` is the one that chooses."""

    def __init__(self, metric: str, scored: list[Scored]) -> None:
        self.metric, self._scored = metric, list(scored)

    def __bool__(self) -> bool:
        return bool(self._scored)

    def add(self, step: int, scores: dict[str, float]) -> bool:
        """Take in the scores of a step; whether they are the best so far."""
        self._scored.append((step, scores))
        return self.best()[0] == step

    def best(self) -> Scored:
        """The best, of equals the first; at least one must have been added."""
        best = self._scored[0]
        for scored in self._scored[1:]:
            new, old = scored[1][self.metric], best[1][self.metric]
            if new < old if self.metric in _LOWER else new > old:
                best = scored
        return best

    def since_best(self) -> int:
        """How many were added after the best."""
        return sum(step > self.best()[0] for step, _ in self._scored) if self._scored else 0


def best_folder(output: Path, step: int) -> Path:
    """Where a run keeps the weights of ``step`` while they are its best."""
    return output / "best" / f"step-{step}"


def keep_best(output: Path, model: Any, step: int, saved: int | None) -> None:
    """Write the weights that learn to the folder of their step, and remove older ones, except those of the step
    ``saved``: the best that the newest checkpoint knows of, which a run that is killed now goes on with."""
    with atomic_folder(best_folder(output, step)) as temporary:
        kept(model).save_pretrained(temporary)
    for folder in step_folders(output / "best"):
        if folder not in (best_folder(output, step), best_folder(output, -1 if saved is None else saved)):
            remove_folder(folder)


def finish(
    recipe: FineTune,
    data: Prepared,
    model: Any,
    base: Any,
    rate: float,
    told: Told,
    step: int,
) -> Path:
    """The chosen model as a folder of its own, with tokenizer, card and scores, replacing an earlier one at once.

    Args:
        told: of the chosen step.
        model: as it is after ``step``, the last; of another step the weights kept in ``best`` are taken.
        base: the folder that training began from.
    """
    output = Path(recipe.output)
    folder = output / "model"
    if told.step != step:
        model = reloaded(model, best_folder(output, told.step))
    with atomic_folder(folder) as temporary:
        _write(temporary, recipe, data, model, base, rate, told)
    remove_state(output)
    return folder


def _write(
    folder: Path,
    recipe: FineTune,
    data: Prepared,
    model: Any,
    base: Any,
    rate: float,
    told: Told,
) -> None:
    from xlm.backends.torch.lora import merge_lora, save_adapter

    if hasattr(model, "lora"):
        save_adapter(model, folder / "adapter", recipe.model and model_path(recipe.base, recipe.model))
        merge_lora(model)
    save_model(folder, model, base)
    write_card(folder, model, recipe, data, rate, told)
    write_text(folder / "scores.json", json.dumps(told.scores, indent=1))
