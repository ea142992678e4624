"""``xlm demo``: what a model can do, in many languages, within seconds."""

from __future__ import annotations

import math
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from xlm.cli.common import stderr, stdout
from xlm.cli.loading import Load, runs_a_model
from xlm.cli.render import anchored, percent, shade

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xlm.inference.engine import Engine

SECONDS = 2.0
"""How long the speed is measured."""


@runs_a_model("lang", "plain_text")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the picture goes.")] = Path(
        "demo"
    ),
    *,
    load: Load,
) -> None:
    """Fill masks in many languages, find translations, measure the speed.

    The sentences were written for the demo; the picture of the similarities is saved in --output.
    """
    from xlm.assets import DEMO_TEXTS

    screen = stdout()
    texts = tomllib.loads(DEMO_TEXTS.read_text("utf-8"))
    started = time.perf_counter()
    with stderr().status("Loading the model"):
        engine = load()
    screen.print(introduction(engine, time.perf_counter() - started))
    screen.print()
    show_masks(screen, engine, texts["fill"])
    show_translations(screen, engine, texts["same"], texts["codes"], output)
    show_speed(screen, engine, texts["same"])


def introduction(engine: Engine, seconds: float) -> Text:
    """What was loaded, and what to expect of it."""
    from xlm.checkpoints.expected import expected_shapes

    # By the config: the model in memory holds its matrices packed, not as parameters.
    shapes = expected_shapes(engine.model.config, type(engine.model).__name__)
    count = sum(math.prod(shape) for shape in shapes.values())
    line = Text.assemble((engine.name, "bold"), f": {count / 1e6:.1f} million parameters, loaded in {seconds:.1f} s. ")
    if count < 50e6:
        line.append("It is a small model: expect rough guesses.", "dim")
    return line


def show_masks(screen: Console, engine: Engine, entries: list[dict[str, str]]) -> None:
    """The five best guesses for the mask of every sentence, the intended word in green."""
    answers = engine.fill_mask([entry["text"] for entry in entries], top_k=5)
    scripts = {entry["script"] for entry in entries}
    screen.print(Rule(f"What belongs in the gap?  {len(entries)} languages, {len(scripts)} scripts", align="left"))
    for entry, answer in zip(entries, answers, strict=True):
        screen.print(masks_block(entry, answer["masks"][0]))
    first = sum(is_word(answer["masks"][0][0], entry) for entry, answer in zip(entries, answers, strict=True))
    among = sum(
        any(is_word(guess, entry) for guess in answer["masks"][0])
        for entry, answer in zip(entries, answers, strict=True)
    )
    screen.print(
        f"The intended word (green) is the first guess in {first} of {len(entries)} languages, "
        f"among the first five in {among}.\n"
    )


def masks_block(entry: dict[str, str], guesses: list[dict[str, Any]]) -> Group:
    """One sentence with its gap and its English meaning, and under it the guesses in columns."""
    before, _, after = entry["text"].partition("<mask>")
    sentence = Text.assemble((f"{entry['language']:<11}", "bold"), anchored(f"{before}▁▁▁▁{after}"))
    sentence.no_wrap, sentence.overflow = True, "ellipsis"
    if entry["english"] != entry["text"].replace("<mask>", entry["word"]):
        sentence.append(f"  {entry['english']}", "dim")
    grid = Table.grid(padding=(0, 1, 0, 0))
    cells: list[Text] = []
    for guess in guesses:
        grid.add_column(justify="right", width=6)
        grid.add_column(min_width=6, max_width=12, no_wrap=True, overflow="ellipsis")
        word = Text(anchored(shown_word(guess)), style="bold green" if is_word(guess, entry) else "")
        cells += [percent(guess["probability"]), word]
    grid.add_row(*cells)
    return Group(sentence, Padding(grid, (0, 0, 0, 11)))


def shown_word(guess: dict[str, Any]) -> str:
    """The guessed token as a reader writes it."""
    from xlm.tasks.fill import surface

    return surface(guess["token"])


def is_word(guess: dict[str, Any], entry: dict[str, str]) -> bool:
    """Whether a guess is the word that the author of the sentence had in mind."""
    return shown_word(guess) == entry["word"]


