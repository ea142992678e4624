"""``xlm fill-mask``: what belongs in the place of ``<mask>``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from xlm.cli.common import (
    DeviceOption,
    DtypeOption,
    Errors,
    ErrorsOption,
    FileOption,
    JsonOption,
    LangOption,
    ModelOption,
    TruncateOption,
    input_texts,
    print_json,
    stdout,
)
from xlm.cli.render import anchored, percent

if TYPE_CHECKING:
    from xlm.inference.engine import Engine


def fill_mask(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts with <mask> in them; without any: lines of stdin.")
    ] = None,
    model: ModelOption = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many candidates for each mask.")] = 5,
    file: FileOption = None,
    truncate: TruncateOption = False,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    lang: LangOption = None,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
) -> None:
    """Say what belongs in the place of every [bold]<mask>[/].

    Example: xlm fill-mask "Paris is the <mask> of France."
    """
    # The lines are read before the model: nobody waits for a model to hear that there is no text.
    lines = input_texts(texts, file, errors)
    first = next(lines, None)
    if first is None:
        return
    from xlm.inference.engine import load

    engine = load(model, dtype=dtype, device=device, lang=lang)
    _answer(engine, *first, top_k, truncate, as_json)
    for where, text in lines:
        _answer(engine, where, text, top_k, truncate, as_json)


def _answer(engine: Engine, where: str, text: str, top_k: int, truncate: bool, as_json: bool) -> None:
    """Answer one text at once, so that a pipe that is typed into by hand answers line by line."""
    from xlm.errors import InputError

    try:
        answer = engine.fill_mask([text], top_k=top_k, truncate=truncate)[0]
    except InputError as error:
        raise InputError(str(error).replace("texts[0]", where)) from error
    if as_json:
        print_json(answer)
    else:
        screen = stdout()
        screen.print(Text(text, style="bold"))
        screen.print(answer_table(answer), "")


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
