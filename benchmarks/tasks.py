"""Fine-tune the bundled model for every kind of task, evaluate it across languages, and write the tables of docs/results.md.

    python benchmarks/tasks.py --data ../shared/data [--out runs/tasks] [--only NAME ...] [--write docs/results.md]

Each line of RUNS is `xlm finetune` with the fields given, then `xlm evaluate` on each of its benchmarks; the commands are
printed as they could be typed. Small on purpose: about half an hour on one core. `--only` reruns some; the others' results are
taken from --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import xlm
from xlm.assets import bundled_folder
from xlm.evaluation.benchmarks import benchmark
from xlm.evaluation.plots import NAMES
from xlm.evaluation.report import write_report
from xlm.evaluation.run import evaluate

BEGIN, END = "<!-- tasks: begin -->", "<!-- tasks: end -->"


@dataclass(frozen=True)
class Exam:
    """One benchmark: languages (None: all there are), examples of each at most, and its setting."""

    benchmark: str
    languages: tuple[str, ...] | None = None
    limit: int | None = None
    setting: str = "zero-shot"


@dataclass(frozen=True)
class Run:
    """A fine-tuning (``task`` None: the model as it is) and its exams. ``seeds``: as many candidates, chosen by dev sets;
    ``after``: the run whose model it begins with, which stands before it; ``wide``: begin with random weights of this width.

    ``eval`` chooses the best epoch; it is never what an exam scores, so where the data have no further split, there is none.
    """

    name: str
    task: str | None
    train: tuple[str, ...]
    exams: tuple[Exam, ...]
    eval: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1,)
    about: str = ""
    after: str | None = None
    wide: int | None = None


SPLIT = {"train_where": {"split": "train"}, "eval_where": {"split": "dev"}}
FLORES = tuple("fra_Latn deu_Latn rus_Cyrl tur_Latn arb_Arab vie_Latn zho_Hans hin_Deva swh_Latn urd_Arab".split())
SIB = ("eng_Latn", *FLORES, "ita_Latn", "ind_Latn", "fin_Latn", "jpn_Jpan")
TATOEBA = tuple("fr de he hi sw tr".split())
XNLI = tuple("ar bg de en es fr hi ru sw tr ur vi zh".split())
# In the order of what a free minute is best spent on.
DROPOUT = {"dropout": 0.1}
PAIRS = tuple(f"parallel/{code}-en.tsv.gz" for code in "ar bg de es fr hi ru sw tr ur vi zh th".split())
RUNS = (
    Run(
        # The bundled model was never asked for anything at <s>, where classifiers read: this teaches it a sentence's meaning.
        "sentences", "embed", PAIRS, (), None,
        {
            "epochs": 1, "batch": 64, "learning_rate": 3e-4, "contrast": {"pooling": "cls"}, "max_truncated": 1.0,
            "data": {"format": "pairs", "limit": 600, "max_tokens": 64, "max_bad": 0.05},
        },
        about="7,800 translations into English, in 13 languages",
    ),
    Run(
        "nli-first", "classify", ("pairs/sick/en.train.jsonl.gz", "pairs/indonli/id.train.jsonl.gz"), (),
        "pairs/sick/en.dev.jsonl.gz", {"epochs": 2, "learning_rate": 3e-4, "data": {"limit": 3000}},
        about="3,000 English pairs of SICK, 3,000 Indonesian ones of IndoNLI",
    ),
    Run(
        "nli", "classify", ("pairs/xnli/en.jsonl.gz",), (Exam("xnli", limit=200),), "pairs/xnli/en.jsonl.gz",
        {"epochs": 6, "learning_rate": 2e-4, **DROPOUT, "data": SPLIT}, after="nli-first",
        about="SICK and IndoNLI (6,000 pairs), then English: 1,719 pairs, where the papers have 392,702",
    ),
    Run(
        "qa", "answer", ("qa/tydiqa/en.train.jsonl.gz",),
        (Exam("tydiqa", limit=60), Exam("xquad", limit=30), Exam("mlqa", limit=30)),
        None, {"epochs": 4, "learning_rate": 4e-4, "data": {"limit": 1000}},
        about="English TyDiQA-GoldP: 1,000 questions, where SQuAD has 87,599",
    ),
    Run(
        "topics", "classify", ("classify/sib200/eng_Latn.jsonl.gz",), (Exam("sib200", SIB),),
        "classify/sib200/eng_Latn.jsonl.gz", {"epochs": 12, "learning_rate": 3e-4, **DROPOUT, "data": SPLIT},
        after="sentences", about="translations (`sentences` below), then English: 552 sentences",
    ),
    Run("mining", None, (), (Exam("bucc"),), about="the model as it is: margin scores with 4 neighbours"),
    Run(
        "codah", "choose", ("choice/codah/en.train.jsonl.gz",), (Exam("codah"),), None,
        {"epochs": 2, **DROPOUT, "data": {"limit": 400}}, about="English: 400 questions",
    ),
    Run(
        "copa", "choose", ("choice/copa/en.train.jsonl.gz",), (Exam("copa"), Exam("xcopa", limit=150)),
        "choice/copa/en.val.jsonl.gz", {"epochs": 4, **DROPOUT}, after="sentences",
        about="translations, then English COPA: 400 questions",
    ),
    Run(
        "paws", "classify", ("pairs/pawsx/en.jsonl.gz",), (Exam("pawsx", limit=150),), "pairs/pawsx/en.jsonl.gz",
        {"epochs": 4, **DROPOUT, "data": SPLIT}, after="sentences",
        about="translations, then English: 485 pairs, where the papers have 49,401",
    ),
    Run(
        "pos", "tag", ("tokens/udpos/en.train.conll.gz",), (Exam("udpos", limit=100),), None,
        {"epochs": 5, "learning_rate": 5e-4, **DROPOUT}, about="English: 2,499 sentences",
    ),
    Run(
        "ner", "tag", tuple(f"tokens/wikiann/{code}.train.conll.gz" for code in ("en", "ru", "ar", "zh")),
        (Exam("wikiann", limit=100),), None, {"epochs": 6, "learning_rate": 5e-4, **DROPOUT, "data": {"limit": 1000}},
        about="en, ru, ar and zh together, 1,000 sentences each; the other 18 languages are zero-shot",
    ),
    Run(
        "sentiment", "classify", ("classify/sst2/en.train.jsonl.gz",), (Exam("sst2"),), None,
        {"epochs": 3, **DROPOUT, "data": {"limit": 1500}}, after="sentences", about="translations, then English: 1,500 texts",
    ),
    Run(
        "random", "classify", ("classify/sst2/en.train.jsonl.gz",), (Exam("sst2"),), None,
        {"epochs": 3, **DROPOUT, "data": {"limit": 1500}}, wide=512,
        about="the same 1,500 texts, by a larger model with random weights (8 layers, 512 wide, 32 million parameters)",
    ),
    Run(
        "retrieval", None, (), (Exam("flores", FLORES, 200), Exam("tatoeba", TATOEBA, 300)),
        about="the model as it is: cosine",
    ),
    Run("similarity", None, (), (Exam("sts", limit=1000), Exam("jsts")), about="the model as it is: cosine"),
    Run(
        "nli-all", "classify", tuple(f"pairs/xnli/{code}.jsonl.gz" for code in XNLI),
        (Exam("xnli", limit=200, setting="translate-train-all"),), "pairs/xnli/en.jsonl.gz",
        {"epochs": 2, "learning_rate": 2e-4, "data": {**SPLIT, "limit": 300}}, after="nli-first",
        about="SICK and IndoNLI, then 300 pairs in each of 13 languages",
    ),
)  # fmt: skip


def command(run: Run, exam: Exam, models: list[str], data: str) -> list[str]:
    """What to type for the same."""
    lines = []
    if run.task is not None:
        train = " ".join(f"--train {data}/{path}" for path in run.train)
        fields = " ".join(f"--set {name}={value}" for name, value in flat(run.fields))
        out = Path(models[0]).parent.parent
        begun = "" if run.after is None else f" --model {out / run.after / 'model'}"
        begun = begun if run.wide is None else f" --model {out / 'random-weights'}"
        for seed, model in zip(run.seeds, models, strict=True):
            output = Path(model).parent
            evaluated = f" --eval {data}/{run.eval}" if run.eval else ""
            chosen = f" --set seed={seed}" if len(run.seeds) > 1 else ""
            lines.append(
                f"xlm finetune --task {run.task}{begun} {train}{evaluated} --output {output} {fields}{chosen}".strip()
            )
    more = f" --languages {','.join(exam.languages)}" if exam.languages else ""
    more += f" --limit {exam.limit}" if exam.limit else ""
    more += f" --setting {exam.setting}" if exam.setting != "zero-shot" else ""
    if own_training(run, exam):
        more += "".join(f" --train {data}/{path}" for path in learnt(run))
    lines.append(f"xlm evaluate {' '.join(models)} --benchmark {exam.benchmark} --data {data}{more} --report REPORT")
    return lines


def flat(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``{"data": {"x": 1}}`` as ``[("data.x", 1)]``."""
    found: list[tuple[str, Any]] = []
    for name, value in fields.items():
        found += flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def own_training(run: Run, exam: Exam) -> bool:
    """Whether the baselines must be told what the model learnt from: it is not the benchmark's own training file."""
    return (
        run.task is not None
        and (len(learnt(run)) > 1 or exam.benchmark in ("xquad", "mlqa"))
        and exam.setting == "zero-shot"
    )


