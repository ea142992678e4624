"""``xlm serve``: models behind HTTP."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from xlm.cli.common import stderr
from xlm.cli.loading import Load, runs_a_model

if TYPE_CHECKING:
    from xlm.serving.settings import Settings


_HERE = ("127.0.0.1", "localhost", "::1")
"""Where nobody else listens in."""


@runs_a_model("model", "lang", "plain_text")
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]PATH|NAME…", help="Folders or hub names. Default: the bundled model."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any free one.")] = 8000,
    lang: Annotated[
        list[str] | None,
        typer.Option(
            "--lang",
            metavar="[NAME=]CODE",
            help="The language of texts whose requests name none, for XLM models that know it. May be given again, by model.",
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            envvar="XLM_API_KEYS",
            help="A key that clients must send. May be given again; in the variable, keys are separated by spaces.",
        ),
    ] = None,
    plain_text: Annotated[
        bool,
        typer.Option(
            "--plain-text/--special-tokens",
            help="Read <mask> and </s> in texts as their characters, or as the tokens. /fill-mask always reads masks.",
        ),
    ] = True,
    open_metrics: Annotated[
        bool, typer.Option("--open-metrics", help="Answer /metrics without a key, as scrapers of Prometheus ask.")
    ] = False,
    tokens_a_pack: Annotated[
        int | None,
        typer.Option("--tokens-a-pack", min=16, help="Tokens of one forward. Default: 1024, on a GPU 16384."),
    ] = None,
    waiting_tokens: Annotated[int, typer.Option("--waiting-tokens", min=1, help="More than wait get 429.")] = 400_000,
    answer_seconds: Annotated[
        float, typer.Option("--answer-seconds", min=0.1, help="Then a request gets 504.")
    ] = 120.0,
    log_requests: Annotated[bool, typer.Option(help="One JSON line a request on stderr, without its texts.")] = False,
    *,
    load: Load,
) -> None:
    """Serve models over HTTP: OpenAI, Cohere and TEI routes, every task, a page at /.

    It listens at once: /health answers while the models are loaded, /ready when they are.

    Example: xlm serve xlm-roberta-base --port 8000
    """
    from xlm.serving.settings import Settings

    settings = Settings(
        tokens_a_pack=tokens_a_pack,
        waiting_tokens=waiting_tokens,
        answer_seconds=answer_seconds,
        api_keys=tuple(api_key or ()),
        plain_text=plain_text,
        open_metrics=open_metrics,
    )
    # What imports make is there to stay: looking it through for garbage, again and again as it grows, takes a tenth of the
    # time until the server is ready. From then on `run` lets it be looked for again.
    gc.disable()
    try:
        _serve(models or [None], load, lang or [], settings, host, port, log_requests)
    finally:
        gc.enable()


def _serve(
    models: Sequence[str | None],
    load: Load,
    langs: Sequence[str],
    settings: Settings,
    host: str,
    port: int,
    log_requests: bool,
) -> None:
    from xlm.errors import InputError, MissingExtraError

    try:
        from xlm.serving.run import run
    except ModuleNotFoundError as error:
        raise MissingExtraError("xlm serve", error.name or "fastapi", "serve") from error
    from xlm.serving.loading import loader, name_of

    places: dict[str, str | None] = {}
    for argument in models:
        name, path = None, argument
        if argument is not None and "=" in argument and not os.path.isdir(argument):
            name, path = argument.rsplit("=", 1)
        name = name or name_of(path)
        if name in places:
            raise InputError(f"two models are called {name!r}: give one of them another name, as in  NAME={path}")
        places[name] = path
    if host not in _HERE and not settings.api_keys:
        stderr().print(
            f"warning: --host {host} without keys: whoever reaches this machine can use the server; "
            "set --api-key or XLM_API_KEYS"
        )
    spoken = _by_model(langs, list(places))
    loaders = {name: loader(path, load, spoken.get(name)) for name, path in places.items()}
    run(loaders, settings, host=host, port=port, log_requests=log_requests, say=lambda text: stderr().print(text))


def _by_model(langs: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The language of each model, from ``CODE`` for all and ``NAME=CODE`` for one."""
    from xlm.errors import InputError

    found: dict[str, str] = {}
    for entry in sorted(langs, key=lambda entry: "=" in entry):  # what is said of one model wins
        name, _, code = entry.rpartition("=")
        if name and name not in names:
            raise InputError(f"--lang {entry}: there is no model {name!r} here, but {', '.join(names)}")
        found |= dict.fromkeys([name] if name else names, code)
    return found
