"""The ``xlm`` command: one module a command, imported only when that command runs.

A command's module holds a function of the module's own name, or a Typer named ``app`` when the command has commands of its
own. It must stay cheap to import (``xlm --help`` imports them all): frameworks and models are imported inside the function.

Answers go to stdout, everything else to stderr. Exit codes: 0 done, 1 an error (one red line; ``--debug`` or XLM_DEBUG=1
shows the traceback), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from xlm.errors import XLMError

# name -> (module in xlm.cli, heading in the help), in the order of the help.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Use a model"),
    "fill-mask": ("fill_mask", "Use a model"),
    "embed": ("embed", "Use a model"),
    "classify": ("classify", "Use a model"),
    "tag": ("tag", "Use a model"),
    "answer": ("answer", "Use a model"),
    "choose": ("choose", "Use a model"),
    "rerank": ("rerank", "Use a model"),
    "generate": ("generate", "Use a model"),
    "translate": ("translate", "Use a model"),
    "serve": ("serve", "Use a model"),
    "pretrain": ("pretrain", "Make a model"),
    "finetune": ("finetune", "Make a model"),
    "evaluate": ("evaluate", "Make a model"),
    "tokenizer": ("tokenizer", "Make a model"),
    "corpus": ("corpus", "Make a model"),
    "convert": ("convert", "Look at checkpoints and convert them"),
    "trim": ("trim", "Look at checkpoints and convert them"),
    "export": ("export", "Look at checkpoints and convert them"),
    "inspect": ("inspect", "Look at checkpoints and convert them"),
    "quantize": ("quantize", "Look at checkpoints and convert them"),
    "doctor": ("doctor", "About this installation"),
    "version": ("version", "About this installation"),
}
_HELP = {"help_option_names": ["-h", "--help"]}


class LazyCommands(typer.core.TyperGroup):
    """A group whose commands are imported when they are looked up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # the names alone: for help and suggestions

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        name, panel = COMMANDS[cmd_name]
        module = importlib.import_module(f"xlm.cli.{name}")
        command: Any
        if hasattr(module, "app"):
            command = typer.main.get_group(module.app)
        else:
            shell = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=_HELP)
            shell.command(cmd_name)(getattr(module, name))
            command = typer.main.get_command(shell)
        command.name, command.rich_help_panel = cmd_name, panel
        return command


app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    context_settings=_HELP,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from xlm import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Cross-lingual encoders: fill masks, embed, pretrain and convert [bold]XLM[/], [bold]XLM-R[/] and [bold]XLM-R XL[/].

    [dim]Without --model: the small model of the package (bundled), which fills masks and embeds.
    Other tasks need a model that was trained for them.[/]
    """
    if debug:
        os.environ["XLM_DEBUG"] = "1"
    # The library's logger alone: the libraries beneath have handlers of their own.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log = logging.getLogger("xlm")
    log.handlers = [handler]
    log.setLevel(logging.INFO if verbose else logging.WARNING)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line ``args`` (default: the process's) and return the exit code."""
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        typer.main.get_command(app).main(arguments, prog_name="xlm")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        if os.environ.get("XLM_DEBUG", "0") not in ("", "0"):
            raise
        message = str(error) if isinstance(error, XLMError) else f"unexpected {type(error).__name__}: {error}"
        hint = "" if isinstance(error, XLMError) else "  (xlm --debug … shows the traceback)"
        # Imported late: a command that succeeds with --json never needs rich.
        from xlm.cli.common import fail

        fail(message + hint)
        return 1
    return 0
