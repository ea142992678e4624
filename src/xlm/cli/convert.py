"""``xlm convert``: the same checkpoint in another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from xlm.cli.common import JsonOption, print_json, stderr, stdout


def convert(
    src: Annotated[str, typer.Argument(metavar="SRC", help="A folder, a file of weights, or a name on the hub.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    to: Annotated[
        str, typer.Option("--to", help="The layout to write: transformers, fairseq, xlm (original).")
    ] = "transformers",
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16, float16; default: as they are.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option("--max-shard-size", help="Of one safetensors file.")] = "5GB",
    as_json: JsonOption = False,
) -> None:
    """Convert a checkpoint; the layout of SRC is found out.

    Reads transformers (safetensors, .bin, .h5, .msgpack), fairseq XLM-R of every age, and original XLM (.pth), its
    translation models (encoder and decoder) too.
    """
    from xlm.checkpoints import io
    from xlm.hub import resolve

    source = Path(src) if Path(src).exists() else resolve(src)
    report = io.convert(source, dst, to=to, dtype=dtype, max_shard_size=max_shard_size)
    files = sorted(file.name for file in dst.iterdir() if file.is_file())
    if as_json:
        print_json({"src": str(source), "dst": str(dst), "files": files, "report": report.to_dict()})
        return
    if report:
        stderr().print(Text(str(report)), soft_wrap=True)
    stdout().print(Text(f"{dst}: {', '.join(files)}"), soft_wrap=True)
