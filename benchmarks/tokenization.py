"""Megabytes of text a second: this library, bare SentencePiece and transformers' tokenizers, in one run.

    python benchmarks/tokenization.py [--model sentencepiece.bpe.model] [--texts FILE.jsonl.gz ...] [--pieces 250002]
        [--xlm FOLDER] [--workers 4]

Without ``--model`` the bundled vocabulary is used; ``--pieces N`` enlarges it to N ids with the frequent words of the texts of
``../shared``, and private characters where those do not suffice. Without ``--texts`` the XQuAD contexts there are read.
Ratios count, not figures: machines differ and are noisy, so the engines take turns and the best of ``--rounds`` is taken.
"New words" is a tokenizer that has seen nothing yet; the others have seen every text. ``--workers`` says what memory forked
workers have to themselves.
"""

from __future__ import annotations

import argparse
import collections
import gc
import gzip
import importlib
import json
import math
import os
import signal
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


def enlarge(model: Path, ids: int, folder: Path) -> Path:
    """The model with frequent words as pieces, scored by frequency, up to ``ids`` ids."""
    parsed = proto.parse(model.read_bytes(), str(model))
    pieces = dict(zip(parsed.pieces()[3:], parsed.scores.tolist()[3:], strict=True))
    words: collections.Counter[str] = collections.Counter()
    for path in sorted((ROOT.parent / "shared/data/pretrain").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
            words.update(stream.read(500_000).split())
    total = words.total()
    wanted = ids - 5  # four special tokens and the mask
    for word, count in words.most_common():
        if len(pieces) >= wanted:
            break
        if len(word) <= 16:
            pieces.setdefault("▁" + word, math.log(count / total))
    number = 0
    while len(pieces) < wanted:
        pieces["".join(chr(0xE000 + number // 70**k % 70) for k in range(4))] = -30.0
        number += 1
    out = folder / "sentencepiece.bpe.model"
    out.write_bytes(proto.build(pieces.items(), parsed.charsmap))
    return out


def memory() -> dict[str, int]:
    """Megabytes of this process, and those of them that no other process shares (Linux)."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    found = {line[0].rstrip(":"): int(line[1]) for line in lines}
    return {"resident": found["Rss"] // 1024, "own": (found["Private_Dirty"] + found["Private_Clean"]) // 1024}


def workers(count: int, tokenizer: Any, texts: list[str]) -> None:
    """Fork, tokenize in every worker, and print what each of them has for itself while the others live."""
    print(f"before forking: {memory()}", flush=True)
    gc.freeze()  # so that the collector does not write to pages that are shared
    children: list[int] = []
    for _ in range(count):
        done, tell = os.pipe()
        child = os.fork()
        if not child:
            tokenizer(texts)
            tokenizer.encode_arrays(texts)
            os.write(tell, json.dumps(memory()).encode())
            signal.pause()
        children.append(child)
        print(f"worker: {os.read(done, 1000).decode()}")
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def race(runs: dict[str, Callable[[], Any]], size: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Best megabytes a second of every run, and best megabytes a second of processor time, all threads together."""
    best = dict.fromkeys(runs, (0.0, 0.0))
    for _ in range(rounds):
        for name, run in runs.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            wall, used = time.perf_counter() - start, time.process_time() - used
            best[name] = max(best[name][0], size / 1e6 / wall), max(best[name][1], size / 1e6 / used)
    return best


def main() -> None:
    """Parse, race, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=str(ROOT / "src/xlm/assets/xlmr-mini/sentencepiece.bpe.model"))
    parser.add_argument("--texts", nargs="*", default=[])
    parser.add_argument("--pieces", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--xlm", metavar="FOLDER", help="vocab.json and merges.txt: time XLMTokenizer too")
    parser.add_argument("--workers", type=int, default=0, help="fork so many and print their memory")
    given = parser.parse_args()
    texts = contexts(given.texts)
    size = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(given.model)
        if given.pieces:
            model = enlarge(model, given.pieces, Path(folder))
        both = Path(folder) / "both"
        XLMRobertaTokenizerFast(model).save_pretrained(both)
        model_bytes = model.stat().st_size
        loads = race(
            {
                "bare": lambda: sentencepiece.SentencePieceProcessor(model_file=str(model)),
                "ours": lambda: XLMRobertaTokenizer(model),
                "of a folder with tokenizer.json": lambda: XLMRobertaTokenizerFast.from_pretrained(both),
            },
            model_bytes,
            given.rounds,
        )
        bare = sentencepiece.SentencePieceProcessor(model_file=str(model))
        slow, fast = XLMRobertaTokenizer(model), XLMRobertaTokenizerFast(model)
        runs: dict[str, Callable[[], Any]] = {
            "bare sentencepiece, 2 threads": lambda: bare.encode(texts, num_threads=2),
            "ids": lambda: slow.engine.ids(texts, special=True),
            "XLMRobertaTokenizer(texts)": lambda: slow(texts),
            "XLMRobertaTokenizerFast(texts)": lambda: fast(texts),
            "ids and offsets as arrays": lambda: slow.encode_arrays(texts),
            "ids and offsets as lists": lambda: slow(texts, return_offsets_mapping=True),
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
            files = [str(Path(given.xlm) / name) for name in ("vocab.json", "merges.txt")]
            xlm = XLMTokenizer(*files)
            fresh = iter([XLMTokenizer(*files) for _ in range(given.rounds)])
            runs["XLMTokenizer(texts)"] = lambda: xlm(texts)
            runs["XLMTokenizer(texts), new words"] = lambda: next(fresh)(texts)
            if "transformers fast" in runs:
                make = importlib.import_module("transformers").XLMTokenizer
                old, unused = make(*files), iter([make(*files) for _ in range(given.rounds)])
                runs["transformers XLMTokenizer"] = lambda: old(texts)
                runs["transformers XLMTokenizer, new words"] = lambda: next(unused)(texts)
            xlm(texts)
        best = race(runs, size, given.rounds)
    print(f"{len(texts):,} texts, {size / 1e6:.1f} MB, {len(slow):,} ids")
    for name, speeds in loads.items():
        ratios = [alone / speed for speed, alone in zip(speeds, loads["bare"], strict=True)]
        seconds = model_bytes / 1e6 / speeds[0]
        print(f"load {name}: {seconds:.3f} s, {ratios[0]:.2f} x bare; of processor time {ratios[1]:.2f} x")
    print(
        f"{'':36} {'MB/s':>7} {'of the peer':>12} {'of bare':>8}   {'MB/cpu-s':>8} {'of the peer':>12} {'of bare':>8}"
    )
    bare = best["bare sentencepiece, 2 threads"]
    for name, speeds in best.items():
        kind = "XLMTokenizer" if "XLMTokenizer" in name else "fast, offsets" if "offsets" in name else "fast"
        kind += ", new words" if "new words" in name else ""
        peer = best.get(f"transformers {kind}", (0.0, 0.0))
        columns = [
            f"{speed:7.1f} {f'{speed / other:.1f} x' if other else '':>12} {speed / alone:6.2f} x"
            for speed, other, alone in zip(speeds, peer, bare, strict=True)
        ]
        print(f"{name:36} {'   '.join(columns)}")
    if given.workers:
        workers(given.workers, fast, texts)


if __name__ == "__main__":
    main()
