"""``xlm quantize``: a folder with int8 weights, written only if it answers like the model it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from xlm.cli.common import JsonOption, print_json, refuse, stderr, stdout

if TYPE_CHECKING:
    from xlm.inference.quantize import Quality


def quantize(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH|NAME", help="A folder, a name on the hub, or bundled.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write: a new or an empty one.")],
    texts: Annotated[
        list[str] | None,
        typer.Option(
            "--texts",
            metavar="[en=]FILE",
            help="Measure with these files, one a language, one text a line; without en= the name says the language.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Of each file the first lines, at most so many.")] = 200,
    cosine: Annotated[float, typer.Option(help="The least cosine of states with float32, in every language.")] = 0.99,
    agreement: Annotated[
        float, typer.Option(help="The least share of equal answers (nearest text, first guess), over all languages.")
    ] = 0.9,
    activations: Annotated[
        str | None,
        typer.Option(
            help="`calibrated`: scales fixed from every other text; `by row`: each row its own. "
            "Default: calibrated, if that keeps the bars."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write the folder even below these bars.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Store the encoder in one byte a weight, and say per language what that changes.

    Example: xlm quantize xlm-roberta-base xlmr-int8
    """
    from dataclasses import asdict

    from xlm.inference.quantize import Bars, read_texts
    from xlm.inference.quantize import quantize as run

    if not texts:
        refuse(context, ("limit",), "goes with --texts alone")
    given = read_texts(texts, limit) if texts else None
    quality = run(path, out, given, Bars(cosine, agreement, agreement), force, activations)  # type: ignore[arg-type]
    if as_json:
        for row in quality:
            print_json(asdict(row))
    else:
        stdout().print(quality_table(quality))
    stderr().print(f"{out}: written; xlm.load({str(out)!r}) opens it", soft_wrap=True)


def quality_table(quality: list[Quality]) -> Table:
    """A line a language: what int8 keeps of float32's answers."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("language")
    for heading in ("texts", "cosine", "nearest text", "first guess"):
        table.add_column(heading, justify="right")
    for row in quality:
        mask = "–" if row.mask is None else f"{row.mask:.0%}"
        table.add_row(row.language, str(row.texts), f"{row.cosine:.4f}", f"{row.retrieval:.0%}", mask)
    return table
