"""What several commands share: the two consoles, the common options, input lines, JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xlm.errors import DataError, InputError

if TYPE_CHECKING:  # imported where they are used: a server, or answers as JSON, have no use for them
    from rich.console import Console


class Errors(StrEnum):
    """What to do with bytes that are not UTF-8."""

    STRICT = "strict"
    REPLACE = "replace"


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="PATH|NAME", help="A folder, or a name on the hub. Default: the bundled model."
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Weights in memory: float32, bfloat16, float16 (GPU) or int8 (CPU). Default: float32, or as quantized.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, … Default: a GPU if there is one.")
]
LangOption = Annotated[
    str | None,
    typer.Option("--lang", metavar="CODE", help="The texts' language, for XLM models that know it. XLM-R needs none."),
]
ErrorsOption = Annotated[
    Errors,
    typer.Option("--errors", help="Of bytes that are not UTF-8: refuse them (strict), or read U+FFFD in their place."),
]
FileOption = Annotated[
    Path | None,
    typer.Option("--file", "-f", metavar="PATH", help="Read the texts from a file (.gz too), one a line."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout.")]
TruncateOption = Annotated[
    bool, typer.Option("--truncate", help="Cut texts that are longer than the model instead of refusing them.")
]


def stdout() -> Console:
    """Where answers go. Colours only on a terminal, and never with NO_COLOR."""
    from rich.console import Console

    return Console(highlight=False)


def stderr() -> Console:
    """Where progress, notes and errors go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def fail(message: str) -> None:
    """Print an error: red, on stderr, not wrapped, so that it can be searched for and copied."""
    from rich.text import Text

    stderr().print(Text(f"xlm: {message}", style="bold red"), soft_wrap=True)


def print_json(record: dict[str, Any]) -> None:
    """One JSON object on one line of stdout, in UTF-8, at once, so that a pipe sees every answer as it comes."""
    sys.stdout.buffer.write((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
    sys.stdout.buffer.flush()


def input_texts(
    texts: list[str] | None, file: Path | None, errors: Errors = Errors.STRICT
) -> Iterator[tuple[str, str]]:
    """Yield ``(where, text)``: the arguments, or the lines of ``file``, or those of stdin when neither is given.

    ``where`` names the text in an error: ``argument 2``, ``FILE:17``, ``stdin:17``. What was replaced is counted on stderr.

    Raises:
        InputError: nothing to read, both kinds of input at once, or an empty text or line.
        DataError: a file that cannot be read, or invalid UTF-8; file, line and byte are named.
    """
    from xlm.data.readers import decode_lines, read_lines

    faults: list[DataError] = []
    replaced = faults.append if errors is Errors.REPLACE else None
    if texts and file is not None:
        raise InputError(f"--file is {str(file)!r} and {len(texts)} texts are arguments: give one or the other")
    if texts:
        numbered = ((f"argument {number}", text) for number, text in enumerate(texts, 1))
    elif file is not None:
        numbered = ((f"{file}:{number}", line) for number, line in read_lines(file, replaced))
    elif sys.stdin is None or sys.stdin.isatty():
        raise InputError("no text: give texts as arguments, --file PATH, or lines on stdin")
    else:
        lines = decode_lines(sys.stdin.buffer, "stdin", replaced=replaced)
        numbered = ((f"stdin:{number}", line) for number, line in lines)
    for where, text in numbered:
        # An argument with bytes that are no UTF-8 arrives with lone surrogates in their place.
        if bad := next((at for at, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None):
            raise DataError(f"{where}: invalid UTF-8: byte 0x{ord(text[bad]) & 0xFF:02x} after {text[:bad]!r}")
        if not text.strip():
            raise InputError(f"{where}: the text is empty: at least one character that is not a space is needed")
        yield where, text
    if faults:
        from rich.text import Text

        stderr().print(Text(f"{len(faults):,} lines with U+FFFD for what is not UTF-8: {faults[0]}"), soft_wrap=True)