def random_model(width: int, folder: Path) -> Path:
    """A model twice as deep as the bundled one, so wide, with its vocabulary and random weights."""
    small = xlm.AutoConfig.from_pretrained(bundled_folder())
    sizes = {"hidden_size": width, "num_hidden_layers": 8, "num_attention_heads": width // 64}
    torch.manual_seed(1)
    model = xlm.XLMRobertaXLForMaskedLM(type(small)(**{**small.to_dict(), **sizes, "intermediate_size": 4 * width}))
    model.save_pretrained(folder)
    xlm.AutoTokenizer.from_pretrained(bundled_folder()).save_pretrained(folder)
    return folder


def learnt(run: Run) -> tuple[str, ...]:
    """The training files of a run and of those of the same task that it goes on from."""
    before = next((one for one in RUNS if one.name == run.after), None)
    return run.train if before is None or before.task != run.task else (*learnt(before), *run.train)


def work(run: Run, data: Path, out: Path) -> list[dict[str, Any]]:
    """Fine-tune and evaluate; the records of the exams."""
    began, weights = time.monotonic(), checkpoint()
    models = ["bundled"]
    if run.task is not None:
        models = []
        for seed in run.seeds:
            output = out / f"{run.name}-{seed}" if len(run.seeds) > 1 else out / run.name
            train = [str(data / path) for path in run.train]
            more: dict[str, Any] = {"eval": str(data / run.eval)} if run.eval else {}
            fields = {**run.fields, "seed": seed}
            begin = None if run.after is None else out / run.after / "model"
            begin = begin if run.wide is None else random_model(run.wide, out / "random-weights")
            done = xlm.finetune(run.task, begin, train=train, output=output, resume=False, quiet=True, **more, **fields)
            models.append(str(done.model))
    trained = time.monotonic() - began
    records = []
    for exam in run.exams:
        train = [data / path for path in learnt(run)] if own_training(run, exam) else None
        setting: Any = exam.setting
        outcome = evaluate(
            models, exam.benchmark, data, languages=exam.languages, limit=exam.limit, setting=setting, train=train
        )
        report = write_report(outcome, out / "reports" / f"{run.name}-{exam.benchmark}")
        record = outcome.record()
        others = [one for one in outcome.published() if one.average]
        record |= {
            "run": run.name,
            "trained": round(trained, 1),
            "commands": command(run, exam, [_published(m) for m in models], "DATA"),
            "papers": [[one.model, one.average] for one in others],
            "title": outcome.benchmark.title,
            "checkpoint": weights,
        }
        records.append(record)
        print(f"{run.name}, {exam.benchmark}: {summary(record)}; {report}", flush=True)
    return records


def _published(model: str) -> str:
    """A model's path as the page prints it, wherever the run was."""
    return model if model == "bundled" else f"runs/tasks/{Path(model).parent.name}/model"


def checkpoint() -> str:
    """Which bundled model this is: the beginning of its weights' SHA-256."""
    return hashlib.sha256((bundled_folder() / "model.safetensors").read_bytes()).hexdigest()[:12]


def shown(entry: dict[str, Any], metric: str) -> str:
    """``71.3 (68.9–73.6)``."""
    low, high = entry["intervals"][metric]
    return f"{entry['scores'][metric]:.1f} ({low:.1f}–{high:.1f})"


def summary(record: dict[str, Any]) -> str:
    """The average beside the baselines'."""
    metric = record["metric"]
    beside = ", ".join(f"{NAMES[name]} {shown(entry, metric)}" for name, entry in record["baselines"].items())
    return f"{metric} {shown(record['average'], metric)}{' beside ' + beside if beside else ''}"


def beginnings() -> str:
    """The commands of the runs that others go on from and that have no exam of their own."""
    lines = [
        line
        for run in RUNS
        if run.task is not None and not run.exams
        for line in command(run, Exam(""), [f"runs/tasks/{run.name}/model"], "DATA")[:-1]
    ]
    return "\n".join(f"    {line}" for line in lines)


def overview(records: list[dict[str, Any]]) -> str:
    """One line an exam: averages, baselines, papers."""
    heads = (
        "benchmark | scored | what was learnt | metric | languages | xlmr-mini | majority | TF-IDF | papers | weights"
    )
    rows = [f"| {heads} |", "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | --- | --- |"]
    about = {run.name: run.about for run in RUNS}
    for record in records:
        metric = record["metric"]
        cells = [shown(record["baselines"][name], metric) if name in record["baselines"] else "–" for name in NAMES]
        papers = ", ".join(f"{model} {average}" for model, average in record["papers"]) or "–"
        rows.append(
            f"| {record['benchmark']}, {record['setting']} | {record['split']} | {about[record['run']]} | "
            f"{metric.replace('_', ' ')} | {averaged(record)} | {shown(record['average'], metric)} | {' | '.join(cells)} | "
            f"{papers} | {record['checkpoint'][:6]} |"
        )
    return "\n".join(rows)


def averaged(record: dict[str, Any]) -> str:
    """How many languages the average is of."""
    left_out = [code for code in benchmark(record["benchmark"]).average_without if code in record["languages"]]
    number = len(record["languages"]) - len(left_out)
    return f"{number}, without {', '.join(left_out)}" if number and left_out else str(len(record["languages"]))


def by_language(record: dict[str, Any]) -> str:
    """Every language's score, in one paragraph of short tables."""
    metric = record["metric"]
    rows = [
        "| language | examples | " + " | ".join(["xlmr-mini", *(NAMES[name] for name in record["baselines"])]) + " |"
    ]
    rows.append("| --- | ---: |" + " ---: |" * (1 + len(record["baselines"])))
    for code, entry in record["languages"].items():
        cells = [shown(entry, metric)]
        cells += [shown(entry["baselines"][n], metric) if n in entry["baselines"] else "–" for n in record["baselines"]]
        rows.append(f"| {code} | {entry['items']:,} | {' | '.join(cells)} |")
    return "\n".join(rows)


def section(records: list[dict[str, Any]], seconds: float) -> str:
    """The part of docs/results.md."""
    beaten = sum(
        all(r["average"]["scores"][r["metric"]] > b["scores"][r["metric"]] for b in r["baselines"].values())
        for r in records
    )
    parts = [
        BEGIN,
        f"`python benchmarks/tasks.py --data ../shared/data --write docs/results.md` ({seconds / 60:.0f} minutes); one "
        "seed unless said otherwise; `weights` is how the SHA-256 of the bundled model's weights begins. Averages over "
        "languages in percent with 95 % bootstrap intervals; baselines learn from the same files. The average is above both "
        f"baselines in {beaten} of {len(records)} lines. The papers' models are 40 to 1,700 times as large and learnt from 20 "
        "to 250 times as many examples: they show where each task's ceiling is. `scored`: the test set, or `dev`, the "
        "development set, where no test answers are there; it chose neither epochs nor models. In these files, `test` of XNLI "
        "and of PAWS-X is a part of their development sets that nothing else uses, and MLQA's is its development set.",
        overview(records),
        "Runs that others go on from:\n\n" + beginnings(),
    ]
    for record in records:
        scored = ", dev set" if record["split"] == "dev" else ""
        title = f"{record['title']}: {record['run']}, {record['setting']}{scored}"
        commands = "\n".join(f"    {line}" for line in record["commands"])
        body = by_language(record)
        if "average_per_language" in record:
            own = shown(record["average_per_language"], record["metric"])
            chosen = shown(record["average"], record["metric"])
            body += f"\n\nChosen by the source language's dev set: average {chosen}; by each language's own: {own}."
        parts.append(f"<details><summary>{title}</summary>\n\n{commands}\n\n{body}\n\n</details>")
    return "\n\n".join([*parts, END])


def main() -> None:
    """Run what is asked for; print or write the section."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/tasks"))
    parser.add_argument("--only", nargs="*", choices=[run.name for run in RUNS])
    parser.add_argument("--write", type=Path, help="replace the section in this file")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "records.json"
    known: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    for run in RUNS:
        if options.only is None or run.name in options.only:
            began = time.monotonic()
            known[run.name] = {"records": work(run, options.data, options.out), "seconds": time.monotonic() - began}
            kept.write_text(json.dumps(known, ensure_ascii=False, indent=1), "utf-8")
    done = [known[run.name] for run in RUNS if run.name in known]
    text = section([record for one in done for record in one["records"]], sum(one["seconds"] for one in done))
    if options.write is None:
        print(text)
        return
    page = options.write.read_text("utf-8")
    if BEGIN in page:
        before, rest = page.split(BEGIN, 1)
        page = before + text + rest.split(END, 1)[1]
    else:
        page = page.rstrip("\n") + "\n\n## Fine-tuned on tasks\n\n" + text + "\n"
    options.write.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
