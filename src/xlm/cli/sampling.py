"""The options of the commands that write text, for drawing tokens."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from xlm.cli.common import refuse

SampleOption = Annotated[bool, typer.Option("--sample", help="Draw tokens instead of searching for the best.")]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", help="With --sample: below 1 surer, above 1 bolder.")
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", min=1, help="With --sample: draw from so many of the likeliest tokens.")
]
TopPOption = Annotated[
    float, typer.Option("--top-p", help="With --sample: draw from the likeliest tokens with this share.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="With --sample: of what is drawn.")]


def sampling(
    context: typer.Context, sample: bool, temperature: float, top_k: int | None, top_p: float, seed: int | None
) -> dict[str, Any]:
    """The options of `generate` that these make.

    Raises:
        InputError: one of them without ``--sample``.
    """
    if not sample:
        refuse(context, ("temperature", "top_k", "top_p", "seed"), "goes with --sample alone")
        return {}
    chosen: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_p": top_p, "seed": seed}
    return chosen if top_k is None else {**chosen, "top_k": top_k}
