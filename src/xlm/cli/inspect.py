"""``xlm inspect``: what a checkpoint is, and what of it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from xlm.cli.common import JsonOption, print_json, stdout


def inspect(
    path: Annotated[
        str, typer.Argument(metavar="PATH|NAME", help="A folder, a file of weights, or a name on the hub.")
    ],
    values: Annotated[bool, typer.Option("--values", help="Read every tensor and look for NaN and infinity.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a checkpoint is: family, sizes, languages, types, and every tensor that does not fit.

    Reads transformers (PyTorch, TensorFlow, Flax), fairseq XLM-R and original XLM files; none of them can run code.
    """
    from xlm.checkpoints import io
    from xlm.hub import resolve

    facts = io.inspect(resolve(path) if not Path(path).exists() else path, values=values)
    if as_json:
        print_json(facts)
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows_of(facts):
        table.add_row(name, Text(value))
    stdout().print(table)
    if not facts["fits"]:
        stdout().print(Text(report_text(facts["report"])), soft_wrap=True)


def rows_of(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of the table: name and text."""
    sizes = facts["sizes"]
    languages = facts["languages"]
    rows = [
        ("path", facts["path"]),
        ("format", facts["format"]),
        ("family", facts["family"]),
        ("architecture", facts["architecture"] or "not said"),
        ("parameters", f"{facts['parameters']:,}"),
        (
            "layers",
            f"{_layers(facts)} of width {sizes['hidden']}, {sizes['heads']} heads, inner {sizes['feed_forward']}",
        ),
        ("vocabulary", f"{sizes['vocabulary']:,} tokens, at most {sizes['tokens']} a text"),
        ("languages", f"{len(languages)}: {' '.join(languages)}" if languages else "not said"),
        ("types", ", ".join(f"{name} ({count:,} numbers)" for name, count in facts["dtypes"].items())),
        ("files", f"{len(facts['files'])}, {facts['bytes']:,} bytes in {facts['tensors']} tensors"),
        ("tokenizer", ", ".join(facts["tokenizer"]) or "none"),
    ]
    if facts["labels"]:
        rows.append(("labels", ", ".join(facts["labels"].values())))
    rows += [("note", note) for note in facts["notes"]]
    if facts["fits"]:
        rows.append(("tensors", "every tensor fits"))
    return rows


def _layers(facts: dict[str, Any]) -> str:
    sides = " and ".join(f"{count} in the {side}" for side, count in facts["sides"].items())
    return f"{facts['sizes']['layers']} ({sides})" if sides else str(facts["sizes"]["layers"])


def report_text(report: dict[str, list[Any]]) -> str:
    """The report of what does not fit, as the library prints it everywhere."""
    from xlm.checkpoints.report import Report

    pairs = [(name, tuple(found), tuple(wanted)) for name, found, wanted in report["mismatched"]]
    return str(Report(**{**report, "mismatched": pairs}))
