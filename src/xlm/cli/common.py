"""What several commands share: the two consoles, the common options, input lines, JSON lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xlm.errors import DataError, InputError, OutputError

if TYPE_CHECKING:  # imported where they are used: a server, or answers as JSON, have no use for them
    from rich.console import Console


class Errors(StrEnum):
    """What to do with bytes that are not UTF-8."""

    STRICT = "strict"
    REPLACE = "replace"


MODEL = "The model"
"""The panel of the help for the options that say which model and how."""
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PATH|NAME",
        help="A folder, or a name on the hub. Default: bundled, the model in the package.",
        rich_help_panel=MODEL,
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Weights in memory: float32, bfloat16, float16 (GPU) or int8 (CPU). Default: float32, or as quantized.",
        rich_help_panel=MODEL,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, … Default: a GPU if there is one.", rich_help_panel=MODEL),
]
LangOption = Annotated[
    str | None,
    typer.Option(
        "--lang",
        metavar="CODE",
        help="The texts' language, for XLM models that know it. XLM-R needs none.",
        rich_help_panel=MODEL,
    ),
]
ErrorsOption = Annotated[
    Errors,
    typer.Option("--errors", help="Of bytes that are not UTF-8: refuse them (strict), or read U+FFFD in their place."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout.")]
TruncateOption = Annotated[
    bool, typer.Option("--truncate", help="Cut texts that are longer than the model instead of refusing them.")
]


def given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was given, on the command line or in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and not source.name.startswith("DEFAULT")


def refuse(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Refuse options that would be ignored; ``names`` are those of parameters, ``why`` ends the message.

    Raises:
        InputError: one of them was given.
    """
    for parameter in context.command.params:
        if parameter.name in names and given(context, parameter.name):
            option = next((flag for flag in parameter.opts if flag.startswith("--")), parameter.opts[0])
            raise InputError(f"{option} {why}")


def need_place(path: Path, option: str) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Raises:
        OutputError: its folder is not there or not writable, or it is a folder itself.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise OutputError(f"{option} is {str(path)!r}, a folder: a file is needed")
    if not folder.is_dir():
        raise OutputError(f"{option} is {str(path)!r}: it cannot be written, there is no folder {str(folder)!r}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{option} is {str(path)!r}: it cannot be written, the folder is not writable for this user")


_PLACES = 10
"""So many inputs are named in a note."""


def tell_cut(places: Sequence[str]) -> None:
    """One line on stderr about the inputs that were cut; nothing if none was."""
    if not places:
        return
    more = f" and {len(places) - _PLACES:,} more" if len(places) > _PLACES else ""
    count = "1 input was" if len(places) == 1 else f"{len(places):,} inputs were"
    _note(f"{count} longer than the model and cut: {', '.join(places[:_PLACES])}{more}")


def tell_replaced(faults: Sequence[DataError]) -> None:
    """One line on stderr about the lines that were no UTF-8; nothing if all were."""
    if faults:
        _note(f"{len(faults):,} lines with U+FFFD for what is not UTF-8: {faults[0]}")


def _note(text: str) -> None:
    from rich.text import Text

    stderr().print(Text(text), soft_wrap=True)


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


def need_stdin() -> None:
    """Raise InputError where stdin is a terminal, at which nobody has typed anything yet."""
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("no text: give texts as arguments, --file PATH, or lines on stdin")


def input_texts(
    texts: list[str] | None, file: Path | None, errors: Errors = Errors.STRICT, blank: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield ``(where, text)``: the arguments, or the lines of ``file``, or those of stdin when neither is given.

    ``where`` names the text in an error: ``argument 2``, ``FILE:17``, ``stdin:17``. What was replaced is counted on stderr.
    With ``blank`` empty lines are yielded like others.

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
    else:
        need_stdin()
        lines = decode_lines(sys.stdin.buffer, "stdin", replaced=replaced)
        numbered = ((f"stdin:{number}", line) for number, line in lines)
    for where, text in numbered:
        # An argument with bytes that are no UTF-8 arrives with lone surrogates in their place.
        if (bad := next((at for at, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)) is not None:
            raise DataError(f"{where}: invalid UTF-8: byte 0x{ord(text[bad]) & 0xFF:02x} after {text[:bad]!r}")
        if not text.strip() and not (blank and not texts):
            raise InputError(f"{where}: the text is empty: at least one character that is not a space is needed")
        yield where, text
    tell_replaced(faults)
