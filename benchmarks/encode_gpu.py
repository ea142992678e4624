"""Encode ragged workloads on a GPU, ours beside transformers, in turns in one process, and set it against the card.

    python benchmarks/encode_gpu.py                                    XLM-R base, large and XL in bfloat16
    python benchmarks/encode_gpu.py --models large --rounds 5
    python benchmarks/encode_gpu.py --json F --plot F.png --table F.md keep the results
    python benchmarks/encode_gpu.py --device cpu --tiny --dtype float32  try the script where there is no GPU

Rows of ids go in and mean vectors come out, in the host's memory: what sorting, packing and copying cost is counted for
ours; transformers (sdpa) gets batches that were sorted by length, filled up and copied to the GPU before, of as many tokens as
our packs.
Weights are random and made on the card, the same for all. Lengths are those of XQuAD's English paragraphs and questions
(--lengths, a JSON of words), or log-normal ones like them. Padding is never counted.

Fractions are of the rate of matrix products measured here: 8192 x 8192 x 8192, and the encoder's own four shapes on a whole
pack. The work is 2 operations for a weight of the encoder's matrices and a token, and 4 for a hidden unit and a pair of tokens
in attention. Memory is that of an engine's own weights and of what it needed beside them.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import xlm
from xlm.backends.torch import placement
from xlm.backends.torch.buckets import Bucketed
from xlm.checkpoints.published import to_theirs
from xlm.inference import engine as engine_module
from xlm.inference.embedding import Embedding
from xlm.inference.engine import Engine
from xlm.inference.loading import Loaded

Rows = list[list[int]]
Run = Callable[[], np.ndarray]
# name -> family, layers, hidden, heads, inner, vocabulary, packs in a pass
MODELS: dict[str, tuple[str, int, int, int, int, int, int]] = {
    "base": ("XLMRoberta", 12, 768, 12, 3072, 250_002, 24),
    "large": ("XLMRoberta", 24, 1024, 16, 4096, 250_002, 12),
    "xl": ("XLMRobertaXL", 36, 2560, 32, 10240, 250_880, 4),
    "tiny": ("XLMRoberta", 2, 32, 2, 64, 1_000, 2),
    "tiny-xl": ("XLMRobertaXL", 2, 32, 2, 64, 1_000, 2),
}
LOADS = {"passages": ("ctx", 5.0, 0.55), "questions": ("q", 2.75, 0.3)}  # key in --lengths; else log length, its spread
OURS = ("xlm", "xlm, compiled")
THEIRS = "transformers sdpa, sorted"
LENGTHS = Path(__file__).resolve().parents[2] / "shared" / "bench" / "lengths.json"


def workload(load: str, tokens: int, vocabulary: int, lengths: Path | None) -> Rows:
    """Rows of ids, of so many tokens in all, or up to 512 more, in no order."""
    key, mean, spread = LOADS[load]
    rng = np.random.default_rng(0)
    words = json.loads(lengths.read_text("utf-8"))[key] if lengths else None
    rows: Rows = []
    left = tokens
    while left > 0:
        if words is None:
            sizes = np.clip(np.exp(rng.normal(mean, spread, 512)) + 4, 6, 512).astype(int).tolist()
        else:
            sizes = [min(512, int(n * 1.3) + 2) for n in rng.permutation(words)]
        for size in sizes:
            rows.append([0, *rng.integers(5, vocabulary, size - 2).tolist(), 2])
            left -= size
            if left <= 0:
                break
    return rows


def flops(name: str, rows: Rows) -> float:
    """Of all the encoder's matrix products that the rows need, attention's included."""
    _, layers, hidden, _, inner, _, _ = MODELS[name]
    lengths = np.array([len(row) for row in rows], float)
    linear = 2 * (4 * hidden * hidden + 2 * hidden * inner) * lengths.sum()
    return layers * (linear + 4 * hidden * (lengths**2).sum())


class Clock:
    """Seconds of work on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait(self) -> None:
        """Until the device has nothing to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Of one run."""
        self.wait()
        begin = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - begin


def rate(clock: Clock, dtype: torch.dtype, shapes: Sequence[tuple[int, int, int]], repeats: int) -> float:
    """Operations a second of products (M, K) x (K, N), each as often as the others; the best of five tries."""
    total, spent = 0.0, 0.0
    for M, N, K in shapes:
        x = torch.randn(M, K, device=clock.device).to(dtype)
        w = torch.randn(N, K, device=clock.device).to(dtype)

        def many(x: torch.Tensor = x, w: torch.Tensor = w) -> None:
            for _ in range(repeats):
                torch.nn.functional.linear(x, w)

        many()
        spent += min(clock.seconds(many) for _ in range(5)) / repeats
        total += 2.0 * M * N * K
    return total / spent


