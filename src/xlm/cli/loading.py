"""The options that say which model a command runs and how: the same for every command, each a field of `xlm.load`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, Any, get_type_hints

import typer

from xlm.cli.common import MODEL, DeviceOption, DtypeOption, LangOption, ModelOption

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "model": (ModelOption, None),
    "dtype": (DtypeOption, None),
    "device": (DeviceOption, None),
    "lang": (LangOption, None),
    "batch_invariant": (
        Annotated[
            bool,
            typer.Option(
                "--batch-invariant",
                help="Compute each text to the same bits whatever is computed with it; slower.",
                rich_help_panel=MODEL,
            ),
        ],
        False,
    ),
    "plain_text": (
        Annotated[
            bool,
            typer.Option(
                "--plain-text",
                help="Read <mask> and </s> in texts as their characters; fill-mask reads masks all the same.",
                rich_help_panel=MODEL,
            ),
        ],
        False,
    ),
    "compile": (
        Annotated[
            bool,
            typer.Option(
                "--compile",
                help="On a GPU, in bfloat16 or float16: compile it, slow at first, faster later.",
                rich_help_panel=MODEL,
            ),
        ],
        False,
    ),
    "offload": (
        Annotated[
            str | None,
            typer.Option(
                "--offload",
                metavar="disk",
                help="Leave the weights in their files, for models larger than the memory.",
                rich_help_panel=MODEL,
            ),
        ],
        None,
    ),
    "strict_finite": (
        Annotated[
            bool,
            typer.Option(
                "--strict-finite",
                help="Refuse weights with NaN or infinities, instead of a warning; reads all of them.",
                rich_help_panel=MODEL,
            ),
        ],
        False,
    ),
    "allow_pickle": (
        Annotated[
            bool,
            typer.Option(
                "--pickle/--no-pickle",
                help="Read files that are PyTorch's pickles (their tensors alone), or refuse them.",
                rich_help_panel=MODEL,
            ),
        ],
        True,
    ),
}
Load = Callable[..., Any]
"""Makes the engine that the options ask for; takes by name the options that the command has itself."""


def runs_a_model(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a model, but for those ``without``; it gets them as one argument ``load``, a `Load`."""
    options = {name: option for name, option in _OPTIONS.items() if name not in without}

    def give(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in options}
            command(load=partial(load_engine, **chosen), **values)

        hints = get_type_hints(command, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name])
            for p in inspect.signature(command).parameters.values()
            if p.name != "load"
        ]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in options.items()
        ]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + more
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return give


def load_engine(model: str | None = None, **options: Any) -> Any:
    """An engine; PyTorch is imported only now."""
    from xlm.inference.engine import load

    return load(model, **options)
