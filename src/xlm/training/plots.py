"""Pictures of a run from its records: ``loss.png``, and ``report.html``, one file that needs nothing but a browser."""

from __future__ import annotations

import html
import io
import math
from pathlib import Path
from typing import Any

from xlm.atomic import write_text

Records = list[dict[str, Any]]


def write_plots(records: Records, folder: Path) -> None:
    """Losses, held-out perplexity of every language, and tokens a second, as PNG and in HTML."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = draw(records)
    try:
        temporary = folder / ".loss.png"
        figure.savefig(temporary, dpi=120, format="png")
        temporary.replace(folder / "loss.png")
        picture = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text: searchable, and smaller
            figure.savefig(picture, format="svg")
    finally:
        pyplot.close(figure)
    svg = picture.getvalue()
    write_text(folder / "report.html", page(records, svg[svg.index("<svg") :], folder.name))


def draw(records: Records) -> Any:
    """The figure: training and held-out loss by step; perplexity by language where it was measured; throughput."""
    from matplotlib import pyplot

    train = [r for r in records if r["kind"] == "train"]
    valid = [r for r in records if r["kind"] == "valid"]
    languages = sorted({name for r in valid for name in r.get("loss_by_language", {})})
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 10), height_ratios=(3, 3, 1), sharex=True, layout="constrained")
    top, middle, bottom = axes
    for name in sorted({key for r in train for key in r if key.startswith("loss_")}):
        points = [(r["step"], r[name]) for r in train if r.get(name) is not None]
        top.plot(*zip(*points, strict=True), label=name.removeprefix("loss_"), linewidth=0.8)
    held_out = [r for r in valid if r.get("loss") is not None]
    if held_out:
        top.plot([r["step"] for r in held_out], [r["loss"] for r in held_out], "k.-", label="held-out text")
    top.set_ylabel("loss (nats)")
    if top.lines:
        top.legend()
    for name in languages:
        points = [(r["step"], math.exp(min(loss, 50.0))) for r in valid if (loss := _loss(r, name)) is not None]
        middle.plot(*zip(*points, strict=True), ".-", label=name, linewidth=0.8)
    middle.set_ylabel("held-out perplexity")
    if languages:
        middle.set_yscale("log")
        middle.legend(ncols=4, fontsize="small")
    bottom.plot([r["step"] for r in train], [r["tokens_per_second"] for r in train], linewidth=0.8)
    bottom.set_ylabel("tokens/s")
    bottom.set_xlabel("step")
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure


def page(records: Records, svg: str, title: str) -> str:
    """The page: the picture and, below it, the last held-out measures of every language."""
    valid = [r for r in records if r["kind"] == "valid"]
    last = valid[-1] if valid else {}
    rows = "".join(
        f"<tr><th>{html.escape(name)}<td>{loss:.3f}<td>{math.exp(min(loss, 50.0)):,.1f}<td>{100 * hits:.1f}"
        for name, loss in last.get("loss_by_language", {}).items()
        if loss is not None and (hits := last.get("top1_by_language", {}).get(name)) is not None
    )
    table = f"<table><tr><th>language<th>loss<th>perplexity<th>top-1 %{rows}</table>" if rows else ""
    step = f"step {records[-1]['step']:,}, {records[-1].get('tokens', 0):,} tokens" if records else "no step yet"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<style>body{font:15px system-ui,sans-serif;margin:2em auto;max-width:60em}svg{width:100%;height:auto}"
        "td,th{padding:.1em 1em;text-align:right}</style>"
        f"<h1>{html.escape(title)}</h1><p>{step}</p>{svg}{table}</html>\n"
    )


def _loss(record: dict[str, Any], language: str) -> float | None:
    return record.get("loss_by_language", {}).get(language)
