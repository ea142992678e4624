"""XLM-R in TensorFlow: this library's Keras classes beside those of transformers 4.37.2, in turn, on one ragged workload.

    python3.11 -m venv /tmp/ref-tf && /tmp/ref-tf/bin/pip install transformers==4.37.2 tensorflow-cpu==2.15.1 'numpy<2'
    python benchmarks/keras_forward.py --reference /tmp/ref-tf/bin/python      both, each in its own process, as a table
    python benchmarks/keras_forward.py xlm                                     one side in this process: prints JSON
    /tmp/ref-tf/bin/python benchmarks/keras_forward.py transformers            the other

The workload is that of ``encode.py`` (passages of about 190 tokens, at most 512), sorted by length, padded to multiples of 64
in batches of 16; the forward runs in a ``tf.function`` that is traced once a length, and real tokens are counted, not
padding. XLM-R base with random weights; ``--layers 24`` measures tracing alone, of a deeper and narrower model. Peak memory
is the process's.
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
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np

SIDES = ("xlm", "transformers")
BASE = {"vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


def batches(passages: int, batch: int = 16) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Ids, masks and the number of real tokens: log-normal lengths, sorted, padded to multiples of 64."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(5.0, 0.55, 96)) + 4, 6, 512).astype(int)
    rows = [[0, *rng.integers(5, 250_000, n - 2).tolist(), 2] for n in lengths][:passages]
    rows.sort(key=len)
    out = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        width = -(-max(map(len, part)) // 64) * 64
        ids = np.ones((len(part), width), np.int32)
        for i, row in enumerate(part):
            ids[i, : len(row)] = row
        out.append((ids, (ids != 1).astype(np.int32), sum(map(len, part))))
    return out


def build(side: str, layers: int, narrow: bool) -> Any:
    """A model with random weights."""
    if side == "xlm":
        from xlm import TFXLMRobertaModel as Model
        from xlm import XLMRobertaConfig as Config
    else:
        from transformers import TFXLMRobertaModel as Model
        from transformers import XLMRobertaConfig as Config
    small = (
        {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 1000} if narrow else {}
    )
    return Model(Config(**{**BASE, **small, "num_hidden_layers": layers}))


def peak() -> int:
    """The process's peak resident memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run(side: str, passages: int, layers: int) -> dict[str, Any]:
    """Measure one side in this process."""
    if layers != 12:
        return trace_time(side, layers)
    import tensorflow as tf

    begin = time.perf_counter()
    model = build(side, layers, narrow=False)
    work = batches(passages)
    model(input_ids=work[0][0][:1, :8], attention_mask=work[0][1][:1, :8])
    built, loaded = time.perf_counter() - begin, peak()
    forward = tf.function(
        lambda ids, mask: model(input_ids=ids, attention_mask=mask, training=False).last_hidden_state,
        input_signature=[tf.TensorSpec((None, None), tf.int32)] * 2,
    )
    begin = time.perf_counter()
    forward(*map(tf.constant, work[0][:2]))
    first = time.perf_counter() - begin
    times, processor = [], []
    for _ in range(2):
        begin, used = time.perf_counter(), time.process_time()
        for ids, mask, _ in work:
            forward(tf.constant(ids), tf.constant(mask)).numpy()
        times.append(time.perf_counter() - begin)
        processor.append(time.process_time() - used)
    tokens = sum(count for *_, count in work)
    return {
        "side": side,
        "tensorflow": tf.__version__,
        "tokens/s": round(tokens / min(times)),
        "tokens/processor s": round(tokens / min(processor)),
        "seconds": [round(t, 2) for t in times],
        "first call s": round(first, 2),
        "build s": round(built, 1),
        "peak MiB": peak(),
        "after build MiB": loaded,
    }


def trace_time(side: str, layers: int) -> dict[str, Any]:
    """Seconds to trace and to optimise a deep, narrow model: no time for its arithmetic.

    The first graph of a process counts: a second finds its code converted already.
    """
    import tensorflow as tf

    model = build(side, layers, narrow=True)
    ids = tf.ones((2, 16), tf.int32)
    model(input_ids=ids, attention_mask=ids)
    traced, called = [], []
    for _ in range(2):
        forward = tf.function(lambda ids, mask: model(input_ids=ids, attention_mask=mask, training=False)[0])
        begin = time.process_time()
        graph = forward.get_concrete_function(ids, ids)
        middle = time.process_time()
        graph(ids, ids)
        traced.append(round(middle - begin, 2))
        called.append(round(time.process_time() - middle, 2))
    return {"side": side, "layers": layers, "trace, processor s": traced, "first call, processor s": called}


def main() -> None:
    """Run one side, or both in turn in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", choices=SIDES)
    parser.add_argument(
        "--reference", default="/tmp/ref-tf/bin/python", help="a Python with transformers 4.37.2 and TensorFlow"
    )
    parser.add_argument("--passages", type=int, default=96)
    parser.add_argument("--layers", type=int, default=12)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(run(given.side, given.passages, given.layers)))
        return
    if not Path(given.reference).exists():
        print(f"{given.reference}: not there; see the top of {Path(__file__).name}")
        return
    pythons = {"xlm": sys.executable, "transformers": given.reference}
    for side in SIDES:
        command = [pythons[side], __file__, side, "--passages", str(given.passages), "--layers", str(given.layers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(done.stdout.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
