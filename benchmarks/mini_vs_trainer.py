"""The architecture of xlmr-mini trained by `transformers`' Trainer, and by this library, for the same minutes.

    python benchmarks/mini_vs_trainer.py --data ../shared/data --minutes 10 --out /tmp/compare [--only trainer] [--clock cpu]

Both start from nothing, one after the other, may use ``--threads`` cores, and compute in bf16 where the CPU does. The
Trainer has what a careful user gives it: text tokenised before the clock starts, packed into full rows of 64 tokens,
languages mixed as in the recipe, AdamW at 1e-3 with warm-up and a linear decay that ends with the time, no dropout, 15 %
masking. It has no translation objective: none is built in. ``--clock cpu`` counts its minutes in time on the processor,
which on one thread are the minutes of a free core, whatever else the machine does. Ours is ``recipes/xlmr-mini.yaml``
with its ``schedule.minutes`` set, less the time that its start from counts takes.

The report has tokens a second, peak memory, and held-out scores as in `mini_quality.py`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mini_quality import LANGUAGES, flores, masked_scores, retrieval, token_ids

import xlm
from xlm.data.sampling import language_probabilities
from xlm.training.runtime import use_bf16

ROOT = Path(__file__).resolve().parent.parent
LENGTH, ROWS = 64, 64
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}


def training_rows(engine: Any, data: Path, count: int) -> np.ndarray:
    """``count`` rows (count, LENGTH) of ids, languages mixed by p^0.5."""
    streams = {name: token_ids(engine, data / "pretrain" / f"{name}.txt.gz") for name in LANGUAGES}
    shares = language_probabilities({name: len(ids) for name, ids in streams.items()}, 0.5)
    rng = np.random.default_rng(1)
    rows = []
    for name, ids in streams.items():
        blocks = ids[: len(ids) // (LENGTH - 1) * (LENGTH - 1)].reshape(-1, LENGTH - 1)
        wanted = round(count * shares[name])
        order = np.concatenate([rng.permutation(len(blocks)) for _ in range(-(-wanted // len(blocks)))])[:wanted]
        rows.append(np.pad(blocks[order], ((0, 0), (1, 0)), constant_values=engine.tokenizer.bos_token_id))
    return rng.permutation(np.concatenate(rows))


def collator_tokenizer(folder: Path) -> Any:
    """The vocabulary as the Trainer's collator needs it: names of ids, special ones marked."""
    import sentencepiece
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    from tokenizers import Tokenizer

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(3, model.get_piece_size())]
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces, ("<mask>", 0.0)]
    special = {
        "bos": "<s>",
        "eos": "</s>",
        "cls": "<s>",
        "sep": "</s>",
        "pad": "<pad>",
        "unk": "<unk>",
        "mask": "<mask>",
    }
    names = {f"{name}_token": token for name, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(Unigram(vocabulary, unk_id=3)), **names)


def train_with_trainer(
    data: Path, minutes: float, out: Path, threads: int, tokenizer_folder: Path, now: Callable[[], float]
) -> dict[str, float]:
    """Run the Trainer for ``minutes`` and save the model; speed and memory."""
    import transformers
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(threads)
    engine = xlm.load(tokenizer_folder)
    config = transformers.XLMRobertaXLConfig.from_pretrained(tokenizer_folder)
    rows = training_rows(engine, data, 400_000)
    tokenizer = collator_tokenizer(tokenizer_folder)
    examples = [{"input_ids": row.tolist()} for row in rows]
    transformers.set_seed(1)
    model = transformers.XLMRobertaXLForMaskedLM(config)

    class Clock(TrainerCallback):
        """Ends the run on time; the learning rate falls with the clock."""

        def __init__(self) -> None:
            self.start, self.steps = now(), 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.steps = state.global_step
            if now() - self.start > 60 * minutes:
                control.should_training_stop = True

    clock = Clock()

    def factor(step: int) -> float:
        done = (now() - clock.start) / (60 * minutes)
        return min(done / 0.06, 1.0) * max(1.0 - done, 0.0)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out), per_device_train_batch_size=ROWS, max_steps=10**6, use_cpu=True, report_to=[],
            save_strategy="no", logging_steps=100, disable_tqdm=True, bf16=use_bf16("auto", torch.device("cpu")),
        ),
        train_dataset=examples,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)),
        callbacks=[clock],
    )  # fmt: skip
    clock.start = now()
    trainer.train()
    seconds = now() - clock.start
    model.save_pretrained(out / "model")
    for name in ("sentencepiece.bpe.model", "tokenizer_config.json"):
        (out / "model" / name).write_bytes((tokenizer_folder / name).read_bytes())
    tokens = clock.steps * ROWS * LENGTH
    return {"minutes": seconds / 60, "steps": clock.steps, "tokens": tokens, "tokens_per_second": tokens / seconds}


