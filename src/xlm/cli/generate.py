"""``xlm generate``: continue texts."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from xlm.cli.asking import InputFileOption, JsonlOption, answer_all, batch_size, examples
from xlm.cli.common import DeviceOption, DtypeOption, Errors, ErrorsOption, JsonOption, LangOption, ModelOption
from xlm.cli.render import anchored


def generate(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="How the texts begin; without any: lines of stdin.")
    ] = None,
    model: ModelOption = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens to add at most.")] = 50,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens instead of taking the best.")] = False,
    temperature: Annotated[float, typer.Option("--temperature", help="Of drawn tokens.")] = 1.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw from the likeliest tokens with this share.")] = 1.0,
    beams: Annotated[int, typer.Option("--beams", min=1, help="Beams of the search.")] = 1,
    seed: Annotated[int | None, typer.Option("--seed", help="Of drawn tokens.")] = None,
    file: InputFileOption = None,
    jsonl: JsonlOption = False,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    lang: LangOption = None,
    errors: ErrorsOption = Errors.STRICT,
    as_json: JsonOption = False,
) -> None:
    """Continue texts with a causal language model.

    Example: xlm generate -m runs/finetune/model "Once upon a time"
    """
    from xlm.tasks.examples import TextExample

    options: dict[str, Any] = {"num_beams": beams}
    if sample:
        options |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "seed": seed}

    def ask(engine: Any, found: list[TextExample]) -> list[dict[str, Any]]:
        return engine.generate([e.text for e in found], max_new_tokens=max_new_tokens, **options)

    def load() -> Any:
        from xlm.inference.engine import load

        return load(model, dtype=dtype, device=device, lang=lang)

    def show(answers: list[dict[str, Any]]) -> Group:
        lines = []
        for answer in answers:
            gap = "" if answer["generated"][:1].isspace() or answer["text"][-1:].isspace() else " "
            lines.append(Text(anchored(answer["text"] + gap)) + Text(anchored(answer["generated"]), style="bold"))
        return Group(*lines)

    inputs = examples("generate", texts, file, jsonl, lambda text: TextExample(text), errors)
    answer_all(inputs, load, ask, show, as_json, batch_size(texts, file))
