"""``xlm pretrain``: train a model from text files by a recipe."""

from __future__ import annotations

import dataclasses
from typing import Annotated

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
) -> None:
    """Pretrain a model from raw text by a recipe: MLM, TLM and contrastive, resumable at any time.

    [dim]Exit codes: 0 finished, 1 error, 75 stopped early by a signal or max_minutes, saved: the same command goes on.[/]
    """
    from xlm.errors import MissingExtraError
    from xlm.training.recipe import load_recipe

    loaded = load_recipe(recipe, assign or [], output)
    try:
        from xlm.training.pretrain import EXIT_STOPPED
        from xlm.training.pretrain import pretrain as run
    except ModuleNotFoundError as error:
        raise MissingExtraError("xlm pretrain", error.name or "torch", "torch,train") from error
    outcome = run(loaded, resume=resume, quiet=quiet)
    if json:
        from xlm.cli.common import print_json

        record = dataclasses.asdict(outcome) | {"model": None if outcome.model is None else str(outcome.model)}
        print_json(record)
    if not outcome.finished:
        raise typer.Exit(EXIT_STOPPED)
