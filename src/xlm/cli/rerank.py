"""``xlm rerank``: documents by how well they fit a query."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from xlm.cli.asking import cell, plain_table
from xlm.cli.common import (
    DeviceOption,
    DtypeOption,
    Errors,
    ErrorsOption,
    FileOption,
    JsonOption,
    LangOption,
    ModelOption,
    TruncateOption,
    input_texts,
    print_json,
    stdout,
)


def rerank(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is looked for.")],
    documents: Annotated[
        list[str] | None, typer.Argument(metavar="DOCUMENT", help="Documents; without any: lines of stdin.")
    ] = None,
    model: ModelOption = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", help="How many to show. Default: all.")] = None,
    file: FileOption = None,
    truncate: TruncateOption = False,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    lang: LangOption = None,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
) -> None:
    """Order documents by how well they fit a query with a fine-tuned cross-encoder. Indices count from 0.

    Example: xlm rerank -m runs/finetune/model "capital of France" "Paris is big." "I like tea."
    """
    from xlm.errors import InputError

    named = list(input_texts(documents, file, errors))
    from xlm.inference.engine import load

    engine = load(model, dtype=dtype, device=device, lang=lang)
    try:
        found = engine.rerank(query, [text for _, text in named], top_k, truncate=truncate)
    except InputError as error:
        message = str(error)
        for index, (where, _) in enumerate(named):
            message = message.replace(f"documents[{index}]", where)
        raise InputError(message) from error
    if as_json:
        for one in found:
            print_json(one)
        return
    table = plain_table("right", "right", "left")
    for rank, one in enumerate(found, 1):
        text = cell(named[one["index"]][1], "bold" if rank == 1 else "")
        table.add_row(Text(str(rank), style="dim"), Text(f"{one['score']:.3f}"), text)
    stdout().print(table)
