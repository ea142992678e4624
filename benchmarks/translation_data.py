"""The texts of the translation runs: Spanish and Portuguese halves that do not translate each other, and held-out pairs.

    python benchmarks/translation_data.py --data ../shared/data --out runs/translation/data

Pairs are those of the shared Spanish-English and Portuguese-English files that have the same English side. Written:

- ``es-pt.{dev,test}.tsv``: pairs of at most ``LONGEST`` words a side, held out by a hash of their English side; no line
  of theirs is in any other file. ``es-pt.train.tsv``: the other pairs, of at most ``LONGEST_PAIR`` words.
- ``mono/{es,pt}.txt``: lines of at most ``LONGEST`` words, for pretraining and unsupervised translation. Of every known
  pair one side is left out, which one says a hash; so is every Spanish line that resembles a Portuguese one (cosine of
  4-letter pieces above ``THRESHOLD``), to find pairs that nobody wrote down. ``data.json`` says what share of the known
  pairs that test finds.
- ``es-pt.flores.tsv``: FLORES-200, another domain.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

LONGEST, LONGEST_PAIR = 15, 25
THRESHOLD = 0.35
SIZES = {"dev": 200, "test": 500}


def lines(path: Path) -> list[str]:
    """The lines of a gzipped text, spaces made plain."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        return [" ".join(line.split()) for line in stream if line.strip()]


def with_english(path: Path) -> dict[str, str]:
    """The text of every English line of a shared file of pairs."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        rows = [[" ".join(side.split()) for side in line.rstrip("\n").split("\t")] for line in stream]
    return {row[1]: row[0] for row in reversed(rows) if len(row) == 2 and all(row)}


def draw(text: str, of: int) -> int:
    """A number below ``of`` that only the text decides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % of


def key(text: str) -> str:
    """What makes two lines the same: letters and digits, without case."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def fits(sides: Iterable[str], longest: int = LONGEST) -> bool:
    """Whether every side has a word and at most ``longest``."""
    return all(key(side) and len(side.split()) <= longest for side in sides)


def resembling(texts: list[str], others: list[str], known: list[tuple[str, str]]) -> tuple[np.ndarray, float]:
    """The highest cosine of every text with one of ``others``, and the share of ``known`` pairs above the threshold."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), strip_accents="unicode", dtype=np.float32)
    vectorizer.fit([*texts, *others])
    right = vectorizer.transform(others).T.tocsc()
    best = np.zeros(len(texts), np.float32)
    for start in range(0, len(texts), 2000):
        part = vectorizer.transform(texts[start : start + 2000]) @ right
        best[start : start + 2000] = part.max(axis=1).toarray().ravel()
    a, b = (vectorizer.transform([pair[side] for pair in known]) for side in (0, 1))
    return best, float((np.asarray(a.multiply(b).sum(axis=1)).ravel() > THRESHOLD).mean())


def write(path: Path, rows: Iterable[Iterable[str]]) -> None:
    """One row a line, columns by tabs."""
    path.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/translation/data"))
    options = parser.parse_args()
    data, out = options.data, options.out
    (out / "mono").mkdir(parents=True, exist_ok=True)
    spanish, portuguese = (with_english(data / f"parallel/{name}-en.tsv.gz") for name in ("es", "pt"))
    known = {english: (spanish[english], portuguese[english]) for english in spanish if english in portuguese}
    known = {english: pair for english, pair in known.items() if key(pair[0]) != key(pair[1])}
    order = sorted(known, key=lambda english: draw(english, 1 << 62))
    short = [english for english in order if fits(known[english])]
    parts = {"dev": short[: SIZES["dev"]], "test": short[SIZES["dev"] : sum(SIZES.values())]}
    hidden = {key(side) for chosen in parts.values() for english in chosen for side in known[english]}
    rest = [english for english in order if not {key(side) for side in known[english]} & hidden]
    parts["train"] = [english for english in rest if fits(known[english], LONGEST_PAIR)]
    for name, chosen in parts.items():
        write(out / f"es-pt.{name}.tsv", (known[english] for english in chosen))
    flores = [lines(data / f"retrieval/flores200/{name}.txt.gz") for name in ("spa_Latn", "por_Latn")]
    write(out / "es-pt.flores.tsv", zip(*flores, strict=True))

    mono: list[list[str]] = []
    for side, (name, paired) in enumerate((("es", spanish), ("pt", portuguese))):
        gone = hidden | {key(known[english][side]) for english in rest if draw(english + " half", 2) == side}
        texts = [text for text in (*lines(data / f"pretrain/{name}.txt.gz"), *paired.values()) if fits([text])]
        mono.append(list({key(text): text for text in texts if key(text) not in gone}.values()))
    best, found = resembling(mono[0], mono[1], [known[english] for english in short])
    mono[0] = [text for text, score in zip(mono[0], best.tolist(), strict=True) if score <= THRESHOLD]
    report: dict[str, Any] = {name: len(chosen) for name, chosen in parts.items()}
    report |= {"resembling lines left out": int((best > THRESHOLD).sum()), "known pairs so found": round(found, 3)}
    for name, texts in zip(("es", "pt"), mono, strict=True):
        write(out / f"mono/{name}.txt", ([text] for text in texts))
        report[f"mono.{name}"] = {"lines": len(texts), "words": sum(len(text.split()) for text in texts)}
    (out / "data.json").write_text(json.dumps(report, indent=1), "utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
