"""``generate`` of one XLM-R encoder-decoder by transformers and by this library: the same ids, and the time each takes.

    OMP_NUM_THREADS=1 python benchmarks/generation.py
    python benchmarks/generation.py --layers 12 --hidden 768 --vocabulary 250002 --rows 8

The model has random weights, written by transformers and read by both. Two cases: every target runs to its full length, and
targets end at different times (the end's score is raised until the mean length is about half). Sides take turns; the
processor's seconds stand beside the clock's because other processes of a busy machine hardly change them. ``fast`` is the
same model as ``xlm.load`` reads it, with the operations chosen for this processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import xlm

PAD, END = 1, 2
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1, "do_sample": False},
    "beam 4": {"num_beams": 4, "do_sample": False},
    "sampling": {"num_beams": 1, "do_sample": True, "top_k": 50},
}


def reference(given: argparse.Namespace) -> Any:
    """Theirs, with random weights."""
    sizes = {"vocab_size": given.vocabulary, "hidden_size": given.hidden, "num_hidden_layers": given.layers}
    sizes |= {"num_attention_heads": given.hidden // 64, "intermediate_size": 4 * given.hidden, "type_vocab_size": 1}
    sizes |= {"max_position_embeddings": 514, "layer_norm_eps": 1e-5, "initializer_range": 0.05}
    reads = transformers.XLMRobertaConfig(**sizes)
    writes = transformers.XLMRobertaConfig(**sizes, is_decoder=True, add_cross_attention=True)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(reads, writes)
    config.pad_token_id, config.decoder_start_token_id, config.eos_token_id = PAD, 0, END
    torch.manual_seed(0)
    return transformers.EncoderDecoderModel(config).eval()


def sources(given: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of sentences of 8 to 40 tokens."""
    lengths = torch.randint(8, 41, (given.rows,), generator=torch.Generator().manual_seed(1))
    ids = torch.randint(5, given.vocabulary, (given.rows, 40), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(40)[None, :] < lengths[:, None]).long()
    return ids.masked_fill(mask == 0, PAD), mask


def raise_end(models: list[Any], ids: torch.Tensor, mask: torch.Tensor, tokens: int) -> None:
    """Give the end a score with which targets of the first model end at about half of ``tokens`` in the mean."""
    low, high = 0.0, 20.0
    for _ in range(8):
        middle = (low + high) / 2
        for model in models:
            _bias(model).data[END] = middle
        made = models[0].generate(ids, mask, max_new_tokens=tokens, num_beams=1)
        lengths = (made[:, 1:] != PAD).sum(1).float().mean()
        low, high = (middle, high) if lengths > tokens / 2 else (low, middle)


def _bias(model: Any) -> torch.Tensor:
    head = getattr(model, "decoder", model).lm_head
    return head.bias


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, its processor's and its clock's seconds."""
    cpu, clock = time.process_time(), time.perf_counter()
    found = call()
    return found, time.process_time() - cpu, time.perf_counter() - clock


def main() -> None:
    """Run all cases and print a line each; ``--out`` keeps them as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("hidden", 512),
        ("layers", 6),
        ("vocabulary", 32000),
        ("rows", 32),
        ("tokens", 40),
        ("runs", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    ids, mask = sources(given)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        theirs = reference(given)
        theirs.save_pretrained(folder)
        ours = xlm.EncoderDecoderModel.from_pretrained(folder)
        fast = xlm.EncoderDecoderModel.from_pretrained(folder, for_inference=True)
        print(
            f"{ours.num_parameters():,} parameters, {torch.get_num_threads()} threads, transformers {transformers.__version__}"
        )
        for case in ("full length", "ends differ"):
            models = [ours, theirs, fast]
            if case == "ends differ":
                raise_end(models, ids, mask, given.tokens)
            else:
                for model in models:
                    _bias(model).data[END] = -1e4
            for search in given.searches:
                record = compare(models, ids, mask, {**SEARCHES[search], "max_new_tokens": given.tokens}, given.runs)
                record = {"case": case, "search": search, **record}
                print(line(record), flush=True)
                if given.out:
                    with given.out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(record) + "\n")


def compare(
    models: list[Any], ids: torch.Tensor, mask: torch.Tensor, options: dict[str, Any], runs: int
) -> dict[str, Any]:
    """Medians of the sides' seconds, and whether their ids are the same (drawn ones are not compared)."""
    seconds: dict[str, list[tuple[float, float]]] = {"theirs": [], "ours": [], "fast": []}
    made: dict[str, Any] = {}
    ours, theirs, fast = models
    for number in range(runs + 1):  # the first is not counted
        for name, model in (("theirs", theirs), ("ours", ours), ("fast", fast)):
            torch.manual_seed(number)
            made[name], cpu, clock = timed(lambda model=model: model.generate(ids, attention_mask=mask, **options))
            if number:
                seconds[name].append((cpu, clock))
    record: dict[str, Any] = {"tokens": int((made["ours"][:, 1:] != PAD).sum()), "runs": runs}
    record["equal"] = None if options["do_sample"] else made["theirs"].tolist() == made["ours"].tolist()
    for name, pairs in seconds.items():
        record[f"{name}_cpu"], record[f"{name}_clock"] = (statistics.median(t) for t in zip(*pairs, strict=True))
    return record


def line(record: dict[str, Any]) -> str:
    """One line of the table."""
    same = {True: "same ids", False: "OTHER IDS", None: "drawn"}[record["equal"]]
    times = "  ".join(f"{name} {record[f'{name}_cpu']:6.2f} s" for name in ("theirs", "ours", "fast"))
    factor = record["theirs_cpu"] / record["ours_cpu"]
    return f"{record['case']:12} {record['search']:9} {same:10} {times}  (processor)  ours {factor:.2f} times as fast"


if __name__ == "__main__":
    main()
