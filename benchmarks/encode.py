"""Encode one ragged workload with this library and with its peers, in turn, and print real tokens a second.

    python benchmarks/encode.py                        every engine that is installed, both workloads, as a table and JSON
    python benchmarks/encode.py ENGINE LOAD            one engine in this process: prints JSON

    ENGINE  xlm-float32 xlm-bfloat16 xlm-int8, transformers (as given), transformers-sorted, transformers-bf16-sorted
    LOAD    passages (about 190 tokens each, at most 512), questions (about 17)

The model is XLM-R base with random weights, made once in --folder (1.1 GB). Padding is never counted; peers get their inputs
sorted by length where the name says so, as their careful users do; ours get them unsorted, all at once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ENGINES = (
    "xlm-float32",
    "xlm-bfloat16",
    "xlm-int8",
    "transformers",
    "transformers-sorted",
    "transformers-bf16-sorted",
)
LOADS = {
    "passages": (96, 5.0, 0.55, 16),
    "questions": (512, 2.75, 0.3, 32),
}  # inputs, mean and spread of log length, batch


def workload(load: str) -> tuple[list[list[int]], int]:
    """Rows of ids with log-normal lengths like those of XQuAD's English paragraphs and questions, and a peer's batch size."""
    count, mean, spread, batch = LOADS[load]
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(mean, spread, count)) + 4, 6, 512).astype(int)
    return [[0, *rng.integers(5, 250_000, n - 2).tolist(), 2] for n in lengths], batch


def make_model(folder: Path) -> None:
    """Write the model and a vocabulary of single characters, which the engine needs to open but not to encode ids."""
    if (folder / "config.json").exists():
        return
    import torch

    from xlm import XLMRobertaConfig, XLMRobertaModel
    from xlm.tokenizers.train import train_sentencepiece

    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    text = folder / "en.txt"
    text.write_text("".join(f"{word} {word[::-1]}\n" for word in Path(__file__).read_text("utf-8").split()), "utf-8")
    train_sentencepiece({"en": text}, vocab_size=100, out=folder)


def run(engine: str, load: str, folder: Path) -> dict[str, float | str]:
    """Encode the workload in this process: one warm-up, then the best and the median of three."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    rows, batch = workload(load)
    if engine.startswith("xlm"):
        import xlm

        model = xlm.load(folder, dtype=engine.split("-")[1])

        def encode() -> None:
            model.encode(rows)
    else:
        from transformers import XLMRobertaModel

        dtype = torch.bfloat16 if "bf16" in engine else torch.float32
        peer = XLMRobertaModel.from_pretrained(folder, dtype=dtype, add_pooling_layer=False).eval()
        ordered = sorted(rows, key=len, reverse=True) if "sorted" in engine else rows
        padded = []
        for start in range(0, len(rows), batch):
            part = ordered[start : start + batch]
            ids = torch.ones(len(part), max(map(len, part)), dtype=torch.long)
            for i, row in enumerate(part):
                ids[i, : len(row)] = torch.tensor(row)
            padded.append((ids, (ids != 1).long()))

        @torch.inference_mode()
        def encode() -> None:
            for ids, mask in padded:
                peer(input_ids=ids, attention_mask=mask)

    encode()
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        encode()
        times.append(time.perf_counter() - begin)
    tokens = sum(map(len, rows))
    return {
        "engine": engine,
        "load": load,
        "tokens_per_second": round(tokens / sorted(times)[1]),
        "best": round(tokens / min(times)),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    """Run one engine, or all of them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", nargs="?", choices=ENGINES)
    parser.add_argument("load", nargs="?", choices=list(LOADS))
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/xlmr-base"))
    options = parser.parse_args()
    make_model(options.folder)
    if options.engine and options.load:
        print(json.dumps(run(options.engine, options.load, options.folder)))
        return
    print(f"{'engine':<26} {'load':<10} {'tokens/s':>9} {'best':>9} {'peak GB':>8}")
    for load in LOADS:
        for engine in ENGINES:
            command = [sys.executable, __file__, engine, load, "--folder", str(options.folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{engine:<26} {load:<10} {done.stderr.strip().splitlines()[-1][:90]}")
                continue
            row = json.loads(done.stdout.strip().splitlines()[-1])
            figures = f"{row['tokens_per_second']:>9,} {row['best']:>9,} {row['peak_rss_gb']:>8}"
            print(f"{engine:<26} {load:<10} {figures}")


if __name__ == "__main__":
    main()
