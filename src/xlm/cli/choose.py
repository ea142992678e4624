"""``xlm choose``: which of several choices fits a prompt."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from xlm.cli.asking import InputFileOption, JsonlOption, answer_all, batch_size, cell, examples, percent, plain_table
from xlm.cli.common import Errors, ErrorsOption, JsonOption, TruncateOption
from xlm.cli.loading import Load, runs_a_model


@runs_a_model()
def choose(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="What the choices are about.")] = None,
    choices: Annotated[list[str] | None, typer.Argument(metavar="CHOICE", help="Two or more.")] = None,
    question: Annotated[
        str | None, typer.Option("--question", metavar="TEXT", help="What is asked: cause, effect, or a text.")
    ] = None,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    truncate: TruncateOption = False,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
    *,
    load: Load,
) -> None:
    """Say which choice fits a prompt best with a fine-tuned model; JSONL needs the fields prompt and choices.

    Example: xlm choose -m runs/finetune/model "It rained." "The street is wet." "The sun shines."
    """
    from xlm.errors import InputError
    from xlm.tasks.examples import ChoiceExample

    of_file = file is not None or jsonl
    if prompt is not None and of_file:
        raise InputError("give a prompt with its choices, or --file, or --jsonl: not both")
    texts = None if prompt is None else [prompt]

    def one(text: str) -> ChoiceExample:
        return ChoiceExample(text, tuple(choices or ()), question=question)

    def ask(engine: Any, found: list[ChoiceExample]) -> list[dict[str, Any]]:
        given, options, asked = [e.prompt for e in found], [e.choices for e in found], [e.question for e in found]
        answers = engine.choose(given, options, questions=asked, truncate=truncate)
        return [{**a, "choices": list(e.choices)} for a, e in zip(answers, found, strict=True)]

    inputs = examples("choose", texts, file, jsonl or (prompt is None and file is not None), one, errors)
    answer_all(inputs, load, ask, choice_tables, as_json, batch_size(texts, file))


def choice_tables(answers: list[dict[str, Any]]) -> Group:
    """Each prompt, and below it a row a choice, the best in bold."""
    blocks: list[Any] = []
    for answer in answers:
        table = plain_table("right", "left")
        for number, (text, share) in enumerate(zip(answer["choices"], answer["probabilities"], strict=True)):
            table.add_row(percent(share), cell(text, "bold" if number == answer["best"] else ""))
        blocks += [cell(answer["prompt"]), table, Text("")]
    return Group(*blocks)
