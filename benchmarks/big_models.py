"""Load and run XL-sized checkpoints, ours beside transformers, each in a process of its own.

    python benchmarks/big_models.py write xl FOLDER             random bf16 weights, shard by shard (7 GB; xxl: 21.5 GB)
    python benchmarks/big_models.py run ENGINE FOLDER           ENGINE: transformers | bf16 | int8 | disk
    python benchmarks/big_models.py compare FOLDER [ENGINE...]  all in turn, as a table

A run prints JSON: seconds to load, to the first forward of 128 tokens from the start, of later forwards (best of 3), the
peak resident memory, and the bytes of the weights on disk.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

TOKENS = 128
SIZES = {"xl": {}, "xxl": {"hidden_size": 4096, "num_hidden_layers": 48, "intermediate_size": 16384}}


def write(size: str, folder: Path) -> None:
    """Write random weights of an XL or XXL model without ever holding more than one tensor."""
    import ml_dtypes
    import numpy as np
    import torch

    from xlm import XLMRobertaXLConfig, XLMRobertaXLForMaskedLM
    from xlm.checkpoints.checkpoint import Stored
    from xlm.checkpoints.files import save_safetensors
    from xlm.checkpoints.published import to_theirs

    config = XLMRobertaXLConfig(**SIZES[size], torch_dtype="bfloat16", architectures=["XLMRobertaXLForMaskedLM"])
    with torch.device("meta"):
        model = XLMRobertaXLForMaskedLM(config)
    noise = (np.random.default_rng(0).standard_normal(1 << 22) * 0.02).astype(ml_dtypes.bfloat16)

    def stored(name: str, shape: tuple[int, ...]) -> Stored:
        def read():
            if len(shape) > 1:
                return np.resize(noise, shape)
            return np.full(shape, 1.0 if name.endswith("weight") else 0.0, ml_dtypes.bfloat16)

        return Stored(shape, np.dtype(ml_dtypes.bfloat16), read)

    names = ((to_theirs(model.family, name, False), tuple(p.shape)) for name, p in model.named_parameters())
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(folder, ((name, stored(name, shape)) for name, shape in names), max_shard_size="2GB")
    config.save_pretrained(folder)


def run(engine: str, folder: Path) -> dict[str, float | str]:
    """Load and run one engine in this process."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    ids = torch.randint(5, 250_000, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    if engine == "transformers":
        from transformers import XLMRobertaXLModel

        model = XLMRobertaXLModel.from_pretrained(folder, dtype=torch.bfloat16, add_pooling_layer=False).eval()
    else:
        from xlm import XLMRobertaXLModel

        options = {
            "bf16": {"dtype": "bfloat16", "for_inference": True},
            "int8": {"dtype": "bfloat16", "quantization": "int8"},
            "disk": {"dtype": "auto", "offload": "disk"},
        }[engine]
        model = XLMRobertaXLModel.from_pretrained(folder, add_pooling_layer=False, **options)
    loaded = time.perf_counter() - start
    with torch.inference_mode():
        model(ids)
        first = time.perf_counter() - start
        later = []
        for _ in range(3):
            begin = time.perf_counter()
            model(ids)
            later.append(time.perf_counter() - begin)
    return {
        "engine": engine,
        "load_s": round(loaded, 2),
        "load_and_first_s": round(first, 2),
        "later_s": round(min(later), 2),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "weights_gb": round(sum(p.stat().st_size for p in folder.glob("*.safetensors")) / 1e9, 2),
    }


def compare(folder: Path, engines: list[str]) -> None:
    """Run engines one after the other and print a table."""
    rows = []
    for engine in engines:
        done = subprocess.run([sys.executable, __file__, "run", engine, str(folder)], capture_output=True, text=True)
        if done.returncode:
            print(f"{engine}: {done.stderr.strip().splitlines()[-1]}")
            continue
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    if rows:
        print("  ".join(f"{key:>16}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{value!s:>16}" for value in row.values()))


if __name__ == "__main__":
    action, *rest = sys.argv[1:] or ["help"]
    if action == "write":
        write(rest[0], Path(rest[1]))
    elif action == "run":
        print(json.dumps(run(rest[0], Path(rest[1]))))
    elif action == "compare":
        compare(Path(rest[0]), rest[1:] or ["transformers", "bf16", "int8", "disk"])
    else:
        sys.exit(__doc__)
