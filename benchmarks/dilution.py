"""Transfer against capacity dilution: the same model and the same tokens for ever more languages (XLM-R paper, section 4).

    python benchmarks/dilution.py --data ../shared/data --out runs/dilution [--languages 5 15 40 80] [--alphas 0.3 0.7 1.0]

Every run is recipes/dilution.yaml with the first n of ``LANGUAGES``, all with one vocabulary, the same number of steps and
tokens a step. The numbers of languages are run at alpha 0.3, the other alphas at ``--alpha-languages`` (40). A run that is
finished is not run again, one that was stopped goes on; ``--steps`` is the budget.

Measured for the languages that are in all runs, high-resource (en fr ru) and low-resource (sw ur):
- held-out loss of masked tokens in nats, and how far it lies below that of a guesser who knows the token frequencies;
- transfer: topics of SIB-200 by logistic regression on mean states, fitted on English sentences alone (7 topics: chance
  is that of the most frequent one, shown beside it), tested on every language.

Written: dilution.json, dilution.csv, dilution.png and a Markdown table on stdout. With toy budgets these are toy numbers:
what a run of this size cannot show is said in docs/results.md.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HIGH, LOW = ("en", "fr", "ru"), ("sw", "ur")
# The first five are measured; then the rest of XNLI's, then by size of the text that there is.
LANGUAGES = (
    "en fr ru sw ur  ar bg de el es hi th tr vi zh  "
    "ko pt sr ja pl hu nl uk fi sv nb cs da zu bn ta et mr id fa ml my ro be km  "
    "it tl ht ms am te kk ne he ka hr ps lo sl mk so lt rw ku ug af is sq ha ca cy gl pa sk eu az xh hy gu si ga yo kn lv eo"
).split()
SIB = {"en": "eng_Latn", "fr": "fra_Latn", "ru": "rus_Cyrl", "sw": "swh_Latn", "ur": "urd_Arab"}


def make_tokenizer(options: argparse.Namespace, languages: list[str]) -> Path:
    """One SentencePiece vocabulary for all runs, from the text of the most languages."""
    from xlm.tokenizers.train import train_sentencepiece

    folder = options.out / "tokenizer"
    if not (folder / "sentencepiece.bpe.model").is_file():
        files = {name: options.data / "pretrain" / f"{name}.txt.gz" for name in languages}
        train_sentencepiece(files, options.vocab_size, folder, alpha=0.3, max_characters=options.vocab_characters)
    return folder


def train(options: argparse.Namespace, tokenizer: Path, languages: list[str], alpha: float) -> Path:
    """One run in a process of its own; its folder. It is not run again when it is finished."""
    folder = options.out / f"{len(languages)}-languages-alpha-{alpha:g}"
    if (folder / "model" / "config.json").is_file():
        return folder
    data = options.data.resolve()
    values = {
        "tokenizer": tokenizer.resolve(),
        "data.text": f"{data}/pretrain/{{language}}.txt.gz",
        "data.valid": f"{data}/pretrain/valid/{{language}}.txt.gz",
        "data.languages": json.dumps(languages),
        "data.alpha": alpha,
        "data.cache": (options.out / "tokens").resolve(),
        "schedule.steps": options.steps,
        **dict(item.split("=", 1) for item in options.set),
    }
    command = [sys.executable, "-m", "xlm", "pretrain", str(ROOT / "recipes" / "dilution.yaml"), "-o", str(folder)]
    for name, value in values.items():
        # YAML reads braces as a mapping: patterns are quoted.
        command += ["--set", f"{name}={json.dumps(str(value)) if '{' in str(value) else value}"]
    subprocess.run(command, check=True)
    return folder


def last_scores(folder: Path) -> dict[str, Any]:
    """The final evaluation of a run and its tokens and minutes, from metrics.jsonl."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [record for record in records if record["kind"] == "valid"][-1]


def transfer(folder: Path, data: Path) -> dict[str, float]:
    """Share of SIB-200 test sentences with the right topic, by language; ``chance`` is the most frequent topic's share."""
    from sklearn.linear_model import LogisticRegression

    import xlm

    engine = xlm.load(str(folder / "model"))

    def read(language: str, split: str) -> tuple[Any, list[str]]:
        with gzip.open(data / "classify" / "sib200" / f"{SIB[language]}.jsonl.gz", "rt", encoding="utf-8") as stream:
            rows = [row for row in map(json.loads, stream) if row["split"] == split]
        return engine.embed([row["text"] for row in rows], truncate=True), [row["label"] for row in rows]

    classifier = LogisticRegression(max_iter=2000, C=10.0).fit(*read("en", "train"))
    found = {}
    for language in SIB:
        states, labels = read(language, "test")
        found[language] = float((classifier.predict(states) == labels).mean())
        found["chance"] = Counter(labels).most_common(1)[0][1] / len(labels)
    return found


