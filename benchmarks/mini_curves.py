"""The learning curves of xlmr-mini, this recipe's and the first one's: docs/img/mini_training.png.

python benchmarks/mini_curves.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parent.parent / "docs"
RUNS = {
    "xlmr-mini-first": ("first recipe: 42 minutes, fp32", "0.6"),
    "xlmr-mini": ("this recipe: bf16, 4,096 tokens a step", "black"),
}
PANELS = {
    "loss": ("held-out loss (nats), mean of 16 languages", 5.94, "unigram"),
    "top1": ("masked top-1 (%)", 4.8, "unigram"),
    "retrieval": ("held-out translation first (%)", None, ""),
}


def main() -> None:
    """Draw the picture."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), constrained_layout=True)
    for name, (label, colour) in RUNS.items():
        with (DOCS / "curves" / f"{name}.csv").open(encoding="utf-8") as stream:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]
        for axis, (key, (title, _, _)) in zip(axes, PANELS.items(), strict=True):
            scale = 1 if key == "loss" else 100
            shown = [(row["tokens"] / 1e6, scale * row[key]) for row in rows if key in row]
            axis.plot(*zip(*shown, strict=True), marker="o", markersize=3, color=colour, label=label)
            axis.set(title=title, xlabel="million tokens")
            axis.grid(alpha=0.3)
    for axis, (_, level, label) in zip(axes, PANELS.values(), strict=True):
        if level is not None:
            axis.axhline(level, linestyle=":", color="tab:red", label=label)
    axes[0].legend(fontsize=8)
    figure.savefig(DOCS / "img" / "mini_training.png", dpi=110)


if __name__ == "__main__":
    main()
