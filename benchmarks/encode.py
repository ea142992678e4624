"""Encode ragged workloads with this library and with its peers, in turn, and print real tokens a second.

    python benchmarks/encode.py                                  ours beside transformers, both workloads
    python benchmarks/encode.py --peers PYTHON                   every peer that PYTHON has installed, too
    python benchmarks/encode.py --json F --plot F.png --table F.md   keep the results
    PYTHON benchmarks/encode.py prepare                          the peers' files, made from the same model (once)
    PYTHON benchmarks/encode.py run ENGINE                       one engine in this process: prints JSON

The model is XLM-R base with random weights, made once in --folder (1.1 GB). `passages` are 96 texts of about 190 tokens, at
most 512; `questions` 512 of about 17 (--share 4: every fourth). Padding is never counted; where a name says sorted, a peer
gets its inputs sorted by length, as its careful users do; ours gets them unsorted, all at once. Every engine runs in a
process of its own: one pass to warm up, then the best of --passes. `limit` is the tokens a second that the matrix products of
the encoder alone, attention's included, would allow at the rate measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# engine -> what it is called in the table; the first word of the key says how it is run.
OURS = {
    "xlm-float32": "xlm float32",
    "xlm-bfloat16": "xlm bfloat16",
    "xlm-int8": "xlm int8, by row",
    "xlm-int8-calibrated": "xlm int8, calibrated",
}
HERE = {
    "hf": "transformers float32, unsorted",
    "hf-sort": "transformers float32, sorted",
    "hf-bf16-sort": "transformers bfloat16, sorted",
    "hf-int8-sort": "transformers + torch dynamic int8, sorted",
}
ELSEWHERE = {
    "ov-sort": "OpenVINO float32, sorted",
    "ov-bf16-sort": "OpenVINO bfloat16, sorted",
    "ov-int8-sort": "OpenVINO calibrated int8, sorted",
    "ct2-fp32-sort": "CTranslate2 float32, sorted",
    "ct2-int8-sort": "CTranslate2 int8, sorted",
    "ort-sort": "onnxruntime float32, sorted",
    "ort-int8-sort": "onnxruntime dynamic int8, sorted",
}
LOADS = {"passages": (96, 5.0, 0.55, 16), "questions": (512, 2.75, 0.3, 32)}  # inputs, log length, its spread, batch
HIDDEN, INNER, LAYERS = 768, 3072, 12
Rows = list[list[int]]
CLOCK, CORES = time.perf_counter, os.cpu_count() or 1


def workload(load: str, share: int, lengths_file: Path | None) -> Rows:
    """Rows of ids; lengths are log-normal like those of XQuAD's English paragraphs and questions, or a file's."""
    count, mean, spread, _ = LOADS[load]
    rng = np.random.default_rng(0)
    if lengths_file is None:
        lengths = np.clip(np.exp(rng.normal(mean, spread, count)) + 4, 6, 512).astype(int).tolist()
    else:  # {"ctx": words of paragraphs, "q": words of questions}
        words = json.loads(lengths_file.read_text("utf-8"))["ctx" if load == "passages" else "q"]
        lengths = [min(512, int(n * 1.3) + 2) for n in rng.permutation(words)[:count]]
    return [[0, *rng.integers(5, 250_000, n - 2).tolist(), 2] for n in lengths][::share]


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


def prepare(folder: Path) -> None:
    """The peers' files beside the model: ONNX, its dynamic int8, OpenVINO's calibrated int8, CTranslate2's."""
    import nncf
    import openvino
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import XLMRobertaModel

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = XLMRobertaModel.from_pretrained(
                folder / "xlmr-base", attn_implementation="eager", add_pooling_layer=False
            ).eval()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.m(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    os.chdir(folder)
    ids = torch.randint(5, 1000, (2, 16))
    axes, names = {0: "batch", 1: "tokens"}, ["input_ids", "attention_mask"]
    shapes = dict.fromkeys(names, axes)
    torch.onnx.export(
        Hidden(), (ids, torch.ones_like(ids)), "xlmr.onnx", input_names=names, dynamic_shapes=shapes, dynamo=True,
        external_data=True,
    )  # fmt: skip
    options = {"MatMulConstBOnly": True}
    quantize_dynamic("xlmr.onnx", "xlmr-int8.onnx", weight_type=QuantType.QInt8, extra_options=options)
    rng = np.random.default_rng(1)
    samples = [
        {"input_ids": rng.integers(5, 250_000, (1, n)), "attention_mask": np.ones((1, n), np.int64)}
        for n in rng.integers(10, 300, 24)
    ]
    quantized = nncf.quantize(
        openvino.Core().read_model("xlmr.onnx"),
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
    )
    openvino.save_model(quantized, "xlmr-ov-int8.xml", compress_to_fp16=False)
    converter = Path(sys.executable).with_name("ct2-transformers-converter")
    subprocess.run([converter, "--model", "xlmr-base", "--output_dir", "ct2", "--force"], check=True)


def padded(rows: Rows, batch: int, ordered: bool) -> list[tuple[Any, Any]]:
    """Batches of ids and masks (b, s) as peers take them."""
    rows = sorted(rows, key=len, reverse=True) if ordered else rows
    found = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        ids = np.ones((len(part), max(map(len, part))), np.int64)
        for i, row in enumerate(part):
            ids[i, : len(row)] = row
        found.append((ids, np.int64(ids != 1)))
    return found


def peer(engine: str, folder: Path) -> Callable[[Any, Any], Any]:
    """A function of ids and mask that computes the last states."""
    cores = CORES
    kind = engine.split("-")[0]
    if kind == "hf":
        import torch
        from transformers import XLMRobertaModel

        torch.set_num_threads(cores)
        dtype = torch.bfloat16 if "bf16" in engine else torch.float32
        model = XLMRobertaModel.from_pretrained(
            folder / "xlmr-base", dtype=dtype, attn_implementation="sdpa", add_pooling_layer=False
        ).eval()
        if "int8" in engine:
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

        @torch.inference_mode()
        def run(ids: Any, mask: Any) -> Any:
            given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            return model(**given).last_hidden_state

        return run
    if kind == "ort":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores
        file = folder / ("xlmr-int8.onnx" if "int8" in engine else "xlmr.onnx")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})
    if kind == "ov":
        import openvino

        core = openvino.Core()
        model = core.read_model(folder / ("xlmr-ov-int8.xml" if "int8" in engine else "xlmr.onnx"))
        hints = {
            "INFERENCE_NUM_THREADS": cores,
            "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in engine else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(model, "CPU", hints).create_infer_request()
        return lambda ids, mask: request.infer({"input_ids": ids, "attention_mask": mask})
    import ctranslate2

    compute = "int8" if "int8" in engine else "float32"
    encoder = ctranslate2.Encoder(
        str(folder / "ct2"), device="cpu", compute_type=compute, intra_threads=cores, inter_threads=1
    )

    def forward(ids: Any, mask: Any) -> Any:
        rows = [row[:length].tolist() for row, length in zip(ids, mask.sum(1), strict=True)]
        return np.array(encoder.forward_batch(rows).last_hidden_state)

    return forward


def products(dtype: str, seconds: float = 0.5) -> float:
    """FLOP a second of the encoder's matrix products alone, with 1,024 rows, in their shares of the work."""
    import torch

    M, total, spent = 1024, 0.0, 0.0
    for N, K in ((3 * HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)):
        bias: Any = None
        if dtype == "int8":
            weight = torch.randint(-127, 128, (N, K), dtype=torch.int8)
            ready = torch.ops.onednn.qlinear_prepack(weight, None)
            x = torch.randint(0, 255, (M, K), dtype=torch.uint8)
            scale, zero = torch.ones(N), torch.zeros(N, dtype=torch.int32)

            def run(x=x, ready=ready, scale=scale, zero=zero, bias=bias) -> None:
                torch.ops.onednn.qlinear_pointwise(
                    x, 1.0, 128, ready, scale, zero, bias, 1.0, 0, torch.float32, "none", [], ""
                )
        else:
            kind = getattr(torch, dtype)
            x = torch.randn(M, K, dtype=kind)
            ready = torch.ops.mkldnn._reorder_linear_weight(torch.randn(N, K, dtype=kind), M)

            def run(x=x, ready=ready, bias=bias) -> None:
                torch.ops.mkldnn._linear_pointwise(x, ready, bias, "none", [], "")

        run()
        best, until = 1e9, CLOCK() + seconds / 4
        while CLOCK() < until:
            best = min(best, _seconds(run))
        total, spent = total + 2.0 * M * N * K, spent + best
    return total / spent


def flops(rows: Rows) -> float:
    """Of all matrix products that the rows need, attention's included."""
    lengths = np.array([len(row) for row in rows], float)
    linear = 2 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER) * lengths.sum()
    return LAYERS * (linear + 4 * HIDDEN * (lengths**2).sum())


