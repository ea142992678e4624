"""The Flax classes against those of transformers 4.37.2, the last release that had any: speed, compile time, memory.

    python benchmarks/flax_forward.py --reference /tmp/ref-flax/bin/python     both in turn, as a table and JSON
    python benchmarks/flax_forward.py ours|reference forward|compile           one measurement in this process: JSON

The reference needs an environment of its own (how to make it: tests/goldens/flax/make_goldens.py).

forward: XLM-R base with random weights over the passages of benchmarks/encode.py (sorted, --batch at a time, padded to the
next multiple of 64 tokens): every shape is compiled first, then the best of --runs passes counts; padding is not counted.
Both read the same flax_model.msgpack. On a busy machine compare tokens a second of processor time.
compile: tracing and compiling XLM-R large (24 layers) for 8 rows of 128 tokens, without weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BUCKET = 64
BASE = {"vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
LARGE = {**BASE, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def lengths(count: int) -> list[int]:
    """Log-normal like XQuAD's English paragraphs, longest first; the passages of benchmarks/encode.py."""
    drawn = np.random.default_rng(0).normal(5.0, 0.55, count)
    return sorted(np.clip(np.exp(drawn) + 4, 6, 512).astype(int).tolist(), reverse=True)


def batches(count: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and masks, each batch as long as its longest row, rounded up to a bucket."""
    draw, out, sizes = np.random.default_rng(1), [], lengths(count)
    for start in range(0, count, size):
        rows = sizes[start : start + size]
        width = min(512, -(-rows[0] // BUCKET) * BUCKET)
        ids, mask = np.ones((size, width), np.int32), np.zeros((size, width), np.int32)
        for number, tokens in enumerate(rows):
            ids[number, :tokens], mask[number, :tokens] = draw.integers(5, 250_000, tokens), 1
        out.append((ids, mask))
    return out


def classes(who: str) -> tuple[Any, Any]:
    """The model and config classes of either side."""
    if who == "reference":
        import transformers as library
    else:
        import xlm as library
    return library.FlaxXLMRobertaModel, library.XLMRobertaConfig


def forward(who: str, folder: Path, count: int, batch: int, runs: int, dtype: str) -> dict[str, Any]:
    """Real tokens a second, seconds to compile all shapes, peak memory, and a checksum of the states."""
    import jax
    import jax.numpy as jnp

    model_class, _ = classes(who)
    model = model_class.from_pretrained(folder, dtype=jnp.dtype(dtype), add_pooling_layer=False)
    params = model.params if who == "reference" else model.stacked
    options = {} if who == "reference" else {"compiler_options": model.compiler_options}
    run = jax.jit(lambda params, ids, mask: model(ids, mask, params=params)[0], **options)
    work = batches(count, batch)
    start = time.perf_counter()
    shapes = {ids.shape: (ids, mask) for ids, mask in work}
    for ids, mask in shapes.values():
        run.lower(params, ids, mask).compile()
    compiled = time.perf_counter() - start
    ids, mask = work[-1]
    states = np.asarray(run(params, ids, mask), np.float32)[mask == 1]
    for ids, mask in shapes.values():
        run(params, ids, mask).block_until_ready()
    seconds, busy = [], []
    for _ in range(runs):
        start, cpu = time.perf_counter(), time.process_time()
        for ids, mask in work:
            run(params, ids, mask).block_until_ready()
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - cpu)
    return {
        "who": who,
        "jax": jax.__version__,
        "dtype": dtype,
        "tokens_per_second": round(sum(lengths(count)) / min(seconds)),
        "runs": [round(s, 2) for s in seconds],
        "tokens_per_cpu_second": round(sum(lengths(count)) / min(busy)),
        "compile_seconds": round(compiled, 2),
        "shapes": len(shapes),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "checksum": [round(float(x), 4) for x in states[0, :3]],
    }


def compiling(who: str) -> dict[str, Any]:
    """Seconds to trace and to compile a 24-layer forward."""
    import jax
    import jax.numpy as jnp

    model_class, config_class = classes(who)
    model = model_class(config_class(**LARGE), _do_init=False, add_pooling_layer=False)
    params: Any = model.params_shape_tree
    if who == "ours":
        params = jax.eval_shape(model.stack, params)
    ids = jax.ShapeDtypeStruct((8, 128), jnp.int32)
    start, cpu = time.perf_counter(), time.process_time()
    lowered = jax.jit(lambda p, ids, mask: model(ids, mask, params=p)[0]).lower(params, ids, ids)
    middle = time.perf_counter()
    lowered.compile()
    end = time.perf_counter()
    return {
        "who": who,
        "trace_seconds": round(middle - start, 2),
        "compile_seconds": round(end - middle, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }


def compare(args: argparse.Namespace) -> None:
    """Run everything in turn and print a table."""
    interpreters = {"ours": sys.executable, "reference": args.reference}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        if not (args.folder / "flax_model.msgpack").exists():
            args.folder = Path(folder)
            make_model(args.folder)
        for what in ("compile", "forward"):
            for who, python in interpreters.items():
                command = [python, __file__, who, what, "--folder", str(args.folder), "--runs", str(args.runs)]
                done = subprocess.run(
                    [*command, "--count", str(args.count)], capture_output=True, text=True, check=True
                )
                results.append(json.loads(done.stdout.splitlines()[-1]))
                print(json.dumps(results[-1]), flush=True)
    slow, ours = results[1], results[0]
    total = [sum(r[k] for k in ("trace_seconds", "compile_seconds")) for r in (ours, slow)]
    print(f"compile, 24 layers   ours {total[0]:6.2f} s   reference {total[1]:6.2f} s   {total[0] / total[1]:.2f}")
    units = {"tokens_per_second": "tokens/s", "tokens_per_cpu_second": "tokens/CPU s", "peak_gb": "GB"}
    for key, unit in {**units, "compile_seconds": "s to compile"}.items():
        one, two = results[2][key], results[3][key]
        print(f"forward, base        ours {one:8} {unit}   reference {two:8} {unit}   {one / two:.2f}")


def make_model(folder: Path) -> None:
    """XLM-R base with random weights as the reference's own kind of file."""
    import xlm

    model = xlm.FlaxXLMRobertaModel(xlm.XLMRobertaConfig(**BASE), add_pooling_layer=False)
    model.save_pretrained(folder, safe_serialization=False)


def main() -> None:
    """Choose what to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", nargs="?", choices=["ours", "reference", "make"])
    parser.add_argument("what", nargs="?", choices=["forward", "compile"], default="forward")
    parser.add_argument("--reference", default="/tmp/ref-flax/bin/python", help="python with transformers 4.37.2")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/xlmr-base-flax"))
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    if args.who is None:
        compare(args)
    elif args.who == "make":
        make_model(args.folder)
    elif args.what == "compile":
        print(json.dumps(compiling(args.who)))
    else:
        print(json.dumps(forward(args.who, args.folder, args.count, args.batch, args.runs, args.dtype)))


if __name__ == "__main__":
    main()
