"""What the commands that answer share: their inputs as examples, from arguments, files, stdin or JSONL, in batches."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from xlm.cli.common import Errors, input_texts, need_stdin, print_json, stdout, tell_cut, tell_replaced
from xlm.cli.render import anchored, percent

if TYPE_CHECKING:
    from xlm.errors import DataError

BATCH = 32
"""Inputs of a file that are answered at once. Lines of stdin are answered one by one, so that a pipe never waits."""

_NUMBERED = re.compile(r"\b(texts|questions|contexts|prompts|choices|documents)\[(\d+)\]")
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
    blank: bool = False,
) -> Iterator[tuple[str, Any]]:
    """``(where, example)`` of every input; ``of_line`` makes an example of a plain text. With ``blank`` plain lines may be
    empty.

    Raises:
        InputError, DataError: nothing to read, or an input that cannot be used; where it stands is named.
    """
    from xlm.data.examples import examples_of
    from xlm.data.readers import decode_lines, read_lines
    from xlm.data.tables import json_lines
    from xlm.errors import InputError

    if texts and jsonl:
        raise InputError("--jsonl is of a file or stdin, and texts are arguments: give one or the other")
    if texts or not (jsonl or (file is not None and {".jsonl", ".ndjson"} & set(file.suffixes))):
        for where, text in input_texts(texts, file, errors, blank):
            yield where, of_line(text)
        return
    faults: list[DataError] = []
    replaced = faults.append if errors is Errors.REPLACE else None
    if file is None:
        need_stdin()
        name, lines = "stdin", decode_lines(sys.stdin.buffer, "stdin", replaced=replaced)
    else:
        name, lines = str(file), read_lines(file, replaced)
    yield from examples_of(json_lines(name, lines), task, name)
    tell_replaced(faults)


def answer_all(
    inputs: Iterator[tuple[str, Any]],
    load: Callable[[], Any],
    ask: Callable[[Any, list[Any]], list[dict[str, Any]]],
    show: Callable[[list[dict[str, Any]]], Any],
    as_json: bool,
    batch: int,
) -> None:
    """Answer all inputs in their order, batch after batch. The model is loaded when the first input is there."""
    engine, cut = None, []
    while some := list(islice(inputs, batch)):
        engine = engine or load()
        with placed([where for where, _ in some]):
            answers = ask(engine, [example for _, example in some])
        cut += [where for (where, _), answer in zip(some, answers, strict=True) if answer.get("truncated")]
        if as_json:
            for answer in answers:
                print_json(answer)
        else:
            stdout().print(show(answers))
    tell_cut(cut)


@contextmanager
def placed(places: Sequence[str]) -> Iterator[None]:
    """Let errors of the engine name inputs by where they stand instead of by their numbers."""
    from xlm.errors import InputError

    try:
        yield
    except InputError as error:

        def place(found: re.Match[str]) -> str:
            index = int(found[2])
            return places[index] if index < len(places) else found[0]

        raise InputError(_NUMBERED.sub(place, str(error))) from error


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


__all__ = ["answer_all", "batch_size", "cell", "examples", "percent", "placed", "plain_table"]
