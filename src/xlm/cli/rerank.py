"""``xlm rerank``: documents by how well they fit a query."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from xlm.cli.asking import InputFileOption, JsonlOption, cell, examples, placed, plain_table
from xlm.cli.common import Errors, ErrorsOption, JsonOption, TruncateOption, print_json, stdout, tell_cut
from xlm.cli.loading import Load, runs_a_model


@runs_a_model()
def rerank(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is looked for.")],
    documents: Annotated[
        list[str] | None, typer.Argument(metavar="DOCUMENT", help="Documents; without any: lines of stdin.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", help="How many to show. Default: all.")] = None,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    truncate: TruncateOption = False,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
    *,
    load: Load,
) -> None:
    """Order documents by how well they fit a query with a fine-tuned cross-encoder. Indices count from 0; JSONL needs the
    field text.

    Example: xlm rerank -m runs/finetune/model "capital of France" "Paris is big." "I like tea."
    """
    named = [(where, one.text) for where, one in examples("fill", documents, file, jsonl, _example, errors)]
    if not named:
        return
    with placed([where for where, _ in named]):
        found = load().rerank(query, [text for _, text in named], top_k, truncate=truncate)
    tell_cut([named[index][0] for index in sorted(one["index"] for one in found if one.get("truncated"))])
    if as_json:
        for one in found:
            print_json(one)
        return
    table = plain_table("right", "right", "left")
    for rank, one in enumerate(found, 1):
        text = cell(named[one["index"]][1], "bold" if rank == 1 else "")
        table.add_row(Text(str(rank), style="dim"), Text(f"{one['score']:.3f}"), text)
    stdout().print(table)


def _example(text: str) -> Any:
    from xlm.tasks.examples import TextExample

    return TextExample(text)
