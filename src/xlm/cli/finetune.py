"""``xlm finetune``: adapt a model to a task with labelled data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer


def finetune(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="A recipe (YAML); options win.")] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", help="classify, tag, answer, choose, embed, rerank, fill, generate or translate."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="PATH|NAME", help="Where to begin. Default: the bundled one.")
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option("--train", metavar="PATH", help="JSONL, CSV, TSV, CoNLL, SQuAD, Parquet, hub:NAME:CONFIG:SPLIT."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="de=PATH", help="Sentences of one language (task translate)."),
    ] = None,
    evaluate: Annotated[
        list[str] | None, typer.Option("--eval", metavar="PATH", help="What to score on, and to choose the best by.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="DIR", help="The run's folder.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the data. Default: 3.")] = None,
    rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Default: by the model's width.")
    ] = None,
    tuning: Annotated[str | None, typer.Option("--tuning", help="full, frozen or lora.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of everything that is drawn.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the recipe, e.g. data.columns.text=body."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read the data, report on it, and stop.")] = False,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--fresh",
            help="Demand a checkpoint to go on from / begin anew. Default: go on if there is one.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
) -> None:
    """Fine-tune a model for a task; the result is a folder for every command's --model.

    Example: xlm finetune --task classify --train train.jsonl --eval dev.jsonl -o runs/mine

    [dim]Exit codes: 0 finished, 1 error, 75 stopped early by a signal or max_minutes, saved: the same command goes on.[/]
    """
    import yaml

    from xlm.errors import MissingExtraError
    from xlm.training.finetune_recipe import load_finetune, make_recipe
    from xlm.training.schema import set_value
    from xlm.training.translate_recipe import NAME, make_translate

    values: dict[str, Any] = load_finetune(recipe) if recipe is not None else {}
    beside = recipe is not None
    files = {name: _typed(of, beside) for name, of in (("train", train), ("text", text), ("eval", evaluate))}
    if beside and model is not None and Path(model).expanduser().exists():
        model = str(Path(model).expanduser().absolute())
    given = {"task": task, "model": model, "output": output, **files}
    given |= {"epochs": epochs, "learning_rate": rate, "seed": seed}
    values |= {name: value for name, value in given.items() if value is not None}
    if tuning is not None:
        values["tuning"] = {**values.get("tuning", {}), "kind": tuning}
    for assignment in assign or []:
        set_value(values, assignment, yaml.safe_load)
    translates = values.get("task") == NAME
    made = make_translate(values) if translates else make_recipe(values)
    try:
        from xlm.training import finetune, translate
    except ModuleNotFoundError as error:
        raise MissingExtraError("xlm finetune", error.name or "torch", "torch,train") from error
    run: Any = translate.run if translates else finetune.run
    outcome = run(made, resume=resume, quiet=quiet, check=check)
    first = os.environ.get("RANK", "0") == "0"
    if json and first:
        from xlm.cli.common import print_json

        print_json(outcome.record())
    if first and not outcome.finished:  # torchrun ends the others as soon as one ends so: the first is the last
        raise typer.Exit(finetune.EXIT_STOPPED)


def _typed(paths: list[str] | None, absolute: bool) -> str | list[str] | None:
    """Paths as they were typed; beside a recipe, whose own are relative to its folder, absolute ones."""
    if not paths:
        return None
    found = [_absolute(path) if absolute and not path.startswith("hub:") else path for path in paths]
    return found[0] if len(found) == 1 else found


def _absolute(path: str) -> str:
    """Both sides of ``A ||| B``, or the only one, behind the languages that a file may begin with."""
    said, equals, rest = path.partition("=")
    said, path = (said + equals, rest) if equals and not Path(path.split("|||")[0].strip()).exists() else ("", path)
    return said + " ||| ".join(str(Path(side.strip()).absolute()) for side in path.split("|||"))
