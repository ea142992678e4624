"""The demo's picture: one heat map of similarities a language. Labels are English, so every font has their letters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from xlm.atomic import make_folder, replacing
from xlm.errors import MissingExtraError

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ModuleNotFoundError as error:
    raise MissingExtraError("the demo's picture", "matplotlib", "train") from error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = 4


def draw_similarities(path: Path, rows: list[str], matrices: dict[str, NDArray[np.float32]], title: str) -> None:
    """Draw square matrices (n, n) in a grid and save them as PNG, whole or not at all.

    Row i is the English sentence ``rows[i]``, column i its translation into the matrix's language. The most similar
    candidate of each row is framed: black where it is the translation, red where it is not.

    Raises:
        OutputError: the picture cannot be written.
    """
    make_folder(path.parent, "output")
    count = len(rows)
    lines = math.ceil(len(matrices) / COLUMNS)
    low = min(float(matrix.min()) for matrix in matrices.values())
    high = max(float(matrix.max()) for matrix in matrices.values())
    figure = Figure(figsize=(13, 2.6 * lines + 1.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, COLUMNS, squeeze=False)
    image = None
    for place, axis in enumerate(axes.flat):
        if place >= len(matrices):
            axis.axis("off")
            continue
        name, matrix = list(matrices.items())[place]
        image = axis.imshow(matrix, vmin=low, vmax=high, cmap="viridis")
        best = matrix.argmax(axis=1)
        right = sum(int(column == row) for row, column in enumerate(best))
        axis.set_title(f"{name}: {right} of {count} found", fontsize=10)
        for row, column in enumerate(best):
            colour = "black" if row == column else "red"
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=1.4))
        axis.set_xticks(range(count), [str(number) for number in range(1, count + 1)], fontsize=8)
        labels = [f"{text}  {number}" for number, text in enumerate(rows, 1)]
        axis.set_yticks(range(count), labels if place % COLUMNS == 0 else [""] * count, fontsize=8)
        axis.tick_params(length=0)
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.6, label="cosine")
    figure.suptitle(f"{title}\nrows: English; columns: the same sentences in the language named", fontsize=11)
    with replacing(path) as stream:
        figure.savefig(stream, format="png")