def train_ours(minutes: float, out: Path, threads: int) -> dict[str, float]:
    """``xlm pretrain`` as a process of its own for ``minutes``, what comes before its first step included."""
    started = time.monotonic()
    recipe = str(ROOT / "recipes" / "xlmr-mini.yaml")
    command = [sys.executable, "-m", "xlm.cli", "pretrain", recipe, "--fresh", "--quiet", "--json"]
    before = out / "before-first-step.json"
    if not before.is_file():  # one short run: makes the token stores and measures the start
        subprocess.run(
            [*command, "-o", str(out), "--set", "schedule.minutes=0.01", "--set", "schedule.steps=null"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        before.write_text(json.dumps({"minutes": (time.monotonic() - started) / 60}), "utf-8")
    start_minutes = json.loads(before.read_text("utf-8"))["minutes"]
    left = minutes - start_minutes
    command += ["-o", str(out), "--set", f"schedule.minutes={left:.2f}", "--set", "schedule.steps=null"]
    command += ["--set", f"threads={threads}"]
    outcome = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {
        "minutes": minutes,
        "minutes_before_first_step": start_minutes,
        "steps": outcome["step"],
        "tokens": outcome["tokens"],
        "tokens_per_second": outcome["tokens"] / outcome["seconds"],
    }


def held_out_scores(folder: Path, data: Path) -> dict[str, Any]:
    """Means over the languages."""
    engine = xlm.load(folder)
    masked = [masked_scores(engine, data, name, LENGTH, 32) for name in LANGUAGES]
    english = engine.embed(flores(data, "en", 100), truncate=True)
    found = [retrieval(engine, flores(data, name, 100), english) for name in LANGUAGES if name not in ("en", "el")]
    means = {key: float(np.mean([m[key] for m in masked])) for key in ("loss", "unigram_loss", "top1", "unigram_top1")}
    return means | {"flores_retrieval": float(np.mean([[f["to_english"], f["from_english"]] for f in found]))}


def main() -> None:
    """Train both, measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=["trainer", "ours"])
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="of the Trainer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--model", type=Path, default=ROOT / "src" / "xlm" / "assets" / "xlmr-mini", help="architecture, vocabulary"
    )
    options = parser.parse_args()
    report: dict[str, Any] = {}
    for name in ("trainer", "ours"):
        if options.only in (None, name):
            folder = options.out / name
            folder.mkdir(parents=True, exist_ok=True)
            if name == "trainer":
                report[name] = train_with_trainer(
                    options.data, options.minutes, folder, options.threads, options.model, CLOCKS[options.clock]
                )
            else:
                report[name] = train_ours(options.minutes, folder, options.threads)
            who = resource.RUSAGE_SELF if name == "trainer" else resource.RUSAGE_CHILDREN
            report[name]["peak_megabytes"] = resource.getrusage(who).ru_maxrss / 1024
            report[name] |= held_out_scores(folder / "model", options.data)
            print(name, json.dumps(report[name], indent=1), flush=True)
    (options.out / "report.json").write_text(json.dumps(report, indent=1), "utf-8")


if __name__ == "__main__":
    main()