def measure(folder: Path, languages: int, alpha: float, data: Path) -> dict[str, Any]:
    """The record of one run."""
    kept = folder / "dilution.json"
    if kept.is_file():
        return json.loads(kept.read_text("utf-8"))
    last = last_scores(folder)
    entry = {
        "languages": languages,
        "alpha": alpha,
        "tokens": last["tokens"],
        "minutes": round(last["minutes"], 2),
        "loss": {name: last["loss_by_language"][name] for name in SIB},
        "top1": {name: last["top1_by_language"][name] for name in SIB},
        "transfer": transfer(folder, data),
    }
    kept.write_text(json.dumps(entry, indent=1), "utf-8")
    return entry


def mean(values: dict[str, float], names: tuple[str, ...]) -> float:
    """The mean over languages."""
    return sum(values[name] for name in names) / len(names)


def rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One flat row a run, as in the table and the CSV file."""
    return [
        {
            "languages": run["languages"],
            "alpha": run["alpha"],
            "tokens": run["tokens"],
            "minutes": run["minutes"],
            "loss high": round(mean(run["loss"], HIGH), 3),
            "loss low": round(mean(run["loss"], LOW), 3),
            "top-1 high": round(100 * mean(run["top1"], HIGH), 1),
            "top-1 low": round(100 * mean(run["top1"], LOW), 1),
            "topics en": round(100 * run["transfer"]["en"], 1),
            "topics high": round(100 * mean(run["transfer"], HIGH[1:]), 1),
            "topics low": round(100 * mean(run["transfer"], LOW), 1),
            "topics chance": round(100 * run["transfer"]["chance"], 1),
        }
        for run in runs
    ]


def plot(runs: list[dict[str, Any]], path: Path, alpha: float, at: int) -> None:
    """Loss and transfer against the number of languages, and against alpha."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), constrained_layout=True, sharey="row")
    by_number = sorted((run for run in runs if run["alpha"] == alpha), key=lambda run: run["languages"])
    by_alpha = sorted((run for run in runs if run["languages"] == at), key=lambda run: run["alpha"])
    for column, (chosen, key, label) in enumerate(
        ((by_number, "languages", f"languages (alpha {alpha:g})"), (by_alpha, "alpha", f"alpha ({at} languages)"))
    ):
        x = [run[key] for run in chosen]
        for names, style, title in ((HIGH, "o-", "high: en fr ru"), (LOW, "s--", "low: sw ur")):
            axes[0, column].plot(x, [mean(run["loss"], names) for run in chosen], style, label=title)
        for names, style, title in ((HIGH[1:], "o-", "high: fr ru"), (LOW, "s--", "low: sw ur")):
            axes[1, column].plot(x, [100 * mean(run["transfer"], names) for run in chosen], style, label=title)
        axes[1, column].plot(x, [100 * run["transfer"]["chance"] for run in chosen], "k:", label="most frequent topic")
        axes[1, column].set_xlabel(label)
        axes[1, column].set_xticks(x)
    axes[0, 0].set_ylabel("held-out loss, nats")
    axes[1, 0].set_ylabel("topics from English, %")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run what is missing, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with pretrain/ and classify/")
    parser.add_argument("--out", type=Path, default=Path("runs/dilution"))
    parser.add_argument("--languages", type=int, nargs="+", default=[5, 15, 40, 80])
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.3, 0.7, 1.0])
    parser.add_argument("--alpha-languages", type=int, default=40, help="how many languages the other alphas have")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--vocab-size", type=int, default=16000)
    parser.add_argument("--vocab-characters", type=int, default=6_000_000, help="text for the vocabulary")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    most = max([*options.languages, options.alpha_languages])
    if not 5 <= min(options.languages) or most > len(LANGUAGES):
        parser.error(f"--languages {options.languages}: between 5 (those measured) and {len(LANGUAGES)}")
    plan = [(number, options.alphas[0]) for number in options.languages]
    plan += [(options.alpha_languages, alpha) for alpha in options.alphas[1:]]
    tokenizer = make_tokenizer(options, LANGUAGES[:most])
    runs = []
    for number, alpha in plan:
        folder = train(options, tokenizer, LANGUAGES[:number], alpha)
        runs.append(measure(folder, number, alpha, options.data))
        (options.out / "dilution.json").write_text(json.dumps(runs, indent=1), "utf-8")
    table = rows(runs)
    with (options.out / "dilution.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    plot(runs, options.out / "dilution.png", options.alphas[0], options.alpha_languages)
    print("| " + " | ".join(table[0]) + " |\n|" + " ---: |" * len(table[0]))
    for row in table:
        print("| " + " | ".join(f"{value:,}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()
