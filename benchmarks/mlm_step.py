"""One masked-LM training step of XLM-R base, random weights, 8 x 256 tokens, dropout 0.1, AdamW: speed and peak memory.

    python benchmarks/mlm_step.py [fp32|bf16] [--config field=value ...] [--repeat N]

prints the same JSON as the script that times the same step in transformers (``shared/bench/mlm_step.py``), so that the two
can be run in turn. ``--config`` changes the model, for machines without 8 GB of memory or minutes of time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from xlm import XLMRobertaConfig, XLMRobertaForMaskedLM
from xlm.training.recipe import Batch, Data, Mlm, Objectives, Optimizer, Recipe
from xlm.training.runtime import Processes
from xlm.training.steps import MicroBatch
from xlm.training.trainer import Trainer

ROWS, LENGTH = 8, 256
BASE = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


def batch(vocab_size: int) -> MicroBatch:
    """Random ids; 15 % of them are replaced by the mask and to be predicted."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, vocab_size - 2, ROWS * LENGTH)
    positions = np.flatnonzero(rng.random(len(ids)) < 0.15)
    targets = ids[positions]
    ids[positions] = vocab_size - 1
    return MicroBatch("mlm", ids, [LENGTH] * ROWS, ["en"] * ROWS, positions, targets, np.zeros_like(ids))


def main() -> None:
    """Time some steps and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dtype", nargs="?", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--config", nargs="*", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    changes = {key: yaml.safe_load(value) for key, value in (item.split("=") for item in options.config)}
    config = XLMRobertaConfig(**BASE | changes)
    model = XLMRobertaForMaskedLM(config).train()
    recipe = Recipe(
        tokenizer="",
        data=Data(),
        objectives=Objectives(mlm=Mlm()),
        batch=Batch(tokens=ROWS * LENGTH),
        optimizer=Optimizer(learning_rate=1e-5, betas=(0.9, 0.999), eps=1e-8, clip=None),
    )
    micro = batch(config.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        device = torch.device("cpu")
        trainer = Trainer(recipe, model, device, options.dtype == "bf16", Processes(), Path(folder))
        seconds = []
        for number in range(options.repeat + 1):
            start = time.perf_counter()
            trainer.step(number, 1e-5, [micro])
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        json.dumps(
            {
                "engine": "xlm",
                "dtype": options.dtype,
                "tokens_per_second": round(ROWS * LENGTH / min(seconds[1:])),
                "peak_rss_gb": round(peak, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
