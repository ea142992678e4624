"""Megabytes of text a second: this library, bare SentencePiece and transformers' current fast tokenizer, in one run.

    python benchmarks/tokenization.py [--model sentencepiece.bpe.model] [--texts FILE.jsonl.gz ...] [--pieces 250000] [--xlm]

Without ``--model`` the bundled vocabulary is used; ``--pieces N`` enlarges it to N pieces that never occur, which costs what
a large vocabulary costs in memory and loading. Without ``--texts`` the XQuAD contexts in ``../shared`` are read. Ratios count,
not figures: machines differ and are noisy, so the engines take turns and the best of ``--rounds`` is taken.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece

from xlm.tokenizers import XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLMTokenizer, proto

ROOT = Path(__file__).resolve().parent.parent


def contexts(files: list[str]) -> list[str]:
    """Every distinct context of question-answering files."""
    paths = [Path(name) for name in files] or sorted((ROOT.parent / "shared/data/qa/xquad").glob("*.jsonl.gz"))
    found: dict[str, None] = {}
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                found[json.loads(line)["context"]] = None
    return list(found)


def enlarge(model: Path, count: int, folder: Path) -> Path:
    """The model with pieces of private characters added up to ``count``."""
    parsed = proto.parse(model.read_bytes(), str(model))
    scores = parsed.scores.tolist()
    pieces = list(zip(parsed.pieces()[3:], scores[3:], strict=True))
    extra = count - parsed.count
    pieces += [
        ("".join(chr(0xE000 + number // 70**k % 70) for k in range(4)), -30.0) for number in range(max(0, extra))
    ]
    out = folder / "sentencepiece.bpe.model"
    out.write_bytes(proto.build(pieces, parsed.charsmap))
    return out


def race(runs: dict[str, Callable[[], Any]], size: int, rounds: int) -> dict[str, float]:
    """Best megabytes a second of every run."""
    best = dict.fromkeys(runs, 0.0)
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = max(best[name], size / 1e6 / (time.perf_counter() - start))
    return best


def main() -> None:
    """Parse, race, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=str(ROOT / "src/xlm/assets/xlmr-mini/sentencepiece.bpe.model"))
    parser.add_argument("--texts", nargs="*", default=[])
    parser.add_argument("--pieces", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--xlm", metavar="FOLDER", help="vocab.json and merges.txt: time XLMTokenizer too")
    given = parser.parse_args()
    texts = contexts(given.texts)
    size = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(given.model)
        if given.pieces:
            model = enlarge(model, given.pieces, Path(folder))
        loads = {"load bare": [], "load ours": []}
        for _ in range(given.rounds):
            start = time.perf_counter()
            bare = sentencepiece.SentencePieceProcessor(model_file=str(model))
            loads["load bare"].append(time.perf_counter() - start)
            start = time.perf_counter()
            slow = XLMRobertaTokenizer(model)
            loads["load ours"].append(time.perf_counter() - start)
            del slow
        slow, fast = XLMRobertaTokenizer(model), XLMRobertaTokenizerFast(model)
        runs: dict[str, Callable[[], Any]] = {
            "bare sentencepiece, 2 threads": lambda: bare.encode(texts, num_threads=2),
            "ids": lambda: slow.engine.ids(texts, special=True),
            "XLMRobertaTokenizer(texts)": lambda: slow(texts),
            "XLMRobertaTokenizerFast(texts)": lambda: fast(texts),
            "ids and offsets as arrays": lambda: slow.encode_arrays(texts),
        }
        try:
            transformers = importlib.import_module("transformers")
            fast.save_pretrained(folder)
            theirs = transformers.AutoTokenizer.from_pretrained(folder)
            runs["transformers fast"] = lambda: theirs(texts)
            runs["transformers fast, offsets"] = lambda: theirs(texts, return_offsets_mapping=True)
        except ImportError:
            print("transformers is not installed: it is left out")
        if given.xlm:
            xlm = XLMTokenizer.from_pretrained(given.xlm)
            runs["XLMTokenizer(texts)"] = lambda: xlm(texts)
        best = race(runs, size, given.rounds)
    ratio = min(loads["load ours"]) / min(loads["load bare"])
    print(
        f"{len(texts):,} texts, {size / 1e6:.1f} MB, {len(slow):,} ids; "
        f"load {min(loads['load ours']):.3f} s, {ratio:.2f} x bare"
    )
    reference = best.get("transformers fast", 0.0)
    for name, speed in best.items():
        times = f"{speed / reference:6.1f} x transformers fast" if reference else ""
        print(f"{name:34} {speed:7.1f} MB/s {times} {speed / best['bare sentencepiece, 2 threads']:6.2f} x bare")


if __name__ == "__main__":
    main()
