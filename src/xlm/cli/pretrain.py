"""``xlm pretrain``: train a model from text files by a recipe."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, Any

import typer


def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe (YAML).")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="DIR", help="The run's folder, instead of the recipe's.")
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--fresh",
            help="Demand a checkpoint to go on from / set an earlier run aside. Default: go on if there is one.",
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, for example optimizer.learning_rate=5e-4."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Train nothing: estimate memory a GPU, tokens a second and days.")
    ] = False,
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", help="With --plan: how many GPUs.")] = 8,
    gpu: Annotated[
        str, typer.Option("--gpu", metavar="KIND", help="With --plan: a100-40, a100, h100, h200 or b200.")
    ] = "h100",
    fraction: Annotated[
        float, typer.Option("--fraction", help="With --plan: the share of the peak rate that is assumed.")
    ] = 0.4,
) -> None:
    """Pretrain a model from raw text by a recipe: MLM, TLM, CLM and contrastive, resumable at any time.

    [dim]Exit codes: 0 finished, 1 error, 75 stopped early by a signal or max_minutes, saved: the same command goes on.[/]
    """
    from xlm.errors import MissingExtraError
    from xlm.training.recipe import load_recipe

    loaded = load_recipe(recipe, assign or [], output)
    if plan:
        _plan(loaded, gpus, gpu, fraction, json)
        return
    try:
        from xlm.training.pretrain import EXIT_STOPPED
        from xlm.training.pretrain import pretrain as run
    except ModuleNotFoundError as error:
        raise MissingExtraError("xlm pretrain", error.name or "torch", "torch,train") from error
    outcome = run(loaded, resume=resume, quiet=quiet)
    first = os.environ.get("RANK", "0") == "0"
    if json and first:
        from xlm.cli.common import print_json

        print_json(outcome.record())
    if first and not outcome.finished:  # torchrun ends the others as soon as one ends so: the first is the last
        raise typer.Exit(EXIT_STOPPED)


def _plan(recipe: Any, gpus: int, gpu: str, fraction: float, as_json: bool) -> None:
    """Print what the recipe will need."""
    from xlm.cli.common import print_json
    from xlm.errors import MissingExtraError

    try:
        from xlm.training.plan import plan
    except ModuleNotFoundError as error:
        raise MissingExtraError("xlm pretrain --plan", error.name or "torch", "torch,train") from error
    made = plan(recipe, gpus, gpu, fraction)
    if as_json:
        print_json(dataclasses.asdict(made) | {"memory": made.memory, "fits": made.fits})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{made.parameters:,} parameters on {gpus} x {gpu}, {made.parallel}", title_justify="left")
    table.add_column("a GPU holds")
    table.add_column("GB", justify="right")
    names = ("weights", "gradients", "optimizer", "gathered", "activations", "logits", "runtime")
    for name in names:
        table.add_row(name, f"{getattr(made, name) / 1e9:,.2f}")
    table.add_section()
    verdict = "fits" if made.fits else "[red]does not fit[/]"
    table.add_row(f"together, of {made.available / 1e9:.0f}: {verdict}", f"{made.memory / 1e9:,.2f}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    slower = "communication" if made.communication_seconds > made.compute_seconds else "computing"
    console.print(
        f"A step: {made.micro_batches} x {made.micro_tokens:,} tokens a GPU; computing {made.compute_seconds:.2f} s at "
        f"{made.fraction:.0%} of the peak rate (assumed), communication {made.communication_seconds:.2f} s beside it: "
        f"{slower} decides."
    )
    days = "" if made.days is None else f", {made.days:,.1f} days for the recipe's {recipe.schedule.steps:,} steps"
    console.print(f"{made.tokens_per_second:,.0f} tokens/s{days}")
