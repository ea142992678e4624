"""``xlm export``: a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from xlm.cli.common import JsonOption, print_json, refuse, stdout


def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="PATH|NAME", help="A folder, a name on the hub, or bundled.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="model.onnx with model.onnx.data. The default.")] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="openvino_model.xml and .bin.")] = False,
    torch_export: Annotated[bool, typer.Option("--torch-export", help="model.pt2, for torch.export.load.")] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, float16 or (ONNX) int8.")] = "float32",
    opset: Annotated[int, typer.Option("--opset", min=18, help="Version of ONNX's operators.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Export a model with its head; what comes out is opened again and compared with the model before it is kept.

    Example: xlm export bundled /tmp/mini-onnx --onnx --dtype int8
    """
    from xlm.errors import InputError
    from xlm.inference.export import export as run

    chosen = [name for name, on in (("onnx", onnx), ("openvino", openvino), ("torch-export", torch_export)) if on]
    if len(chosen) > 1:
        raise InputError(f"--{' and --'.join(chosen)}: one format at a time")
    if chosen not in ([], ["onnx"]):
        refuse(context, ("opset",), f"is of ONNX, and the format is --{chosen[0]}")
    done = run(model, out, chosen[0] if chosen else "onnx", dtype, opset)
    if as_json:
        print_json(done.to_dict())
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("written", f"{done.folder}/{done.file}  ({done.bytes / 1e6:,.1f} MB, {done.dtype})")
    table.add_row("inputs", ", ".join(done.inputs))
    table.add_row("outputs", ", ".join(done.outputs))
    if done.layers:
        table.add_row("layer by layer", f"least cosine {min(done.layers):.6f} over {len(done.layers)} layers")
    table.add_row("opened again", f"least cosine {done.cosine:.6f}, largest relative difference {done.difference:.1e}")
    stdout().print(table)
