"""``xlm embed``: texts as vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from xlm.cli.asking import InputFileOption, JsonlOption, examples, placed
from xlm.cli.common import (
    Errors,
    ErrorsOption,
    JsonOption,
    TruncateOption,
    need_place,
    print_json,
    refuse,
    stderr,
    stdout,
    tell_cut,
)
from xlm.cli.loading import Load, runs_a_model
from xlm.cli.render import anchored, shade

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHOWN = 12
"""More texts than this do not fit beside each other in a terminal."""


@runs_a_model()
def embed(
    context: typer.Context,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts; without any: lines of stdin.")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            "--pooling", help="mean or max over the tokens, or cls: the first. Default: as the folder says, else mean."
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Scale every vector to unit length. Default: as the folder says, else yes.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="The name of one of the checkpoint's prompts, put before every text.")
    ] = None,
    long: Annotated[
        str,
        typer.Option("--long", help="Texts longer than the model: refuse them, or read them in overlapping windows."),
    ] = "refuse",
    chunks: Annotated[
        int | None,
        typer.Option(
            "--chunks",
            metavar="N",
            min=1,
            help="With --json: a vector for every chunk of up to N tokens, whole sentences, each seen with its whole text.",
        ),
    ] = None,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH.npy",
            help="Write the vectors (n, hidden) as float32; with --input: a folder.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="PATH|URL",
            help="Embed files into Parquet parts in --output: JSONL, CSV, Parquet or lines, a folder, s3://….",
        ),
    ] = None,
    column: Annotated[str, typer.Option("--column", help="With --input: the column of texts.")] = "text",
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="With --input: make every N-th part, from the I-th on.")
    ] = "0/1",
    rows: Annotated[int, typer.Option("--rows", min=1, help="With --input: rows of a part.")] = 10_000,
    half: Annotated[bool, typer.Option("--half", help="With --input: vectors as float16.")] = False,
    truncate: TruncateOption = False,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
    *,
    load: Load,
) -> None:
    """Turn texts into vectors; without --json or --output, show how similar they are.

    Example: xlm embed "The weather is fine." "Il fait beau." "I am hungry."
    """
    from xlm.errors import InputError
    from xlm.tasks.examples import TextExample

    options = {"pooling": pooling, "normalize": normalize, "prompt": prompt, "truncate": truncate, "long": long}
    if source is not None:
        if texts or file is not None:
            raise InputError(f"--input is {source!r} and there are other texts: give one or the other")
        if output is None:
            raise InputError(f"--input is {source!r}: --output must name a folder for its Parquet parts")
        refuse(context, ("errors", "chunks", "jsonl"), "does not go with --input")
        _embed_files(source, output, column, shard, rows, half, options, load, as_json)
        return
    refuse(context, ("column", "shard", "rows", "half"), "goes with --input alone")
    if chunks is not None:
        if not as_json:
            raise InputError(f"--chunks is {chunks}: it prints with --json")
        refuse(context, ("output", "pooling", "truncate", "long"), "does not go with --chunks")
    if output is not None:
        need_place(output, "--output")
    named = [(where, one.text) for where, one in examples("fill", texts, file, jsonl, TextExample, errors)]
    if not named:
        return
    drawn = output is None and not as_json
    if drawn and len(named) > _SHOWN:
        raise InputError(f"{len(named)} texts: at most {_SHOWN} fit on the screen: use --json or --output PATH.npy")
    places, lines = [where for where, _ in named], [text for _, text in named]
    engine = load()
    if chunks is not None:
        with placed(places):
            found = engine.embed_chunks(lines, chunks, normalize=normalize, prompt=prompt)
        for text, parts in zip(lines, found, strict=True):
            print_json({"text": text, "chunks": [{**part, "vector": part["vector"].tolist()} for part in parts]})
        return
    with placed(places):
        vectors = engine.embed(lines, **options)
    cut = set(engine.truncated(lines, prompt=prompt)) if truncate else set()
    if output is not None:
        save_vectors(output, vectors)
        stderr().print(f"{output}: {vectors.shape[0]:,} vectors of {vectors.shape[1]} float32 values", soft_wrap=True)
    if as_json:
        for number, (text, vector) in enumerate(zip(lines, vectors, strict=True)):
            record = {"text": text, "embedding": [float(value) for value in vector]}
            print_json({**record, "truncated": number in cut} if truncate else record)
    if drawn:
        stdout().print(similarity_table(lines, vectors))
    tell_cut([places[number] for number in sorted(cut)])


def _embed_files(
    source: str,
    output: Path,
    column: str,
    shard: str,
    rows: int,
    half: bool,
    options: dict[str, Any],
    load: Load,
    as_json: bool,
) -> None:
    import time
    from dataclasses import asdict

    from xlm.inference.bulk import Part, embed_files, parse_shard
    from xlm.inference.sources import need_source

    share = parse_shard(shard)
    need_source(source)  # nobody waits for a model to hear that there is no text
    engine = load()
    started, total = time.monotonic(), 0

    def say(part: Part) -> None:
        nonlocal total
        total += part.rows
        rate = total / max(time.monotonic() - started, 1e-9)
        stderr().print(f"{part.file}: {part.rows:,} rows ({rate:,.0f} rows/s)", soft_wrap=True)

    done = embed_files(
        engine, source, output, column=column, shard=share, rows_a_part=rows, half=half, on_part=say, **options
    )
    if as_json:
        print_json(asdict(done))
        return
    cut = f", {done.truncated:,} texts cut" if options["truncate"] else ""
    stdout().print(
        f"{done.output}: {done.rows:,} vectors in {done.written + done.kept} parts ({done.kept} were there), "
        f"{done.bad:,} bad rows{cut}",
        soft_wrap=True,
    )


def similarity_table(lines: list[str], vectors: NDArray[np.float32]) -> Table:
    """Cosines of all texts with all, coloured."""
    from xlm.tasks.retrieve import normalized

    unit = normalized(vectors)
    cosines = unit @ unit.T
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="dim")
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=40)
    for number in range(1, len(lines) + 1):
        table.add_column(str(number), justify="right", header_style="dim")
    for number, (line, row) in enumerate(zip(lines, cosines, strict=True), 1):
        cells = [Text(f" {value:.2f} ", style=shade(float(value), 0.0, 1.0)) for value in row]
        table.add_row(str(number), Text(anchored(line)), *cells)
    return table


def save_vectors(path: Path, vectors: NDArray[np.float32]) -> None:
    """Write a ``.npy`` file, whole or not at all.

    Raises:
        OutputError: it cannot be written; what was there before is intact.
    """
    import numpy as np

    from xlm.atomic import replacing

    with replacing(path, vectors.nbytes + 128) as stream:
        np.save(stream, vectors)
