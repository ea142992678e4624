"""The texts of the translation runs: Spanish and Portuguese halves that do not translate each other, Spanish-English pairs.

    python benchmarks/translation_data.py --data ../shared/data --out runs/translation

``es-pt`` is the unsupervised pair. Its pairs are those of the shared Spanish-English and Portuguese-English files that have
the same English side. ``es-en`` is the supervised one: the shared Spanish-English file. In each folder stand:

- ``dev.tsv``, ``test.tsv``: pairs of at most ``LONGEST_TEST`` words a side, held out by a hash of their English side; no line
  of theirs is in any other file. ``train.tsv``: the other pairs, of at most ``LONGEST`` words.
- ``flores.tsv``: FLORES-200, another domain.
- ``mono/{language}.txt``: lines of at most ``LONGEST`` words, for pretraining and unsupervised translation. For es-pt, of
  every known pair one side is left out, which one says a hash; so is every Spanish line that resembles a Portuguese one
  (cosine of 4-letter pieces above ``THRESHOLD``), to find pairs that nobody wrote down. ``data.json`` says what share of
  the known pairs that test finds.
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

LONGEST_TEST, LONGEST = 15, 25
THRESHOLD = 0.35
SIZES = {"dev": 200, "test": 500}
FLORES = {"es": "spa_Latn", "pt": "por_Latn", "en": "eng_Latn"}

Pairs = dict[str, tuple[str, str]]


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


def held_out(known: Pairs) -> tuple[dict[str, list[str]], set[str]]:
    """The English keys of the pairs of every part, and the keys of all lines of dev and test."""
    order = sorted(known, key=lambda english: draw(english, 1 << 62))
    short = [english for english in order if fits(known[english], LONGEST_TEST)]
    parts = {"dev": short[: SIZES["dev"]], "test": short[SIZES["dev"] : sum(SIZES.values())]}
    hidden = {key(side) for chosen in parts.values() for english in chosen for side in known[english]}
    parts["rest"] = [english for english in order if not {key(side) for side in known[english]} & hidden]
    parts["train"] = [english for english in parts["rest"] if fits(known[english])]
    return parts, hidden


def distinct(texts: Iterable[str], gone: set[str]) -> list[str]:
    """Texts that are short enough, once each, none of ``gone``."""
    return list({key(text): text for text in texts if fits([text]) and key(text) not in gone}.values())


def finish(
    out: Path, data: Path, languages: tuple[str, str], known: Pairs, parts: dict[str, list[str]], mono: list[list[str]]
) -> dict[str, Any]:
    """Write a pair's files; returns their sizes."""
    (out / "mono").mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {}
    for name in ("train", "dev", "test"):
        write(out / f"{name}.tsv", (known[english] for english in parts[name]))
        report[name] = len(parts[name])
    flores = [lines(data / f"retrieval/flores200/{FLORES[language]}.txt.gz") for language in languages]
    write(out / "flores.tsv", zip(*flores, strict=True))
    for language, texts in zip(languages, mono, strict=True):
        write(out / f"mono/{language}.txt", ([text] for text in texts))
        report[f"mono.{language}"] = {"lines": len(texts), "words": sum(len(text.split()) for text in texts)}
    return report


def unsupervised(data: Path, out: Path) -> dict[str, Any]:
    """Spanish and Portuguese, halves that do not translate each other."""
    english = {name: with_english(data / f"parallel/{name}-en.tsv.gz") for name in ("es", "pt")}
    both = english["es"].keys() & english["pt"].keys()
    known = {line: (english["es"][line], english["pt"][line]) for line in english["es"] if line in both}
    known = {line: pair for line, pair in known.items() if key(pair[0]) != key(pair[1])}
    parts, hidden = held_out(known)
    mono = []
    for side, name in enumerate(("es", "pt")):
        gone = hidden | {key(known[line][side]) for line in parts["rest"] if draw(line + " half", 2) == side}
        mono.append(distinct((*lines(data / f"pretrain/{name}.txt.gz"), *english[name].values()), gone))
    best, found = resembling(mono[0], mono[1], [known[line] for line in parts["train"]])
    mono[0] = [text for text, score in zip(mono[0], best.tolist(), strict=True) if score <= THRESHOLD]
    report = finish(out, data, ("es", "pt"), known, parts, mono)
    return report | {
        "resembling lines left out": int((best > THRESHOLD).sum()),
        "known pairs so found": round(found, 3),
    }


def supervised(data: Path, out: Path) -> dict[str, Any]:
    """Spanish and English: the pairs, and both languages' text."""
    known = {english: (spanish, english) for english, spanish in with_english(data / "parallel/es-en.tsv.gz").items()}
    known = {english: pair for english, pair in known.items() if key(pair[0]) != key(pair[1])}
    parts, hidden = held_out(known)
    sides = ([pair[0] for pair in known.values()], list(known))
    mono = [
        distinct((*lines(data / f"pretrain/{name}.txt.gz"), *own), hidden)
        for name, own in zip(("es", "en"), sides, strict=True)
    ]
    return finish(out, data, ("es", "en"), known, parts, mono)


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/translation"))
    options = parser.parse_args()
    for name, make in (("es-pt", unsupervised), ("es-en", supervised)):
        report = make(options.data, options.out / name)
        (options.out / name / "data.json").write_text(json.dumps(report, indent=1), "utf-8")
        print(name, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
