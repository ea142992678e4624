"""``xlm fill-mask``: what belongs in the place of ``<mask>``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from xlm.cli.asking import InputFileOption, JsonlOption, answer_all, batch_size, examples
from xlm.cli.common import Errors, ErrorsOption, JsonOption, TruncateOption
from xlm.cli.loading import Load, runs_a_model
from xlm.cli.render import anchored, percent


@runs_a_model()
def fill_mask(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts with <mask> in them; without any: lines of stdin.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many candidates for each mask.")] = 5,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    truncate: TruncateOption = False,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
    *,
    load: Load,
) -> None:
    """Say what belongs in the place of every [bold]<mask>[/].

    Example: xlm fill-mask "Paris is the <mask> of France."
    """
    from xlm.tasks.examples import TextExample

    def ask(engine: Any, found: list[TextExample]) -> list[dict[str, Any]]:
        return engine.fill_mask([example.text for example in found], top_k=top_k, truncate=truncate)

    # The lines are read before the model: nobody waits for a model to hear that there is no text.
    inputs = examples("fill", texts, file, jsonl, TextExample, errors)
    answer_all(inputs, load, ask, answer_tables, as_json, batch_size(texts, file))


def answer_tables(answers: list[dict[str, Any]]) -> Group:
    """Each text, and below it its candidates."""
    return Group(*(part for one in answers for part in (Text(one["text"], style="bold"), answer_table(one), Text(""))))


def answer_table(answer: dict[str, Any]) -> Table:
    """The candidates of one text: a row a rank, two columns a mask."""
    from xlm.tasks.fill import surface

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=len(answer["masks"]) > 1)
    table.add_column("", justify="right", style="dim")
    for number in range(1, len(answer["masks"]) + 1):
        table.add_column(f"mask {number}", no_wrap=True)
        table.add_column("", justify="right", style="dim")
    for rank, candidates in enumerate(zip(*answer["masks"], strict=True), 1):
        cells: list[Text] = []
        for candidate in candidates:
            cells += [Text(anchored(surface(candidate["token"]))), percent(candidate["probability"])]
        table.add_row(str(rank), *cells)
    return table
