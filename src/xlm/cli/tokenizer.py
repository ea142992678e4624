"""``xlm tokenizer``: train a vocabulary, and report how fairly it treats languages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from xlm.assets import BUNDLED
from xlm.cli.common import print_json
from xlm.errors import ConfigError
from xlm.tokenizers.train import train_sentencepiece

app = typer.Typer(help="Train and examine vocabularies.", no_args_is_help=True)


def languages_of(files: list[str]) -> dict[str, Path]:
    """``en=path`` or a path whose name begins with the language code: ``en.txt``, ``en.train.txt.gz``."""
    found: dict[str, Path] = {}
    for item in files:
        language, equals, name = item.partition("=")
        path = Path(name if equals else item)
        language = language if equals else path.name.split(".")[0]
        if language in found:
            raise ConfigError(f"language {language!r} is given twice: {found[language]} and {path}")
        found[language] = path
    return found


@app.command()
def train(
    files: Annotated[list[str], typer.Argument(help="One text file a language, plain or .gz: en.txt or en=path.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the vocabulary's files.")],
    kind: Annotated[
        str, typer.Option(help="unigram: SentencePiece, for XLM-R and XL; bpe: fastBPE's files, for XLM.")
    ] = "unigram",
    vocab_size: Annotated[int, typer.Option(help="Ids in all, special tokens included.")] = 32000,
    alpha: Annotated[
        float | None, typer.Option(help="Languages are drawn by p^alpha, 1: as the data is. Default: 0.3, of bpe 0.5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which lines are drawn.")] = 0,
    character_coverage: Annotated[float, typer.Option(help="Unigram: share of characters that get pieces.")] = 0.9995,
    min_frequency: Annotated[int, typer.Option(help="BPE: rarer characters and pairs get no id.")] = 2,
    keep_case: Annotated[
        bool, typer.Option("--keep-case", help="BPE: keep case and accents, as XLM-100 does.")
    ] = False,
    max_characters: Annotated[int | None, typer.Option(help="Characters used in all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a vocabulary on one text file per language: SentencePiece's unigram model, or XLM's byte-pair encoding."""
    given = languages_of(files)
    if kind == "unigram":
        report = train_sentencepiece(
            given,
            vocab_size,
            out,
            0.3 if alpha is None else alpha,
            seed,
            character_coverage,
            max_characters=max_characters,
        )
    elif kind == "bpe":
        from xlm.tokenizers.train_bpe import train_bpe

        share = 0.5 if alpha is None else alpha
        report = train_bpe(given, vocab_size, out, share, seed, not keep_case, min_frequency, max_characters)
    else:
        raise ConfigError(f"--kind is {kind!r}: it must be unigram or bpe")
    if as_json:
        print_json({"model": str(report.model), "pieces": report.pieces, "read": report.read, "used": report.used})
        return
    table = Table("language", "characters read", "characters used", title=f"{report.model}: {report.pieces:,} ids")
    for language, read in report.read.items():
        table.add_row(language, f"{read:,}", f"{report.used[language]:,}")
    Console().print(table)


@app.command()
def stats(
    files: Annotated[list[str], typer.Argument(help="One text file a language, plain or .gz: en.txt or en=path.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Folder, vocabulary file or hub name; without it the bundled one."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the result into this file (.png, .svg, .pdf).")] = None,
    errors: Annotated[str, typer.Option(help="Bytes that are not UTF-8: strict or replace.")] = "strict",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a language on stdout.")] = False,
) -> None:
    """Report how fairly a vocabulary treats languages: tokens a character and a word, unknown tokens, unread characters."""
    from xlm.tokenizers.auto import AutoTokenizer
    from xlm.tokenizers.stats import fairness
    from xlm.tokenizers.stats import plot as draw

    if errors not in ("strict", "replace"):
        raise ConfigError(f"--errors is {errors!r}: it must be strict or replace")
    name = model or BUNDLED
    found = fairness(AutoTokenizer.from_pretrained(name), languages_of(files), errors)
    if plot is not None:
        draw(found, plot)
    for language, counts in found.items():
        if counts.replaced:
            Console(stderr=True).print(
                f"{language}: {counts.replaced:,} lines held bytes that are not UTF-8, read as U+FFFD"
            )
    if as_json:
        for language, counts in found.items():
            print_json({"language": language, **counts.record()})
        return
    rates = ("tokens a\ncharacter", "tokens\na word", "unknown\ntokens", "unread\ncharacters")
    table = Table("", "characters", "tokens", *rates, title=name)
    # What cannot be read comes last: an unknown token may stand for a whole word, which looks cheap.
    order = sorted(
        (counts.unread_rate > 0.05, counts.tokens_per_character, language) for language, counts in found.items()
    )
    for _, per_character, language in order:
        counts = found[language]
        shares = (f"{per_character:.3f}", f"{counts.tokens_per_word:.2f}")
        shares += (f"{counts.unknown_rate:.2%}", f"{counts.unread_rate:.2%}")
        table.add_row(language, f"{counts.characters:,}", f"{counts.tokens:,}", *shares)
    Console().print(table)
