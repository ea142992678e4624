"""The model card of a fine-tuned model: what it was trained on and how, what it scored, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlm.assets import BUNDLED, BUNDLED_NAMES
from xlm.training.finetune_data import Prepared
from xlm.training.finetune_recipe import FineTune

# task -> what a user writes; the pipeline that hubs know it by
_USE = {
    "classify": ('engine.classify(["a text"])', "text-classification"),
    "tag": ('engine.tag(["Marie Curie was born in Warsaw."])', "token-classification"),
    "answer": ('engine.answer(["Where?"], ["In Warsaw."])', "question-answering"),
    "choose": ('engine.choose(["It rained."], [["The street is wet.", "The sun shines."]])', "multiple-choice"),
    "embed": ('engine.embed(["a text", "un texte"])', "feature-extraction"),
    "rerank": ('engine.rerank("a query", ["a document", "another"])', "text-ranking"),
    "fill": ('engine.fill_mask(["A <mask> text."])', "fill-mask"),
    "generate": ('engine.generate(["Once upon"])', "text-generation"),
}


@dataclass(frozen=True)
class Told:
    """What a run found out of the model that it keeps: the step, its scores in all and by language, and the alarms."""

    step: int
    scores: Mapping[str, float]
    languages: Mapping[str, Mapping[str, float]]
    alarms: Sequence[str]


def write_card(
    folder: Path,
    model: Any,
    recipe: FineTune,
    data: Prepared,
    rate: float,
    told: Told,
) -> None:
    """Write ``README.md``."""
    use, pipeline = _USE[recipe.task]
    base = f"{BUNDLED} (comes with the package)" if recipe.model in (None, *BUNDLED_NAMES) else recipe.model
    languages = sorted({name for part in data.report.values() for name in part if name not in ("?", "all")})
    front = ["---", "library_name: xlm", f"pipeline_tag: {pipeline}"]
    front += [f"base_model: {json.dumps(recipe.model)}"] if recipe.model else []
    front += ["language:", *(f"- {json.dumps(name)}" for name in languages)] if languages else []
    front += ["tags:", "- xlm", f"- {model.config.model_type}", "---", ""]
    parameters = model.num_parameters()
    lines = [*front, f"# {base.split(' ')[0].rpartition('/')[2]}, fine-tuned: {recipe.task}", ""]
    lines += [f"`{type(model).__name__}`, {parameters:,} parameters, from {base}.", ""]
    lines += ["```python", "import xlm", "", 'engine = xlm.load("path/to/this/folder")', use, "```", ""]
    if data.task.labels:
        lines += [f"Labels: {', '.join(f'`{label}`' for label in data.task.labels)}.", ""]
    lines += ["## Training data", "", "| files | language | rows | tokens, mean | cut % | unknown % |"]
    lines += ["| --- | --- | --: | --: | --: | --: |"]
    for name, parts in data.report.items():
        shown = "train" if name == "train" else "evaluation"
        for language, part in parts.items():
            figures = f"{part.rows:,} | {part.mean_length:.0f} | {100 * part.truncated:.1f} | {100 * part.unknown:.2f}"
            lines.append(f"| {shown} | {language} | {figures} |")
    lines += ["", f"Files: {', '.join(f'`{path}`' for path in [*_listed(recipe.train), *_listed(recipe.eval)])}.", ""]
    passes = "epoch" if recipe.epochs == 1 else "epochs"
    lines += ["## Training", ""]
    lines += [
        f"{recipe.tuning.kind} fine-tuning, {recipe.epochs:g} {passes} in batches of {recipe.batch}, AdamW at {rate:.2g} with "
        f"{recipe.warmup:g} warm-up and {recipe.decay} decay, weight decay {recipe.weight_decay:g}, seed {recipe.seed}; "
        f"the weights are those of step {told.step}.",
        "",
        "## Evaluation",
        "",
    ]
    if told.scores:
        lines += [f"| language | {' | '.join(told.scores)} |", f"| --- |{' --: |' * len(told.scores)}"]
        for language, scores in {**told.languages, "all": told.scores}.items():
            lines.append(f"| {language} | {' | '.join(f'{scores[name]:.4f}' for name in told.scores)} |")
        lines += ["", "On the evaluation files above; the best checkpoint was chosen by the same files."]
    else:
        lines += ["Nothing was evaluated: there were no evaluation files."]
    lines += [
        "",
        "## Limits",
        "",
        "Trained and scored on the data above only; other domains and languages are untested.",
    ]
    lines += ["", *(f"- Alarm while training: {alarm}" for alarm in told.alarms)]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def _listed(paths: str | list[str] | None) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths or ())
