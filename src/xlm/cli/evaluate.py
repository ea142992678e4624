"""``xlm evaluate``: a benchmark's official score of a fine-tuned model, language by language."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from xlm.cli.common import JsonOption, LangOption, print_json, stderr, stdout
from xlm.cli.loading import Load, runs_a_model

if TYPE_CHECKING:
    from xlm.evaluation.results import Outcome, Score


# What each kind of evaluation takes that another does not.
_TAKES = {
    "benchmark": ("benchmark", "data", "languages", "setting", "split", "train", "baselines", "report", "lang"),
    "test": ("test", "task", "column", "train", "report", "lang"),
    "pairs": ("pairs", "beams", "tokenize"),
}


@runs_a_model("model", "lang")
def evaluate(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="A fine-tuned model; with {language} in its path, one a language; several: dev sets choose. "
            "'bundled': the model in the package (retrieval alone).",
        ),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", "-b", metavar="NAME", help="Which one; see --list.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", metavar="DIR", help="Its files, or a folder above them.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pairs", "-p", metavar="de-en=PATH", help="Translate these pairs instead: BLEU and chrF by direction."
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option("--test", metavar="PATH", help="Score labelled files of your own instead, as of xlm finetune."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="NAME",
            help="With --test: classify, tag, answer, choose, embed or rerank. Default: what the model's head is for.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="FIELD=COLUMN", help="With --test: a column of an unusual name, label=stars."),
    ] = None,
    beams: Annotated[int, typer.Option("--beams", min=1, help="Of translations; 1: the best token each time.")] = 1,
    tokenize: Annotated[
        str | None,
        typer.Option(
            "--tokenize",
            metavar="NAME",
            help="sacrebleu's tokenizer for BLEU. Default: by the target: zh, ja-mecab, ko-mecab, flores200, else 13a.",
        ),
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option("--languages", "-l", metavar="en,de,…", help="Default: the benchmark's own that are there."),
    ] = None,
    setting: Annotated[
        str, typer.Option(help="zero-shot, translate-train, translate-train-all or translate-test.")
    ] = "zero-shot",
    split: Annotated[str, typer.Option(help="test or dev.")] = "test",
    train: Annotated[
        list[Path] | None,
        typer.Option(
            "--train", metavar="PATH", help="What the model learnt from, for the baselines; again for more files."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="At most so many examples a language.")] = None,
    baselines: Annotated[
        bool, typer.Option(help="Majority and TF-IDF with logistic regression beside the model.")
    ] = True,
    report: Annotated[
        Path | None, typer.Option("--report", "-o", metavar="DIR", help="Write tables, plot and errors as HTML there.")
    ] = None,
    lang: LangOption = None,
    as_json: JsonOption = False,
    listed: Annotated[bool, typer.Option("--list", help="Show the benchmarks and end.")] = False,
    *,
    load: Load,
) -> None:
    """Score a model on a benchmark with the official metric, 95 % intervals, baselines and the papers' numbers.

    Example: xlm evaluate runs/xnli --benchmark xnli --data data/xnli --report reports/xnli

    Your own files: xlm evaluate runs/mine/model --test test.csv --train train.csv

    Translation: xlm evaluate runs/de-en/model --pairs de-en=test.tsv
    """
    from xlm.errors import InputError

    if listed:
        show_benchmarks(as_json)
        return
    _refuse(context, "pairs" if pairs else "test" if test else "benchmark")
    if pairs:
        evaluate_pairs(models or [], pairs, beams, tokenize, limit, load, as_json)
        return
    if test and len(models or []) != 1:
        raise InputError(f"--test: {len(models or [])} models given: one is needed")
    if not test and (not models or benchmark is None or data is None):
        missing = [
            name for name, value in (("MODEL", models), ("--benchmark", benchmark), ("--data", data)) if not value
        ]
        raise InputError(
            f"missing: {', '.join(missing)}; xlm evaluate --list shows the benchmarks, --test FILE scores your own"
        )
    from xlm.evaluation.own import evaluate_files
    from xlm.evaluation.report import check_target, write_report
    from xlm.evaluation.run import evaluate as run

    if report is not None:
        check_target(report)

    def engine(name: str) -> Any:
        return load(model=name, lang=lang)

    console = stderr()
    with console.status("reading") as status:

        def tell(what: str, done: int, total: int) -> None:
            status.update(f"{what}  {done:,} of {total:,}" if total else what)

        if test:
            named = _columns(column or [])
            options: Any = {"columns": named, "train": train, "limit": limit, "lang": lang, "load": engine}
            outcome = evaluate_files(models[0], test, task=task, progress=tell, **options)  # type: ignore[index]  # one, as was checked
        else:
            outcome = run(
                models,  # type: ignore[arg-type]  # named, as was checked
                benchmark,  # type: ignore[arg-type]
                data,  # type: ignore[arg-type]
                languages=[code.strip() for code in languages.split(",")] if languages else None,
                setting=setting,  # type: ignore[arg-type]  # checked there
                split=split,
                train=train,
                limit=limit,
                with_baselines=baselines,
                lang=lang,
                load=engine,
                progress=tell,
            )
        written = write_report(outcome, report) if report is not None else None
    if as_json:
        print_json(outcome.record())
    else:
        show(outcome)
    if written is not None:
        console.print(f"report: {written}", soft_wrap=True)


def _refuse(context: typer.Context, kind: str) -> None:
    """Raise InputError for an option that was given and that the ``kind`` of evaluation has no use for."""
    from xlm.errors import InputError

    for name in dict.fromkeys(name for names in _TAKES.values() for name in names if name not in _TAKES[kind]):
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            takers = " and ".join(f"--{one}" for one, names in _TAKES.items() if name in names)
            alone = f"--{name} goes with {takers} alone"
            raise InputError(alone if kind == "benchmark" else f"--{name} does not go with --{kind}")


def _columns(given: list[str]) -> dict[str, str]:
    """``["label=stars"]`` by field."""
    from xlm.errors import InputError

    if wrong := next((entry for entry in given if not all(entry.partition("="))), None):
        raise InputError(f"--column is {wrong!r}: FIELD=COLUMN is needed, like label=stars")
    return {field: column for field, _, column in (entry.partition("=") for entry in given)}


def show(outcome: Outcome) -> None:
    """The table on stdout, remarks on stderr."""
    from xlm.evaluation.plots import NAMES

    kinds, papers = list(outcome.baselines), [one for one in outcome.published() if one.scores]
    others = list(outcome.average.scores)[1:]
    own = ["by its own dev"] * (outcome.per_language is not None)
    heads = ["language", "examples", outcome.metric, "95 %", *others, *(NAMES[kind] for kind in kinds), *own]
    heads = [head.replace("_", " ") for head in heads] + [paper.model for paper in papers]
    rows = []
    for one in outcome.languages:
        row = [
            one.language,
            f"{one.items:,}",
            *_cells(one.score),
            *(f"{one.score.scores[name]:.1f}" for name in others),
        ]
        row += [_main(one.baselines.get(kind)) for kind in kinds] + [_main(one.per_language)] * len(own)
        rows.append(row + [_number(paper.scores.get(one.language)) for paper in papers])
    row = [
        outcome.average_name,
        "",
        *_cells(outcome.average),
        *(f"{outcome.average.scores[name]:.1f}" for name in others),
    ]
    row += [_main(outcome.baselines.get(kind)) for kind in kinds] + [_main(outcome.per_language)] * len(own)
    rows.append(row + [_number(paper.average) for paper in papers])

    title = f"{outcome.benchmark.title} · {outcome.setting} · {outcome.split} set"
    table = Table(box=None, padding=(0, 1, 0, 0))
    for at, head in enumerate(heads):
        # Heads wrap between words; nothing is cut.
        width = max(len(word) for word in [*head.split(), *(cells[at] for cells in rows)])
        table.add_column(head, justify="left" if at == 0 else "right", min_width=width)
    for cells in rows[:-1]:
        table.add_row(*cells)
    table.add_row(*rows[-1], style="bold")
    console = stdout()
    console.print(title, style="italic", soft_wrap=True)
    needed = console.measure(table).minimum
    console.print(table, width=max(console.width, needed), crop=False)
    notes = stderr()
    for rule, model in outcome.chosen.items():
        notes.print(f"chosen {rule}: {model}", soft_wrap=True)
    for note in outcome.notes:
        notes.print(f"note: {note}", style="yellow", soft_wrap=True)
    for paper in outcome.published():
        notes.print(f"{paper.model}, average {_number(paper.average)}: {paper.source}", style="dim", soft_wrap=True)


def evaluate_pairs(
    models: list[str],
    pairs: list[str],
    beams: int,
    tokenize: str | None,
    limit: int | None,
    load: Load,
    as_json: bool,
) -> None:
    """Score a translation model on pairs."""
    from xlm.errors import InputError
    from xlm.evaluation.translation import evaluate_translation

    if len(models) != 1:
        raise InputError(f"--pairs: {len(models)} models given: one is needed")
    with stderr().status("reading") as status:
        found = evaluate_translation(
            load(model=models[0]),
            pairs,
            beams=beams,
            tokenize=tokenize,
            limit=limit,
            progress=lambda what, done, total: status.update(f"{what}  {done:,} of {total:,}"),
        )
    if as_json:
        for one in found:
            print_json(one.record())
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    heads = ("pairs", "direction", "number", "BLEU", "95 %", "chrF", "95 %", "BLEU of copying")
    rows = []
    for one in found:
        rated = [(f"{of.score:.1f}", "{:.1f}–{:.1f}".format(*of.interval)) for of in one.scores.values()]
        row = [one.file, f"{one.source}-{one.target}", f"{one.pairs:,}", *rated[0], *rated[1]]
        rows.append([*row, f"{one.copying['bleu'].score:.1f}"])
    for at, head in enumerate(heads):
        width = max(len(cells[at]) for cells in [heads, *rows])
        table.add_column(head, justify="left" if at < 2 else "right", min_width=width)
    for cells in rows:
        table.add_row(*cells)
    stdout().print(table, width=max(stdout().width, stdout().measure(table).minimum), crop=False)
    for note in dict.fromkeys(one.note for one in found if one.note):
        stderr().print(f"note: {note}", style="yellow", soft_wrap=True)
    signatures: dict[tuple[str, str], list[str]] = {}
    for one in found:
        for name, rated in one.scores.items():
            signatures.setdefault((name, rated.signature), []).append(f"{one.source}-{one.target}")
    for (name, signature), ways in signatures.items():
        every = "" if len(ways) == len(found) else f" ({', '.join(dict.fromkeys(ways))})"
        stderr().print(f"{name}{every}: {signature}", style="dim", soft_wrap=True)


def show_benchmarks(as_json: bool) -> None:
    """What there is to evaluate on."""
    from xlm.evaluation.benchmarks import benchmarks

    if as_json:
        for one in benchmarks().values():
            print_json(
                {"name": one.name, "title": one.title, "task": one.task, "metric": one.metric, "paper": one.paper}
            )
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("name", "what it asks", "task", "metric"):
        table.add_column(name, no_wrap=name != "what it asks")
    for one in benchmarks().values():
        table.add_row(one.name, one.title, one.task, one.metric)
    stdout().print(table)


def _cells(score: Score) -> list[str]:
    low, high = score.interval
    return [f"{score.main:.1f}", f"{low:.1f}–{high:.1f}"]


def _main(score: Score | None) -> str:
    return "" if score is None else f"{score.main:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