def calibrated(source: Path, out: Path) -> Path:
    """The model with fixed scales for activations, made once from 24 rows of random ids, as the peers' is."""
    if not (out / "config.json").exists():
        from xlm.inference.quantize import write

        rng = np.random.default_rng(1)
        write(source, out, [rng.integers(5, 250_000, n).tolist() for n in rng.integers(10, 300, 24)])
    return out


def run_one(engine: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both workloads with one engine in this process."""
    global CLOCK, CORES
    if options.cpu_time:
        CLOCK, CORES = time.process_time, 1
    work = {load: workload(load, options.share, options.lengths) for load in LOADS}
    one = [work["questions"][0]]
    rate = 0.0
    if engine in OURS:
        import torch

        import xlm

        torch.set_num_threads(CORES)
        dtype = engine.split("-")[1]
        folder = options.folder / "xlmr-base"
        if engine.endswith("calibrated"):
            folder = calibrated(folder, options.folder / "xlmr-int8-calibrated")
        model = xlm.load(folder, dtype=dtype)
        runs = {load: (lambda rows=rows: model.encode(rows)) for load, rows in work.items()}
        runs["one"] = lambda: model.encode(one)
    else:
        forward = peer(engine, options.folder)
        batches = {load: padded(rows, LOADS[load][3], "sort" in engine) for load, rows in work.items()}
        batches["one"] = padded(one, 1, True)
        runs = {load: (lambda b=b: [forward(*pair) for pair in b]) for load, b in batches.items()}
    found = []
    alone = [_seconds(runs["one"]) for _ in range(12)][2:]
    for load, rows in work.items():
        runs[load]()
        times = [_seconds(runs[load]) for _ in range(options.passes)]
        tokens = sum(map(len, rows))
        found.append({"engine": engine, "load": load, "best": tokens / min(times), "times": times, "tokens": tokens})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if engine in OURS:
        rate = products(engine.split("-")[1])
    for row in found:
        row |= {"peak_rss_gb": round(peak, 2), "one_text_ms": round(1e3 * min(alone), 2)}
        if rate:
            row["limit"] = rate * row["tokens"] / flops(work[row["load"]])
            row["gflops"] = round(rate / 1e9)
    return found


def _seconds(run: Callable[[], Any]) -> float:
    begin = CLOCK()
    run()
    return CLOCK() - begin


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line an engine, the best of all rounds."""
    names = OURS | HERE | ELSEWHERE
    lines = [
        "| engine | passages, tokens/s | questions, tokens/s | of the limit | one text, ms | peak memory, GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for engine, name in names.items():
        mine = {load: [r for r in rows if (r["engine"], r["load"]) == (engine, load)] for load in LOADS}
        if not all(mine.values()):
            continue
        best = {load: max(r["best"] for r in part) for load, part in mine.items()}
        limits = [max(r["best"] / r["limit"] for r in part) for part in mine.values() if "limit" in part[0]]
        share = ", ".join(f"{value:.2f}" for value in limits) or "–"
        first = mine["passages"]
        alone, peak = min(r["one_text_ms"] for r in first), max(r["peak_rss_gb"] for r in first)
        speeds = " | ".join(f"{best[load]:,.0f}" for load in LOADS)
        lines.append(f"| {name} | {speeds} | {share} | {alone:.1f} | {peak:.2f} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars, ours in colour."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = OURS | HERE | ELSEWHERE
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    shown = [engine for engine in names if any(r["engine"] == engine for r in rows)][::-1]
    for axis, load in zip(axes, LOADS, strict=True):
        best = [max(r["best"] for r in rows if (r["engine"], r["load"]) == (e, load)) for e in shown]
        axis.barh([names[e] for e in shown], best, color=["#2a6f97" if e in OURS else "#c9ccd1" for e in shown])
        for y, value in enumerate(best):
            axis.text(value, y, f" {value:,.0f}", va="center", fontsize=8)
        axis.set_title(load)
        axis.set_xlabel("real tokens a second")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run one engine, or all of them one after the other, in rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("all", "run", "prepare", "report"), default="all")
    parser.add_argument("engine", nargs="?", choices=[*OURS, *HERE, *ELSEWHERE])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--peers", help="a Python that has openvino, ctranslate2, onnxruntime and transformers")
    parser.add_argument("--engines", nargs="+", help="only these")
    parser.add_argument("--lengths", type=Path, help="JSON with lengths in words instead of log-normal ones")
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread, its CPU time: for machines with other work, where ratios hold",
    )
    parser.add_argument("--json", type=Path, help="append the results here")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.folder)
        return
    if options.command == "run":
        print(json.dumps(run_one(options.engine, options)))
        return
    rows: list[dict[str, Any]] = []
    if options.json and options.json.exists():
        rows = [json.loads(line) for line in options.json.read_text("utf-8").splitlines()]
    if options.command == "all":
        make_model(options.folder / "xlmr-base")
        chosen = options.engines or [*OURS, *HERE, *(ELSEWHERE if options.peers else {})]
        passed = ["--folder", options.folder, "--share", options.share, "--passes", options.passes]
        passed += ["--lengths", options.lengths] if options.lengths else []
        passed += ["--cpu-time"] if options.cpu_time else []
        for engine in chosen * options.rounds:
            python = sys.executable if engine in OURS or not options.peers else options.peers
            command = [str(part) for part in (python, "-W", "ignore", __file__, "run", engine, *passed)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{engine}: {(done.stderr.strip().splitlines() or ['failed'])[-1][:110]}", file=sys.stderr)
                continue
            new = json.loads(done.stdout.strip().splitlines()[-1])
            rows += new
            print(engine, *(f"{row['load']} {row['best']:,.0f}" for row in new), file=sys.stderr, flush=True)
            if options.json:
                with options.json.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
    print(table(rows))
    if options.table:
        options.table.write_text(table(rows), "utf-8")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