def show_translations(
    screen: Console, engine: Engine, entries: list[dict[str, str]], codes: dict[str, str], folder: Path
) -> None:
    """The similarity of English sentences to sentences in other languages: on the screen, in words, as a picture."""
    from xlm.tasks.retrieve import nearest

    languages = list(codes)
    english = engine.embed([entry["english"] for entry in entries])
    others = {name: engine.embed([entry[name] for entry in entries]) for name in languages}
    cosines = {name: english @ vectors.T for name, vectors in others.items()}
    screen.print(Rule("Which sentence says the same?  Cosines of English with other languages", align="left"))
    shown = [entry["shown"] for entry in entries]
    mixed = mixed_matrix(cosines, shown)
    screen.print(matrix_table([entry["english"] for entry in entries], [codes[name] for name in shown], mixed))
    for row, column in enumerate(nearest(mixed)):
        mark = Text(" ✓ ", "bold green") if row == column else Text(" ✗ ", "bold red")
        found = anchored(entries[column][shown[column]])
        screen.print(
            mark, Text(f"{entries[row]['english']:<38}", "dim"), found, sep="", no_wrap=True, overflow="ellipsis"
        )
    right = {name: sum(int(column == row) for row, column in enumerate(nearest(m))) for name, m in cosines.items()}
    total = len(entries)
    parts = ", ".join(f"{name} {count}" for name, count in right.items())
    screen.print(f"\nRight first among {total} candidates, of {total} sentences: {parts}.")
    chance = f"Guessing would find {1 / total:.0%}; found {sum(right.values()) / (total * len(right)):.0%}."
    screen.print(chance)
    save_picture(screen, folder / "similarity.png", [entry["english"] for entry in entries], cosines, engine.name)


def mixed_matrix(cosines: dict[str, NDArray[np.float32]], shown: list[str]) -> NDArray[np.float32]:
    """Column i of the matrix of the i-th language shown: every candidate in a language of its own."""
    import numpy as np

    return np.stack([cosines[name][:, column] for column, name in enumerate(shown)], axis=1)


def matrix_table(rows: list[str], columns: list[str], values: NDArray[np.float32]) -> Table:
    """The matrix with coloured cells, the largest of each row in bold."""
    table = Table(box=None, padding=(0, 0), header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True, width=38)
    for name in columns:
        table.add_column(name, justify="center", width=5)
    low, high = float(values.min()), float(values.max())
    for label, row in zip(rows, values, strict=True):
        best = row.argmax()
        cells = [Text(f"{value:5.2f}", shade(float(value), low, high)) for value in row]
        cells[best].stylize("bold underline")
        table.add_row(label, *cells)
    return table


def save_picture(
    screen: Console, path: Path, rows: list[str], cosines: dict[str, NDArray[np.float32]], name: str
) -> None:
    """Save the similarities of all languages as a PNG, or say what it takes."""
    from xlm.errors import MissingExtraError

    try:
        from xlm.cli.picture import draw_similarities
    except MissingExtraError as error:
        screen.print(f"No picture: {error}\n")
        return
    draw_similarities(path, rows, cosines, f"Cosine similarity of sentence embeddings ({name})")
    screen.print(f"The matrices of all {len(cosines)} languages: {path}\n", soft_wrap=True)


def show_speed(screen: Console, engine: Engine, entries: list[dict[str, str]]) -> None:
    """Tokens a second over the demo's own sentences."""
    import torch

    texts = [text for entry in entries for name, text in entry.items() if name != "shown"]
    tokens = sum(engine.count_tokens(texts))
    engine.encode(texts)
    rounds, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < SECONDS:
        engine.encode(texts)
        rounds += 1
    threads = torch.get_num_threads()
    where = str(engine.device) if engine.device.type != "cpu" else f"{threads} CPU thread{'s' if threads > 1 else ''}"
    screen.print(Rule("How fast?", align="left"))
    screen.print(
        f"{rounds * tokens / seconds:,.0f} tokens a second from text to states ({where}, {engine.dtype}, "
        f"{tokens / len(texts):.0f} tokens a sentence)."
    )
