"""The model card of a translation model: what it was trained on and how, what it scored, and how to use it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from xlm.atomic import write_text
from xlm.training.translate_data import Corpora
from xlm.training.translate_recipe import Translate


def write_card(
    folder: Path, model: Any, recipe: Translate, corpora: Corpora, step: int, scores: dict[str, float]
) -> None:
    """Write ``README.md``; the scores are those of the round ``step``."""
    jobs = recipe.jobs()
    languages = sorted({language for job in jobs for language in job.languages})
    lines = ["---", "library_name: xlm", "pipeline_tag: translation"]
    lines += [f"base_model: {json.dumps(recipe.model)}", "language:", *(f"- {json.dumps(one)}" for one in languages)]
    lines += ["tags:", "- xlm", "---", "", f"# Translation: {', '.join(languages)}", ""]
    began = "from" if recipe.pretrained else "with new weights in the shape of"
    lines += [f"`{type(model).__name__}`, {model.num_parameters():,} parameters, begun {began} {recipe.model}.", ""]
    if model.config.directions:
        source, target = model.config.directions[0]
        lines += ["```python", "import xlm", "", 'engine = xlm.load("path/to/this/folder")']
        lines += [f'engine.translate(["..."], source="{source}", target="{target}")', "```", ""]
    lines += ["## Training", "", "| text | rows | tokens | empty | too long | bad |"]
    lines += ["| --- | --: | --: | --: | --: | --: |"]
    lines += [
        f"| {one.name} | {one.kept:,} | {one.tokens:,} | {one.empty:,} | {one.long:,} | {one.bad:,} |"
        for one in corpora.counts
    ]
    weights = dataclasses.asdict(recipe.weights)
    lines += ["", f"A round is one update of each: {', '.join(f'`{job}`' for job in jobs)}; "]
    lines[-1] += f"weights {', '.join(f'{kind} {weights[kind]}' for kind in sorted({job.kind for job in jobs}))}; "
    lines[-1] += f"batches of {recipe.batch_tokens:,} written tokens; {recipe.optimizer.kind} at {recipe.rate:.2g}; "
    lines[-1] += f"seed {recipe.seed}; the weights are those of round {step:,}."
    if scores:
        lines += ["", "## Scores", "", "BLEU of greedy translations of the held-out text (sacrebleu's 13a).", ""]
        lines += ["| | |", "| --- | --: |", *(f"| {name} | {value:.2f} |" for name, value in scores.items())]
    lines += ["", "The recipe:", "", "```json", json.dumps(dataclasses.asdict(recipe), indent=1, ensure_ascii=False)]
    write_text(folder / "README.md", "\n".join([*lines, "```", ""]))
