"""What the commands that answer share: their inputs as examples, from arguments, files, stdin or JSONL, in batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from xlm.cli.common import Errors, input_texts, print_json, stdout
from xlm.cli.render import anchored, percent

BATCH = 32
"""Inputs of a file that are answered at once. Lines of stdin are answered one by one, so that a pipe never waits."""

InputFileOption = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", metavar="PATH", help="Read from a file (.gz too): lines, or objects if it ends in .jsonl."
    ),
]
JsonlOption = Annotated[bool, typer.Option("--jsonl", help="The file, or stdin, holds one JSON object a line.")]


def examples(
    task: str,
    texts: list[str] | None,
    file: Path | None,
    jsonl: bool,
    of_line: Callable[[str], Any],
    errors: Errors = Errors.STRICT,
) -> Iterator[tuple[str, Any]]:
    """``(where, example)`` of every input; ``of_line`` makes an example of a plain text.

    Raises:
        InputError, DataError: nothing to read, or an input that cannot be used; where it stands is named.
    """
    from xlm.data.examples import examples_of
    from xlm.data.readers import decode_lines
    from xlm.data.tables import json_lines, read_rows

    if file is not None and not texts and (jsonl or ".jsonl" in "".join(file.suffixes)):
        yield from examples_of(read_rows(str(file), "jsonl"), task, str(file))
    elif jsonl and not texts and file is None:
        yield from examples_of(json_lines("stdin", decode_lines(sys.stdin.buffer, "stdin")), task, "stdin")
    else:
        for where, text in input_texts(texts, file, errors):
            yield where, of_line(text)


def answer_all(
    inputs: Iterator[tuple[str, Any]],
    load: Callable[[], Any],
    ask: Callable[[Any, list[Any]], list[dict[str, Any]]],
    show: Callable[[list[dict[str, Any]]], Any],
    as_json: bool,
    batch: int,
) -> None:
    """Answer all inputs in their order, batch after batch. The model is loaded when the first input is there."""
    from xlm.errors import InputError

    engine = None
    while some := list(islice(inputs, batch)):
        engine = engine or load()
        try:
            answers = ask(engine, [example for _, example in some])
        except InputError as error:
            message = str(error)
            for index, (where, _) in enumerate(some):
                for name in ("texts", "questions", "contexts", "prompts", "choices"):
                    message = message.replace(f"{name}[{index}]", where)
            raise InputError(message) from error
        if as_json:
            for answer in answers:
                print_json(answer)
        else:
            stdout().print(show(answers))


def batch_size(texts: list[str] | None, file: Path | None) -> int:
    """How many inputs are answered at once."""
    return BATCH if texts or file is not None else 1


def plain_table(*justify: str) -> Table:
    """A table without lines or header, its columns justified so."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for side in justify:
        table.add_column(justify=side, overflow="fold")  # type: ignore[arg-type]
    return table


def cell(text: str, style: str = "") -> Text:
    """A text of any script on one line."""
    return Text(anchored(" ".join(text.split())), style=style)


__all__ = ["answer_all", "batch_size", "cell", "examples", "percent", "plain_table"]
