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

from xlm.cli.asking import InputFileOption, JsonlOption, examples, placed
from xlm.cli.common import (
    Errors,
    ErrorsOption,
    JsonOption,
    TruncateOption,
    print_json,
    refuse,
    stderr,
    stdout,
    tell_cut,
)
from xlm.cli.loading import Load, runs_a_model
from xlm.cli.render import anchored
from xlm.cli.sampling import SampleOption, SeedOption, TemperatureOption, TopKOption, TopPOption, sampling

_AT_ONCE = 256
"""Inputs of a file that are read before any is translated: enough to sort by length. Lines of stdin do not wait."""


@runs_a_model("model", "lang", "batch_invariant", "compile", "offload")
def translate(
    context: typer.Context,
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
    beams: Annotated[
        int | None,
        typer.Option(
            "--beams",
            "-b",
            min=1,
            help="Beams of the search; 1 is fastest. Default: 4, with --sample 1.",
            show_default=False,
        ),
    ] = None,
    length_penalty: Annotated[
        float, typer.Option("--length-penalty", help="Of beams: above 0 favours long translations, below short ones.")
    ] = 1.0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", "-n", min=1, help="Of a translation. Default: 1.5 × its text, and 10."),
    ] = None,
    sample: SampleOption = False,
    temperature: TemperatureOption = 1.0,
    top_k: TopKOption = None,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    truncate: TruncateOption = False,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
    *,
    load: Load,
) -> None:
    """Translate texts with an encoder-decoder: a fine-tuned one, or an original XLM's after `xlm convert`.

    Lines of a file or of stdin become as many lines, empty ones too.
    Languages may be left out where the model knows one direction only.

    Example: xlm translate -m runs/de-en/model --from de --to en "Guten Morgen!"
    """
    from xlm.errors import InputError
    from xlm.tasks.examples import TextExample

    if model is None:
        raise InputError("--model is missing: the bundled model does not translate; give a folder or a name on the hub")
    beams = beams or (1 if sample else 4)
    if beams == 1:
        refuse(context, ("length_penalty",), f"is of beams, and there is 1{' with --sample' * sample}: add --beams N")
    options: dict[str, Any] = {"num_beams": beams, "length_penalty": length_penalty, "truncate": truncate}
    options |= {"max_new_tokens": max_new_tokens, **sampling(context, sample, temperature, top_k, top_p, seed)}
    inputs = examples("generate", texts, file, jsonl, TextExample, errors, blank=True)
    engine: Any = None
    cut: list[str] = []
    at_once = _AT_ONCE if texts or file is not None else 1
    done = 0
    with _progress(_lines_of(file), as_json) as tell:
        while some := list(islice(inputs, at_once)):
            if engine is None:
                engine = load(model=model)
            full = [(where, example.text) for where, example in some if example.text.strip()]
            with placed([where for where, _ in full]):
                made = engine.translate(
                    [text for _, text in full],
                    target,
                    source,
                    progress=lambda count, done=done: tell(done + count),
                    **options,
                )
            cut += [where for (where, _), answer in zip(full, made, strict=True) if answer.get("truncated")]
            read, written = engine.direction(source, target)
            answers = _with_blanks([example.text for _, example in some], made, {"source": read, "target": written})
            for answer in answers if as_json else ():
                print_json(answer)
            if not as_json:
                show(answers, beside=bool(texts) and sys.stdout.isatty())
            done += len(answers)
    tell_cut(cut)


def _with_blanks(texts: list[str], made: list[dict[str, Any]], spoken: dict[str, Any]) -> list[dict[str, Any]]:
    """The translations in the places of their texts; an empty line stays one."""
    answers = iter(made)
    return [next(answers) if text.strip() else {"text": text, "translation": "", **spoken} for text in texts]


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
