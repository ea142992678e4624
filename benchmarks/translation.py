"""Scores of the translation runs beside copying and word-by-word translation, as a table and a plot.

    cd runs/translation/es-pt; python ../../../benchmarks/translation.py --pair es-pt --xlm xlm/model \\
        --run "pretrained=unmt-1+unmt-2" --run "new weights=unmt-new-1+unmt-new-2"

A run may have several parts, each begun from the model before; the last part's model is scored, the plot shows them all.

Word by word: every word becomes the nearest word of the other language's monolingual text, by the cosine of the pretrained
model's word vectors (the mean of a word's pieces, each language's mean taken away) with CSLS (Lample et al. 2018), which
needs no translation. Words keep their place, capital and punctuation; those of fewer than ``RARE`` occurrences are no
candidates. BLEU and chrF are sacrebleu's, with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

RARE, NEIGHBOURS = 3, 10
WORD = re.compile(r"\w+")


def read(path: Path) -> list[list[str]]:
    """The rows of a TSV file."""
    return [line.split("\t") for line in path.read_text("utf-8").split("\n") if line]


def vectors(tokenizer: Any, table: np.ndarray, words: list[str]) -> np.ndarray:
    """Unit vectors (words, hidden): the mean of a word's pieces, less the mean of all words."""
    pieces = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    found = np.stack([table[ids].mean(0) for ids in pieces])
    found -= found.mean(0)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def dictionary(tokenizer: Any, table: np.ndarray, source: list[str], target: list[str]) -> dict[str, str]:
    """The nearest target word of every source word by CSLS: twice the cosine less the mean cosine of both to their nearest."""
    scores = vectors(tokenizer, table, source) @ vectors(tokenizer, table, target).T
    of_source = np.partition(scores, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean(1, keepdims=True)
    of_target = np.partition(scores, -NEIGHBOURS, axis=0)[-NEIGHBOURS:].mean(0, keepdims=True)
    best = (2 * scores - of_source - of_target).argmax(1)
    return {word: target[index] for word, index in zip(source, best.tolist(), strict=True)}


def word_by_word(tokenizer: Any, table: np.ndarray, texts: list[str], own: Path, other: Path) -> list[str]:
    """Texts with every word replaced; ``own`` and ``other`` are monolingual text of the two languages."""
    counts = [Counter(WORD.findall(path.read_text("utf-8").lower())) for path in (own, other)]
    wanted = {word for text in texts for word in WORD.findall(text.lower())}
    source = sorted(wanted | {word for word, count in counts[0].items() if count >= RARE})
    target = sorted(word for word, count in counts[1].items() if count >= RARE)
    found = dictionary(tokenizer, table, source, target)

    def replaced(match: re.Match[str]) -> str:
        word = found[match[0].lower()]
        return word.capitalize() if match[0][:1].isupper() else word

    return [WORD.sub(replaced, text) for text in texts]


def rated(references: list[str], translations: list[str]) -> dict[str, Any]:
    """BLEU and chrF with their intervals."""
    from xlm.tasks.metrics.translation import rate_translations

    made = rate_translations(references, translations)
    return {name: {"score": one.score, "interval": one.interval} for name, one in made.items()}


def markdown(scores: dict[str, dict[str, Any]]) -> str:
    """A table: one row a system, BLEU (interval) and chrF of every set and direction."""
    columns = list(next(iter(scores.values())))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for system, of in scores.items():
        cells = []
        for column in columns:
            bleu, chrf = of[column]["bleu"], of[column]["chrf"]
            low, high = bleu["interval"]
            cells.append(f"{bleu['score']:.1f} ({max(low, 0):.1f}–{high:.1f}), {chrf['score']:.1f}")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def course(parts: list[Path]) -> list[tuple[float, float]]:
    """(minutes, BLEU of the development set) of a run's parts, one after the other."""
    found: list[tuple[float, float]] = []
    before = 0.0
    for folder in parts:
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        clock = [(record["step"], record["minutes"]) for record in records if record["kind"] == "train"]
        for record in records:
            if record["kind"] == "valid":
                step, minutes = min(clock, key=lambda one: abs(one[0] - record["step"]))
                found.append((before + minutes * record["step"] / step, record["bleu"]))
        before += clock[-1][1]
    return found


def plot(runs: dict[str, list[Path]], lines: dict[str, float], path: Path) -> None:
    """BLEU of the development set by minutes of training, and the baselines as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    for name, parts in runs.items():
        axes.plot(*zip(*course(parts), strict=True), marker="o", markersize=3, label=name)
    for name, value in lines.items():
        axes.axhline(value, linestyle=":", color="grey")
        axes.text(0, value, f" {name}", fontsize=7, va="bottom", color="grey")
    axes.set(xlabel="minutes of training on one core", ylabel="BLEU, development set")
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Score everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xlm", type=Path, required=True, help="the pretrained model, for word by word")
    parser.add_argument("--pair", required=True, help="es-pt: the two languages")
    parser.add_argument("--data", type=Path, default=Path(), help="the pair's folder of benchmarks/translation_data.py")
    parser.add_argument("--out", type=Path, default=Path("scores"))
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER[+FOLDER]")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--dev", type=int, default=100, help="first pairs of the development set, as the recipes score")
    parser.add_argument("--flores", type=int, default=506, help="first sentences of FLORES-200")
    options = parser.parse_args()
    import xlm

    tokenizer = xlm.AutoTokenizer.from_pretrained(options.xlm)
    model = xlm.AutoModelForMaskedLM.from_pretrained(options.xlm)
    table = model.get_input_embeddings().weight.detach().float().numpy()
    given = [one.partition("=") for one in options.run]
    runs = {name: [Path(folder) for folder in folders.split("+")] for name, _, folders in given}
    engines = {name: xlm.load(parts[-1] / "model") for name, parts in runs.items()}
    scores: dict[str, dict[str, Any]] = {}
    written: dict[str, dict[str, list[str]]] = {}
    first, _, second = options.pair.partition("-")
    for part in ("dev", "test", "flores"):
        most = {"dev": options.dev, "flores": options.flores}.get(part)
        rows = read(options.data / f"{part}.tsv")[:most]
        for side, (source, target) in enumerate(((first, second), (second, first))):
            texts, references = [row[side] for row in rows], [row[1 - side] for row in rows]
            mono = [options.data / f"mono/{language}.txt" for language in (source, target)]
            column = f"{part} {source}–{target}"
            made = {"copying": texts, "word by word": word_by_word(tokenizer, table, texts, *mono)}
            for name, engine in engines.items() if part != "dev" else ():
                answers = engine.translate(texts, target, source, num_beams=options.beams, truncate=True)
                made[name] = [answer["translation"] for answer in answers]
            for name, translations in made.items():
                scores.setdefault(name, {})[column] = rated(references, translations)
                written.setdefault(column, {})[name] = translations
            written[column] |= {"source": texts, "reference": references}
            print(column, {name: round(scores[name][column]["bleu"]["score"], 2) for name in made}, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    levels = {}
    for name in ("copying", "word by word"):
        levels[name] = np.mean([of["bleu"]["score"] for column, of in scores[name].items() if column.startswith("dev")])
    (options.out / "scores.json").write_text(json.dumps(scores, indent=1), "utf-8")
    (options.out / "translations.json").write_text(json.dumps(written, indent=1, ensure_ascii=False), "utf-8")
    if runs:
        plot(runs, {name: float(value) for name, value in levels.items()}, options.out / "translation.png")
    shown = {name: {c: v for c, v in of.items() if not c.startswith("dev")} for name, of in scores.items()}
    print(markdown(shown))


if __name__ == "__main__":
    main()
