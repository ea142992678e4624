"""``xlm corpus``: raw files to a folder of token stores that ``xlm pretrain`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xlm.cli.common import JsonOption, print_json, stderr, stdout
from xlm.errors import InputError

app = typer.Typer(help="Build corpora for pretraining, and check them.", no_args_is_help=True)

_INPUTS = "LANGUAGE=FILE, a file named like sw.txt or sw-en.tsv, or a pattern like 'text/{language}.txt.gz'."


@app.command()
def build(
    files: Annotated[list[str], typer.Argument(metavar="INPUT...", help=_INPUTS)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The corpus folder.")],
    tokenizer: Annotated[Path, typer.Option(help="Folder of the vocabulary.")],
    languages: Annotated[str | None, typer.Option(help="Keep these alone: en,sw,ur.")] = None,
    pivot: Annotated[str, typer.Option(help="Second language of pairs whose file names one alone.")] = "en",
    format: Annotated[
        str | None, typer.Option("--format", help="txt, jsonl, parquet or tsv, whatever the files are called.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="Of JSONL and Parquet records.")] = "text",
    language_field: Annotated[str | None, typer.Option(help="Of JSONL and Parquet records.")] = None,
    documents: Annotated[str, typer.Option(help="Plain text: line, or block (blank lines between).")] = "line",
    errors: Annotated[str, typer.Option(help="Bytes that are not UTF-8: strict (quarantine) or replace.")] = "strict",
    bad_rows: Annotated[int, typer.Option(help="Rows of a file that may go to the quarantine.")] = 1000,
    fix_unicode: Annotated[bool, typer.Option("--fix-unicode", help="Repair mojibake with ftfy.")] = False,
    min_characters: Annotated[int, typer.Option(help="Of a document, of each side of a pair.")] = 1,
    max_characters: Annotated[int, typer.Option(help="Of a document, of each side of a pair.")] = 1_000_000,
    min_letters: Annotated[float, typer.Option(help="Least share of letters.")] = 0.0,
    max_digits: Annotated[float, typer.Option(help="Largest share of digits.")] = 1.0,
    max_ratio: Annotated[float, typer.Option(help="Longer side of a pair over the shorter; 0: any.")] = 0.0,
    dedup: Annotated[str, typer.Option(help="none, exact, or near (MinHash).")] = "none",
    identify: Annotated[
        str | None, typer.Option(help="Drop other languages: langid, or the file of a fastText model.")
    ] = None,
    identify_threshold: Annotated[float, typer.Option(help="Probability of another language that counts.")] = 0.65,
    identify_characters: Annotated[int, typer.Option(help="Shorter texts are not judged.")] = 20,
    held_out: Annotated[float, typer.Option(help="Share kept for validation.")] = 0.0,
    shard_size: Annotated[str, typer.Option(help="Text of a shard.")] = "64MiB",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, default one a core; on a cluster tasks at a time.")
    ] = None,
    executor: Annotated[str, typer.Option(help="Who runs it: local, slurm or ray.")] = "local",
    cluster: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="slurm: partition, time, any option of sbatch; ray: address, cpus, memory (GiB)."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another corpus in the folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build token stores by language from text, JSONL, Parquet and TSV pairs, plain or .gz .bz2 .xz .zst.

    [dim]Stopped by anything, the same command goes on where it was; finished, it is done at once.[/]
    """
    from xlm.checkpoints.writer import parse_size
    from xlm.data.corpora.build import build_corpus
    from xlm.data.corpora.executors import executor_named
    from xlm.data.corpora.options import Cleaning, CorpusOptions, parse_sources

    options: Any = CorpusOptions(
        sources=parse_sources(files, pivot, format),
        out=out,
        tokenizer=tokenizer,
        languages=tuple(name.strip() for name in languages.split(",")) if languages else None,
        text_field=text_field,
        language_field=language_field,
        documents=documents,  # type: ignore[arg-type]  # checked there
        errors=errors,  # type: ignore[arg-type]
        bad_rows=bad_rows,
        held_out=held_out,
        shard_bytes=parse_size(shard_size, "shard_size"),
        cleaning=Cleaning(
            fix_unicode=fix_unicode,
            min_characters=min_characters,
            max_characters=max_characters,
            min_letters=min_letters,
            max_digits=max_digits,
            max_ratio=max_ratio,
            dedup=dedup,  # type: ignore[arg-type]
            identify=identify,
            identify_threshold=identify_threshold,
            identify_characters=identify_characters,
        ),
    )
    console = stderr()
    runs = executor_named(executor, _settings(cluster or []), workers)
    with console.status("reading") as status:

        def tell(stage: str, done: int, tasks: int) -> None:
            status.update(f"{stage}: {done} of {tasks}")

        built = build_corpus(options, executor=runs, overwrite=overwrite, tell=tell)
    if built.existed:
        console.print(f"{out}: built before from the same files, options and vocabulary")
    show(built.folder, built.about, as_json)


def _settings(given: list[str]) -> dict[str, str]:
    """``["time=1:00:00", ...]`` by name."""
    found: dict[str, str] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise InputError(f"--cluster is {entry!r}: KEY=VALUE is needed, like partition=cpu")
        found[name.lstrip("-")] = value
    return found


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A corpus folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every shard and compare its sha256.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a built corpus holds; with --verify, whether all of it is as it was written."""
    from xlm.data.corpora.build import describe, verify_corpus

    show(folder, verify_corpus(folder) if verify else describe(folder), as_json)


def show(folder: Path, about: dict[str, Any], as_json: bool) -> None:
    """The table by language, and what lies where."""
    from rich.table import Table

    from xlm.data.corpora.report import reasons_of, rows_of

    rows, reasons = rows_of(about), reasons_of(about)
    if as_json:
        print_json({"folder": str(folder), "rows": about["rows"], "bad_rows": about["bad_rows"], "languages": rows})
        return
    total = sum(row["tokens"] for row in rows)
    table = Table(title=f"{folder}: {total:,} tokens from {about['rows']:,} rows", title_justify="left")
    for name in ("", "language", "documents", "held out", "tokens", "unknown", "dropped"):
        table.add_column(
            name, justify="left" if name in ("", "language", "dropped") else "right", no_wrap=name != "dropped"
        )
    for row in rows:
        cells = [row["kind"], row["language"], f"{row['documents']:,}", f"{row['held_out']:,}", f"{row['tokens']:,}"]
        dropped = (f"{row['dropped'][name]:,} {name}" for name in reasons if name in row["dropped"])
        table.add_row(*cells, f"{row['unknown_rate']:.2%}", ", ".join(dropped))
    stdout().print(table)
    if about["bad_rows"]:
        stdout().print(f"{about['bad_rows']:,} rows could not be read: {folder / 'quarantine.jsonl'}", soft_wrap=True)
    stdout().print(f"report: {folder / 'report.html'}", soft_wrap=True)
