"""A plot a benchmark: every language's score with its interval, the baselines and the papers beside it."""

from __future__ import annotations

import io
from importlib.util import find_spec

from xlm.errors import MissingExtraError
from xlm.evaluation.results import Outcome

_COLOURS = {"majority": "#9aa0a6", "tfidf": "#d08a2e"}
NAMES = {"majority": "majority", "tfidf": "TF-IDF"}


def check() -> None:
    """Raise MissingExtraError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError("plots", "matplotlib", "eval")


def plot(outcome: Outcome, kind: str = "svg") -> bytes:
    """The plot as SVG or PNG, with text as outlines, so that it looks the same everywhere.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check()
    from matplotlib.figure import Figure

    rows = list(reversed(outcome.languages))
    figure = Figure(figsize=(7, 1.4 + 0.24 * len(rows)))
    axes = figure.subplots()
    at = range(len(rows))
    values = [row.score.main for row in rows]
    low = [max(row.score.main - row.score.interval[0], 0) for row in rows]
    high = [max(row.score.interval[1] - row.score.main, 0) for row in rows]
    axes.barh(at, values, color="#3b6ea5", height=0.62, label="model")
    axes.errorbar(values, at, xerr=[low, high], fmt="none", ecolor="black", capsize=2)
    for name, colour in _COLOURS.items():
        points = [(row.baselines[name].main, y) for y, row in zip(at, rows, strict=True) if name in row.baselines]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.scatter(xs, ys, marker="|", s=110, linewidths=2.2, color=colour, label=NAMES[name], zorder=3)
    for paper, marker in zip([one for one in outcome.published() if one.scores], "x+^sv", strict=False):
        scores = paper.scores
        points = [(scores[row.language], y) for y, row in zip(at, rows, strict=True) if row.language in scores]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.scatter(xs, ys, marker=marker, s=24, color="#7a3b8f", label=paper.model)
    axes.set_yticks(list(at), [row.language for row in rows])
    axes.set_xlabel(f"{outcome.metric.replace('_', ' ')}, % (bars: 95 % intervals)")
    axes.set_title(f"{outcome.benchmark.name}, {outcome.setting}, {outcome.split} set", fontsize=10)
    axes.set_xlim(left=min(0.0, *values))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.tight_layout()
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(stream, format=kind, dpi=120, metadata=metadata)
    return stream.getvalue()
