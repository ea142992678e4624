"""``xlm answer``: answers to questions as spans of a context."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from xlm.cli.asking import InputFileOption, JsonlOption, answer_all, batch_size, cell, examples, percent, plain_table
from xlm.cli.common import Errors, ErrorsOption, JsonOption, tell_replaced
from xlm.cli.loading import Load, runs_a_model


@runs_a_model()
def answer(
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION", help="Questions about the context.")
    ] = None,
    context: Annotated[str | None, typer.Option("--context", "-c", metavar="TEXT", help="Where the answer is.")] = None,
    context_file: Annotated[
        Path | None, typer.Option("--context-file", metavar="PATH", help="The same, from a file of any length.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many answers to a question.")] = 3,
    unanswerable: Annotated[bool, typer.Option("--unanswerable", help="Allow the answer that there is none.")] = False,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
    *,
    load: Load,
) -> None:
    """Find the answers to questions in a text with a fine-tuned model; JSONL needs the fields question and context.

    Example: xlm answer -m runs/finetune/model "Where was she born?" -c "Marie Curie was born in Warsaw."
    """
    from xlm.data.readers import read_lines
    from xlm.errors import DataError, InputError
    from xlm.tasks.examples import QuestionExample

    if context is not None and context_file is not None:
        raise InputError(f"--context and --context-file {str(context_file)!r}: give one or the other")
    if context_file is not None:
        faults: list[DataError] = []
        replaced = faults.append if errors is Errors.REPLACE else None
        context = "\n".join(line for _, line in read_lines(context_file, replaced))
        tell_replaced(faults)

    def with_context(question: str) -> QuestionExample:
        if context is None:
            raise InputError("no context: give --context TEXT, --context-file PATH, or JSONL with question and context")
        return QuestionExample(question, context)

    def ask(engine: Any, found: list[QuestionExample]) -> list[dict[str, Any]]:
        asked, given = [e.question for e in found], [e.context for e in found]
        return engine.answer(asked, given, top_k=top_k, unanswerable=unanswerable)

    inputs = examples("answer", questions, file, jsonl, with_context, errors)
    answer_all(inputs, load, ask, answer_tables, as_json, batch_size(questions, file))


def answer_tables(answers: list[dict[str, Any]]) -> Group:
    """Each question, and below it a row an answer."""
    blocks: list[Any] = []
    for one in answers:
        table = plain_table("right", "left", "right", "right")
        for rank, found in enumerate(one["answers"], 1):
            text = cell(found["text"], "bold" if rank == 1 else "") if found["text"] else Text("no answer", style="dim")
            place = Text(f"{found['start']}-{found['end']}" if found["text"] else "", style="dim")
            table.add_row(Text(str(rank), style="dim"), text, place, percent(found["probability"]))
        blocks += [cell(one["question"]), table, Text("")]
    return Group(*blocks)
