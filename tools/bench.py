"""Run the benchmarks one after the other: ``make bench``, or some of them: ``make bench ONLY="encode serving"``.

What a script needs and is not here (data, a peer's environment, models, memory) is said, and the next one runs; so does it
after one that fails. The code is 1 if any failed. Together they take most of a day on two cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = "en fr es de el bg ru tr ar vi th zh hi sw ur he".split()


@dataclass(frozen=True)
class Step:
    """A script's run, or several in turn.

    Attributes:
        runs: arguments of each, the script's name not among them; ``-m`` first: a module instead.
        needs: files and folders that must be there.
        packages: modules that must be installed.
        gigabytes: of free memory and disk.
        why: what to do where a need is missing.
    """

    runs: Sequence[Sequence[str | Path]]
    needs: Sequence[Path] = ()
    packages: Sequence[str] = ()
    gigabytes: float = 0
    why: str = ""


def steps(data: Path, out: Path, references: Path) -> dict[str, Step]:
    """Script -> how it is run.

    Args:
        data: the folder with pretrain/, parallel/, classify/, mt/ and the others.
        out: where runs, models and reports go.
        references: the folder with the environments of peers, ``ref-flax`` and ``ref-tf``.
    """
    given = ("--data", data)
    vocabulary, xl, translated = out / "vocabulary", out / "xl", out / "translation" / "es-pt"
    texts = [f"{code}={data / 'pretrain' / f'{code}.txt.gz'}" for code in LANGUAGES]
    flax, keras = (references / name / "bin" / "python" for name in ("ref-flax", "ref-tf"))
    base = out / "xlmr-base-flax"
    return {
        "big_models": Step([("write", "xl", xl), ("compare", xl)], packages=["transformers"], gigabytes=16),
        "dilution": Step([(*given, "--out", out / "dilution")], [data / "pretrain", data / "classify" / "sib200"]),
        "encode": Step([("--folder", out / "encode")]),
        "encode_gpu": Step([("--json", out / "encode_gpu.json", "--plot", out / "encode_gpu.png")]),
        "finetune_vs_trainer": Step(
            [
                (
                    *("--train", data / "classify/sst2/en.train.jsonl.gz"),
                    *("--eval", data / "classify/sst2/en.dev.jsonl.gz", "--out", out / "finetune_vs_trainer.jsonl"),
                )
            ],
            [data / "classify" / "sst2"],
            ["transformers", "accelerate"],
        ),
        "flax_forward": Step(
            [("--reference", flax, "--folder", base)]
            if flax.exists()
            else [("make", "--folder", base), ("ours", "--folder", base)],
            packages=["flax"],
        ),
        "generation": Step([("--out", out / "generation.json")], packages=["transformers"]),
        "keras_forward": Step([("--reference", keras)] if keras.exists() else [("xlm",)], packages=["tensorflow"]),
        "mini_curves": Step([()], packages=["matplotlib"]),
        "mini_quality": Step([(*given, "--json", out / "mini_quality.json")], [data / "pretrain", data / "parallel"]),
        "mini_vs_trainer": Step(
            [(*given, "--minutes", "10", "--out", out / "mini_vs_trainer")], [data / "pretrain"], ["transformers"]
        ),
        "mlm_step": Step([("fp32",), ("bf16",)]),
        "serving": Step(
            [
                ("prepare", "--folder", out / "serving", "--texts", *sorted((data / "parallel").glob("*.tsv.gz"))),
                *(
                    (name, "xlm", "--folder", out / "serving", "--dtype", "float32")
                    for name in ("saturate", "latency", "startup")
                ),
            ],
            [data / "parallel"],
            ["fastapi", "httptools"],
        ),
        "tasks": Step([(*given, "--out", out / "tasks")], [data / "classify", data / "pairs"], ["sklearn"]),
        "time_to_loss": Step(
            [
                ("-m", "xlm", "tokenizer", "train", *texts, "--vocab-size", "64000", "--out", vocabulary),
                (*given, "--vocabulary", vocabulary, "--minutes", "14", "--out", out / "time_to_loss"),
            ],
            [data / "pretrain"],
            ["transformers", "accelerate"],
        ),
        "tokenization": Step([()], packages=["tokenizers"]),
        "translation": Step(
            [("--pair", "es-pt", "--xlm", translated / "xlm/model", "--data", translated, "--out", out / "scores")],
            [translated / "xlm/model"],
            ["sacrebleu"],
            why="made by benchmarks/translation_data.py and recipes/xlm-mini.yaml",
        ),
        "translation_data": Step(
            [(*given, "--out", out / "translation")], [data / "pretrain", data / "parallel", data / "retrieval"]
        ),
    }


def missing(step: Step, out: Path) -> str | None:
    """What a step needs and is not here; None if all is."""
    for path in step.needs:
        if not path.exists():
            return f"there is no {path}{f' ({step.why})' if step.why else ''}"
    for name in step.packages:
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    needed = step.gigabytes * 1e9
    place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = {"disk": shutil.disk_usage(place).free, "memory": _memory()}
    for kind, count in free.items():
        if count < needed:
            return f"{step.gigabytes} GB of {kind} are needed, {count / 1e9:.0f} are free"
    return None


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def commands(name: str, step: Step) -> Iterator[list[str]]:
    """The command lines of a step."""
    for run in step.runs:
        script = [] if run and run[0] == "-m" else [str(ROOT / "benchmarks" / f"{name}.py")]
        yield [sys.executable, *script, *map(str, run)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what can be run; how many failed, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="SCRIPT", help="without .py; default: all")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--references", type=Path, default=Path("/tmp"), help="environments of peers")
    options = parser.parse_args(arguments)
    table = steps(options.data, options.out, options.references)
    if unknown := [name for name in options.only if name not in table]:
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(table)}")
    failed, skipped = [], []
    for name in options.only or table:
        if reason := missing(table[name], options.out):
            skipped.append(name)
            print(f"== {name}: skipped: {reason}", flush=True)
            continue
        options.out.mkdir(parents=True, exist_ok=True)
        for command in commands(name, table[name]):
            print(f"== {name}: {' '.join(command[1:])}", flush=True)
            if code := subprocess.run(command, check=False).returncode:
                failed.append(name)
                print(f"== {name}: failed with code {code}", flush=True)
                break
    print(
        f"== {len(options.only or table)} benchmarks: {len(skipped)} skipped, {len(failed)} failed {' '.join(failed)}"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
