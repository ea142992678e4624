"""``xlm generate``: continue texts."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from xlm.cli.asking import InputFileOption, JsonlOption, answer_all, batch_size, examples
from xlm.cli.common import Errors, ErrorsOption, JsonOption
from xlm.cli.loading import Load, runs_a_model
from xlm.cli.render import anchored
from xlm.cli.sampling import SampleOption, SeedOption, TemperatureOption, TopKOption, TopPOption, sampling


@runs_a_model()
def generate(
    context: typer.Context,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="How the texts begin; without any: lines of stdin.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens to add at most.")] = 50,
    sample: SampleOption = False,
    temperature: TemperatureOption = 1.0,
    top_k: TopKOption = None,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    beams: Annotated[int, typer.Option("--beams", min=1, help="Beams of the search.")] = 1,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
    *,
    load: Load,
) -> None:
    """Continue texts with a causal language model.

    Example: xlm generate -m runs/finetune/model "Once upon a time"
    """
    from xlm.tasks.examples import TextExample

    options = {"num_beams": beams, **sampling(context, sample, temperature, top_k, top_p, seed)}

    def ask(engine: Any, found: list[TextExample]) -> list[dict[str, Any]]:
        return engine.generate([e.text for e in found], max_new_tokens=max_new_tokens, **options)

    def show(answers: list[dict[str, Any]]) -> Group:
        lines = []
        for answer in answers:
            gap = "" if answer["generated"][:1].isspace() or answer["text"][-1:].isspace() else " "
            lines.append(Text(anchored(answer["text"] + gap)) + Text(anchored(answer["generated"]), style="bold"))
        return Group(*lines)

    inputs = examples("generate", texts, file, jsonl, lambda text: TextExample(text), errors)
    answer_all(inputs, load, ask, show, as_json, batch_size(texts, file))