def our_model(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A documented model with random weights that were made on the device."""
    family, layers, hidden, heads, inner, vocabulary, _ = MODELS[name]
    torch.manual_seed(0)
    config = getattr(xlm, f"{family}Config")(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = getattr(xlm, f"{family}Model")(config, add_pooling_layer=False)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def our_engine(name: str, model: Any, dtype: str, device: torch.device, compiled: bool, backend: str) -> Engine:
    """The engine over a model in memory; it is asked with ids alone, so it has no tokenizer."""
    parts = Loaded(model, None, model.spec, name, dtype, device, Embedding(said=True), Path("."))
    engine = Engine(parts)
    if compiled:
        engine.states = Bucketed(model, backend=backend)
    return engine


def their_model(name: str, ours: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The same model of transformers, with our weights."""
    import transformers

    family, layers, hidden, heads, inner, vocabulary, _ = MODELS[name]
    config = getattr(transformers, f"{family}Config")(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = getattr(transformers, f"{family}Model")(config, add_pooling_layer=False)
    finally:
        torch.set_default_dtype(before)
    weights = {to_theirs(ours.family, key, True): tensor for key, tensor in ours.state_dict().items()}
    left = model.load_state_dict(weights, strict=False)
    assert not [key for key in left.missing_keys if "position_ids" not in key], left.missing_keys
    assert not left.unexpected_keys, left.unexpected_keys
    return model.eval().requires_grad_(False)


def their_run(model: Any, rows: Rows, budget: int, device: torch.device) -> Run:
    """Mean vectors of the rows, in their order; batches lie ready on the device."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    batches = []
    while order:
        longest = len(rows[order[0]])
        count = max(1, budget // longest)
        ids = np.ones((len(order[:count]), longest), np.int64)
        for place, index in enumerate(order[:count]):
            ids[place, : len(rows[index])] = rows[index]
        given = torch.from_numpy(ids).to(device)
        batches.append((order[:count], given, (given != 1).long()))
        order = order[count:]

    @torch.inference_mode()
    def run() -> np.ndarray:
        vectors = []
        for _, ids, mask in batches:
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask[..., None].float()
            vectors.append((states.float() * weights).sum(1) / weights.sum(1))
        found = np.empty((len(rows), vectors[0].shape[1]), np.float32)
        for (members, _, _), part in zip(batches, vectors, strict=True):
            found[members] = part.cpu().numpy()
        return found

    return run


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The least of all rows."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(lengths, 1e-30)).min())


def compare(name: str, options: argparse.Namespace, device: torch.device, card: float) -> list[dict[str, Any]]:
    """All engines with one model on both workloads."""
    clock, dtype = Clock(device), getattr(torch, options.dtype)
    budget, packs = options.tokens_a_pack, options.packs or MODELS[name][-1]
    engine_module.TOKENS_A_PACK = engine_module.TOKENS_A_PACK_GPU = budget
    hidden, inner = MODELS[name][2], MODELS[name][4]
    shapes = [(budget, n, k) for n, k in ((3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner))]
    own = rate(clock, dtype, shapes, 10)
    model = our_model(name, device, dtype)
    theirs = None
    if not options.ours_alone and importlib.util.find_spec("transformers"):
        theirs = _told(THEIRS, name, lambda: their_model(name, model, device, dtype))
    placement.use_gpu(model)
    print(f"{name}: {model.computed_by}; own shapes {own / 1e12:,.1f} TFLOP/s", file=sys.stderr, flush=True)
    engines = {
        each: our_engine(name, model, options.dtype, device, each != "xlm", options.backend)
        for each in OURS
        if each == "xlm" or not options.eager_alone
    }
    found = []
    for load in LOADS:
        # A row less than full, each: so that the last pack, too, is of the size that was compiled.
        rows = workload(load, packs * (budget - min(512, budget // 64)), MODELS[name][-2], options.lengths)
        runs: dict[str, Run] = {
            each: (lambda engine=engine, rows=rows: engine.embed(rows, "mean", normalize=False))
            for each, engine in engines.items()
        }
        if theirs is not None:
            runs[THEIRS] = their_run(theirs, rows, budget, device)
        made, peaks, times = {}, {}, {each: [] for each in runs}
        for each in list(runs):  # twice: the second finds compiled what the first did not meet
            before = 0
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                before = torch.cuda.memory_allocated(device)
            first = _told(each, f"{name}, {load}", runs[each])
            if first is None:
                del runs[each]
                continue
            made[each] = first
            runs[each]()
            if device.type == "cuda":
                weights = (theirs if theirs and each == THEIRS else model).parameters()
                own_bytes = sum(p.numel() * p.element_size() for p in weights)
                peaks[each] = (torch.cuda.max_memory_allocated(device) - before + own_bytes) / 1e9
        if not made:
            continue
        for _ in range(options.rounds):
            for each, run in runs.items():
                times[each].append(clock.seconds(run))
        tokens, work = sum(map(len, rows)), flops(name, rows)
        reference = next(made[each] for each in (THEIRS, *OURS) if each in made)
        for each in runs:
            best = min(times[each])
            found.append(
                {
                    "model": name, "load": load, "engine": each, "dtype": options.dtype, "tokens": tokens,
                    "tokens_a_pack": budget, "rows": len(rows), "times": times[each], "best": tokens / best,
                    "of_card": work / best / card, "of_own_shapes": work / best / own, "card_tflops": card / 1e12,
                    "own_tflops": own / 1e12, "peak_gb": peaks.get(each), "cosine": cosine(made[each], reference),
                    "torch": torch.__version__, "device": device_name(device),
                }
            )  # fmt: skip
            print(f"{name} {load} {each}: {found[-1]['best']:,.0f} tokens/s", file=sys.stderr, flush=True)
    return found


def _told(what: str, where: str, run: Callable[[], Any]) -> Any:
    """What a run gives; None where it fails, which is said: one engine's failure does not cost the others' results."""
    try:
        return run()
    except Exception as error:
        print(f"{where}: {what}: {type(error).__name__}: {str(error).splitlines()[0][:200]}", file=sys.stderr)
        return None


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown with aligned columns: a line a model, workload and engine."""
    lines = [
        ["model", "load", "engine", "tokens/s", "× transformers", "of the card", "of own shapes", "peak GB", "cosine"]
    ]
    for row in rows:
        peers = [r["best"] for r in rows if (r["model"], r["load"], r["engine"]) == (row["model"], row["load"], THEIRS)]
        lines.append(
            [
                row["model"], row["load"], row["engine"], f"{row['best']:,.0f}",
                f"{row['best'] / max(peers):.2f}" if peers else "–", f"{row['of_card']:.0%}", f"{row['of_own_shapes']:.0%}",
                "–" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}", f"{row['cosine']:.4f}",
            ]
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width if n < 3 else "-" * (width - 1) + ":" for n, width in enumerate(widths)])
    cells = [
        [c.ljust(w) if n < 3 else c.rjust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The share of the card's matrix rate that each engine reaches, a panel a model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = [name for name in MODELS if any(row["model"] == name for row in rows)]
    figure, axes = plt.subplots(1, len(models), figsize=(5 * len(models), 3.4), squeeze=False)
    for axis, name in zip(axes[0], models, strict=True):
        mine = [row for row in rows if row["model"] == name][::-1]
        bars = [f"{row['engine']}\n{row['load']}" for row in mine]
        colors = ["#2a6f97" if row["engine"] in OURS else "#c9ccd1" for row in mine]
        axis.barh(range(len(mine)), [100 * row["of_card"] for row in mine], color=colors)
        axis.set_yticks(range(len(mine)), bars, fontsize=8)
        for y, row in enumerate(mine):
            axis.text(100 * row["of_card"], y, f" {row['best']:,.0f} tokens/s", va="center", fontsize=7)
        axis.set_title(f"XLM-R {name}, {mine[0]['dtype']}")
        axis.set_xlabel("% of the card's matrix rate")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.35)
    figure.suptitle(rows[0]["device"], fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, and print and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["base", "large", "xl"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--tokens-a-pack", type=int, default=65536)
    parser.add_argument("--packs", type=int, help="in a pass; default: 24, 12 and 4 of base, large and XL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=Path, default=LENGTHS if LENGTHS.exists() else None)
    parser.add_argument("--ours-alone", action="store_true", help="without transformers")
    parser.add_argument("--eager-alone", action="store_true", help="without torch.compile")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--tiny", action="store_true", help="thin models and small packs: to try the script")
    parser.add_argument("--json", type=Path, help="append the results here, a line each")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing is measured (--device cpu --tiny --dtype float32 tries the script)")
        return 0
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    side = 8192
    if options.tiny:
        options.models, options.tokens_a_pack, options.rounds, side = ["tiny", "tiny-xl"], 600, 1, 64
    card = rate(Clock(device), getattr(torch, options.dtype), [(side, side, side)], 20)
    print(f"{device_name(device)}, torch {torch.__version__}: {card / 1e12:,.1f} TFLOP/s in products of {side}^3")
    rows: list[dict[str, Any]] = []
    for name in options.models:
        new = _told("all", name, lambda name=name: compare(name, options, device, card)) or []
        rows += new
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
        gc.collect()
        if device.type == "cuda":
            torch._dynamo.reset()
            gc.collect()
            torch.cuda.empty_cache()
    if not rows:
        return 1
    print(table(rows))
    if options.table:
        options.table.write_text(table(rows), "utf-8")
    if options.plot:
        plot(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
