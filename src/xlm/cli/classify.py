"""``xlm classify``: the classes of texts, or of pairs of texts."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from xlm.cli.asking import (
    InputFileOption,
    JsonlOption,
    answer_all,
    batch_size,
    cell,
    examples,
    percent,
    plain_table,
)
from xlm.cli.common import Errors, ErrorsOption, JsonOption, TruncateOption
from xlm.cli.loading import Load, runs_a_model


@runs_a_model()
def classify(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts; a tab separates the two of a pair.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="How many labels to show. Default: 3, with --json all.")
    ] = None,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    truncate: TruncateOption = False,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
    *,
    load: Load,
) -> None:
    """Sort texts into classes with a fine-tuned model.

    Example: xlm classify -m runs/finetune/model "The film was a delight."
    """
    from xlm.tasks.examples import TextExample

    def pair(line: str) -> TextExample:
        first, tab, second = line.partition("\t")
        return TextExample(first, second) if tab else TextExample(line)

    def ask(engine: Any, found: list[TextExample]) -> list[dict[str, Any]]:
        rows = [e.text if e.pair is None else (e.text, e.pair) for e in found]
        return engine.classify(rows, top_k or (None if as_json else 3), truncate=truncate)

    inputs = examples("classify", texts, file, jsonl, pair, errors)
    answer_all(inputs, load, ask, class_table, as_json, batch_size(texts, file))


def class_table(answers: list[dict[str, Any]]) -> Table:
    """A row a text: its labels with their probabilities, or its value, then the text."""
    labels = max((len(answer.get("labels", [None])) for answer in answers), default=1)
    table = plain_table(*["left", "right"] * labels, "left")
    for answer in answers:
        text = answer["text"] if isinstance(answer["text"], str) else "  |  ".join(answer["text"])
        cells: list[Text] = []
        if "value" in answer:
            cells = [Text(f"{answer['value']:.3f}", style="bold"), Text("")]
        for rank, one in enumerate(answer.get("labels", [])):
            cells += [cell(one["label"], "bold" if rank == 0 else "dim"), percent(one["probability"])]
        table.add_row(*cells, *[Text("")] * (2 * labels - len(cells)), cell(text))
    return table
