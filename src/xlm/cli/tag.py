"""``xlm tag``: labelled spans of texts, such as names."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group
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
from xlm.cli.common import Errors, ErrorsOption, JsonOption
from xlm.cli.loading import Load, runs_a_model


@runs_a_model()
def tag(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts of any length; without any: lines of stdin.")
    ] = None,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
    *,
    load: Load,
) -> None:
    """Find and label spans, such as names, with a fine-tuned model. Places are those of the text as it was given.

    Example: xlm tag -m runs/finetune/model "Marie Curie was born in Warsaw."
    """
    from xlm.tasks.examples import TaggedExample
    from xlm.tasks.tag import example_of

    def ask(engine: Any, found: list[TaggedExample]) -> list[dict[str, Any]]:
        return engine.tag([list(e.words) if e.text is None else e.text for e in found])

    inputs = examples("tag", texts, file, jsonl, example_of, errors)
    answer_all(inputs, load, ask, span_tables, as_json, batch_size(texts, file))


def span_tables(answers: list[dict[str, Any]]) -> Group:
    """Each text, and below it a row a span."""
    blocks: list[Any] = []
    for answer in answers:
        table = plain_table("left", "left", "right", "right")
        for span in answer["spans"]:
            place = Text(f"{span['start']}-{span['end']}", style="dim")
            table.add_row(cell(span["label"], "bold"), cell(span["text"]), place, percent(span["probability"]))
        blocks += [cell(answer["text"]), table if answer["spans"] else Text("nothing found", style="dim"), Text("")]
    return Group(*blocks)
