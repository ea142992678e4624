"""``xlm translate``: texts of one language in another."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from xlm.cli.asking import InputFileOption, JsonlOption, examples
from xlm.cli.common import (
    DeviceOption,
    DtypeOption,
    Errors,
    ErrorsOption,
    JsonOption,
    TruncateOption,
    print_json,
    stderr,
    stdout,
)
from xlm.cli.render import anchored

_AT_ONCE = 256
"""Inputs of a file that are read before any is translated: enough to sort by length. Lines of stdin do not wait."""


def translate(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts to translate; without any: lines of stdin.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="PATH|NAME", help="The folder of a translation model, or a name."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", "-t", metavar="CODE", help="Language to translate into.")
    ] = None,
    source: Annotated[str | None, typer.Option("--from", "-s", metavar="CODE", help="Language of the texts.")] = None,
    beams: Annotated[int, typer.Option("--beams", "-b", min=1, help="Beams of the search; 1 is fastest.")] = 4,
    length_penalty: Annotated[
        float, typer.Option("--length-penalty", help="Above 0 favours long translations, below short ones.")
    ] = 1.0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", "-n", min=1, help="Of a translation. Default: 1.5 × its text, and 10."),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens instead of searching for the best.")] = False,
    temperature: Annotated[float, typer.Option("--temperature", help="Of drawn tokens.")] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Of drawn tokens.")] = None,
    truncate: TruncateOption = False,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    errors: ErrorsOption = Errors.STRICT,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Translate texts with an encoder-decoder: a fine-tuned one, or an original XLM's after `xlm convert`.

    Lines of a file or of stdin become as many lines. Languages may be left out where the model knows one direction only.

    Example: xlm translate -m runs/de-en/model --from de --to en "Guten Morgen!"
    """
    from xlm.errors import InputError
    from xlm.tasks.examples import TextExample

    if model is None:
        raise InputError("--model is missing: the bundled model does not translate; give a folder or a name on the hub")
    options: dict[str, Any] = {"num_beams": beams, "length_penalty": length_penalty, "truncate": truncate}
    options |= {"max_new_tokens": max_new_tokens, "seed": seed}
    if sample:
        options |= {"do_sample": True, "temperature": temperature, "num_beams": 1}
    inputs = examples("generate", texts, file, jsonl, lambda text: TextExample(text), errors)
    engine: Any = None
    at_once = _AT_ONCE if texts or file is not None else 1
    done = 0
    with _progress(_lines_of(file), as_json) as tell:
        while some := list(islice(inputs, at_once)):
            if engine is None:
                from xlm.inference.engine import load

                engine = load(model, dtype=dtype, device=device)
            try:
                given = [example.text for _, example in some]
                answers = engine.translate(
                    given, target, source, progress=lambda count, done=done: tell(done + count), **options
                )
            except InputError as error:
                message = str(error)
                for index, (where, _) in enumerate(some):
                    message = message.replace(f"texts[{index}]", where)
                raise InputError(message) from error
            for answer in answers if as_json else ():
                print_json(answer)
            if not as_json:
                show(answers, beside=bool(texts) and sys.stdout.isatty())
            done += len(answers)


def show(answers: list[dict[str, Any]], beside: bool) -> None:
    """Print translations, one a line; ``beside``: each below its text."""
    if not beside:
        for answer in answers:
            stdout().print(Text(" ".join(answer["translation"].split())), soft_wrap=True)
        return
    lines = []
    for answer in answers:
        lines += [Text(anchored(answer["text"]), style="dim"), Text(anchored(answer["translation"]), style="bold")]
    stdout().print(Group(*lines))


class _progress:
    """A bar on stderr for files, where stderr is a terminal that answers do not go to as well."""

    def __init__(self, total: int | None, as_json: bool) -> None:
        wanted = total is not None and sys.stderr.isatty() and (as_json or not sys.stdout.isatty())
        columns = (TextColumn("translating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=stderr(), transient=True) if wanted else None
        self.total = total

    def __enter__(self) -> Any:
        if self.bar is None:
            return lambda count: None
        self.bar.start()
        task = self.bar.add_task("translating", total=self.total)
        return lambda count: self.bar.update(task, completed=count) if self.bar is not None else None

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def _lines_of(file: Path | None) -> int | None:
    """Lines of a plain file, for the bar."""
    if file is None or file.suffix == ".gz" or not file.is_file():
        return None
    with file.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
