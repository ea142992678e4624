"""``xlm serve``: models behind HTTP."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from xlm.cli.common import DeviceOption, DtypeOption, stderr


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]PATH|NAME…", help="Folders or hub names. Default: the bundled model."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any free one.")] = 8000,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option("--api-key", envvar="XLM_API_KEYS", help="A key that clients must send. May be given again."),
    ] = None,
    tokens_a_pack: Annotated[int, typer.Option("--tokens-a-pack", min=16, help="Tokens of one forward.")] = 1024,
    waiting_tokens: Annotated[int, typer.Option("--waiting-tokens", min=1, help="More than wait get 429.")] = 400_000,
    answer_seconds: Annotated[
        float, typer.Option("--answer-seconds", min=0.1, help="Then a request gets 504.")
    ] = 120.0,
    log_requests: Annotated[bool, typer.Option(help="One JSON line a request on stderr, without its texts.")] = False,
) -> None:
    """Serve models over HTTP: OpenAI, Cohere and TEI routes, every task, a page at /.

    Example: xlm serve xlm-roberta-base --port 8000
    """
    from xlm.errors import MissingExtraError
    from xlm.inference.engine import load

    try:
        from xlm.serving.run import run
    except ModuleNotFoundError as error:
        raise MissingExtraError("xlm serve", error.name or "fastapi", "serve") from error
    from xlm.serving.served import name_of
    from xlm.serving.settings import Settings

    settings = Settings(
        tokens_a_pack=tokens_a_pack,
        waiting_tokens=waiting_tokens,
        answer_seconds=answer_seconds,
        api_keys=tuple(api_key or ()),
    )
    engines = {}
    for argument in models or [None]:
        name, _, path = (
            (argument or "").rpartition("=") if argument and not os.path.isdir(argument) else ("", "", argument or "")
        )
        engine = load(path or None, dtype=dtype, device=device)
        engines[name or name_of(path or engine.name)] = engine
    run(engines, settings, host=host, port=port, log_requests=log_requests, say=lambda text: stderr().print(text))
