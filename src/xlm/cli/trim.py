"""``xlm trim``: a checkpoint's vocabulary cut down to chosen languages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from xlm.cli.common import JsonOption, print_json, stderr, stdout
from xlm.errors import DataError, InputError

_TEXTS = (
    "Text of the languages: sw=FILE, sw.txt.gz, or a pattern like 'text/{language}.txt.gz'; any format of xlm corpus."
)


def trim(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, or a name on the hub.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.")],
    texts: Annotated[list[str] | None, typer.Option("--texts", "-t", help=_TEXTS)] = None,
    languages: Annotated[
        str | None, typer.Option("--languages", "-l", help="Of the texts or corpus: sw,ur,en.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="A folder of xlm corpus build with this vocabulary: its counts instead of texts."),
    ] = None,
    keep_pieces: Annotated[Path | None, typer.Option(help="A file of pieces to keep, one a line.")] = None,
    coverage: Annotated[float, typer.Option(help="Share of each language's tokens that the pieces make up.")] = 0.9999,
    proof: Annotated[int, typer.Option(help="Texts of each language to compare before and after; 0: none.")] = 100,
    max_shard_size: Annotated[str, typer.Option("--max-shard-size", help="Of one safetensors file.")] = "5GB",
    as_json: JsonOption = False,
) -> None:
    """Cut a checkpoint's vocabulary to chosen languages; what it says about their texts stays the same, bit by bit.

    Pieces are chosen by counting the tokens of your texts; special tokens and the single characters of the texts' scripts
    always stay.
    """
    from xlm.checkpoints.trim import trim as cut
    from xlm.hub import resolve

    source = Path(model) if Path(model).exists() else resolve(model)
    wanted = [name.strip() for name in languages.split(",")] if languages else None
    files = _files(texts or [], wanted)
    if wanted and not files and corpus is None:
        raise InputError(f"--languages is {languages!r}: give --texts or --corpus too, pieces are chosen by counting")
    report = cut(
        source,
        out,
        texts={language: _lines(of) for language, of in files.items()},
        counts=_counts(corpus, source, wanted) if corpus is not None else None,
        keep_pieces=_pieces(keep_pieces) if keep_pieces is not None else (),
        coverage=coverage,
        max_shard_size=max_shard_size,
    )
    result = report.to_dict()
    if proof and files:
        result["proof"] = _prove(report, {name: list(islice(_lines(of), proof)) for name, of in files.items()})
    if as_json:
        print_json(result)
    else:
        _show(result)
    failed = result.get("proof") or {}
    if failed and not _holds(failed):
        raise typer.Exit(1)


def _files(specs: list[str], wanted: list[str] | None) -> dict[str, list[Any]]:
    from xlm.data.corpora.options import parse_sources

    found: dict[str, list[Any]] = {}
    for source in parse_sources(specs) if specs else ():
        if source.kind == "pairs":
            raise InputError(f"--texts {source.path}: pairs have two languages: give each side as a file of its own")
        if wanted is None or source.language in wanted:
            found.setdefault(source.language, []).append(source)
    missing = [name for name in wanted or [] if name not in found]
    if specs and missing:
        raise InputError(f"--languages {', '.join(missing)}: no file among --texts is in it")
    return found


def _lines(sources: list[Any]) -> Iterator[str]:
    from xlm.data.corpora.options import CorpusOptions
    from xlm.data.corpora.rows import BadRow, read_rows

    options = CorpusOptions(tuple(sources), Path(), Path())
    for source in sources:
        for row in read_rows(source, options):
            if isinstance(row, BadRow):
                raise DataError(f"{source.path}:{row.line}: {row.reason}")
            yield from (line for text in row.texts for line in text.split("\n") if line.strip())


def _counts(corpus: Path, source: Path, wanted: list[str] | None) -> dict[str, Any]:
    from xlm.data.corpora.build import open_corpus_folder
    from xlm.data.vocabulary import folder_fingerprint

    parts = open_corpus_folder(corpus, folder_fingerprint(source))
    stores = parts.get("text", {})
    missing = [name for name in wanted or [] if name not in stores]
    if missing or not stores:
        raise InputError(
            f"--corpus {corpus}: no text in {', '.join(missing) or 'it'}; it has: {', '.join(stores) or 'none'}"
        )
    return {name: store.counts for name, store in stores.items() if wanted is None or name in wanted}


def _pieces(path: Path) -> list[str]:
    from xlm.data.readers import read_lines

    return [line for _, line in read_lines(path) if line]


def _prove(report: Any, texts: dict[str, list[str]]) -> dict[str, Any] | None:
    try:
        from xlm.inference.trimming import prove
    except ModuleNotFoundError as error:
        stderr().print(f"not compared with the original: {error.name} is not installed (pip install 'xlm[torch]')")
        return None
    return prove(report, texts).to_dict()


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{result['out']}", title_justify="left")
    for name in ("", "before", "after", ""):
        table.add_column(name, justify="left" if not name else "right")
    for name, label in (("vocabulary", "vocabulary"), ("parameters", "parameters"), ("bytes", "bytes of weights")):
        before, after = result[name]
        table.add_row(label, f"{before:,}", f"{after:,}", f"{after / before:.1%}")
    stdout().print(table)
    if result["languages"]:
        cuts = Table()
        for name in ("language", "tokens counted", "pieces needed", "tokens that stay"):
            cuts.add_column(name, justify="left" if name == "language" else "right")
        for language, cut in result["languages"].items():
            cuts.add_row(language, f"{cut['tokens']:,}", f"{cut['pieces']:,}", f"{cut['kept_tokens']:.4%}")
        stdout().print(cuts)
        stdout().print(f"all single characters of: {', '.join(result['scripts'])}")
    if proof := result.get("proof"):
        verdict = "same weights, same pieces, hidden states the same in every bit" if _holds(proof) else "DIFFERENT"
        logits = ""
        if proof["logits_equal"] is not None:
            same = "the same in every bit" if proof["logits_equal"] else f"within {proof['logits_difference']:.1e}"
            logits = f"; logits of kept tokens {same}"
        offered = (
            f"{proof['texts']:,} of {proof['offered']:,} texts need kept pieces alone ({proof['tokens']:,} tokens)"
        )
        stdout().print(f"{offered}: {verdict}{logits}", soft_wrap=True)


def _holds(proof: dict[str, Any]) -> bool:
    return proof["weights_equal"] and proof["pieces_equal"] and proof["states_equal"]
