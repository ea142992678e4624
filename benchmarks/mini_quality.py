"""What a masked language model learnt: held-out masked-token scores beside a unigram guesser, and retrieval.

    python benchmarks/mini_quality.py --data ../shared/data [--model FOLDER] [--json scores.json]

Masked tokens: the lines of ``pretrain/valid/<language>.txt.gz`` set end to end and cut into rows of ``--length``
tokens behind ``<s>``; 15 % of the ordinary tokens are replaced by ``<mask>``, the same ones every time. The unigram
guesser knows the frequencies of the tokens in ``pretrain/<language>.txt.gz``: its top-1 is the most frequent token,
its top-5 the first five, its loss that of the frequencies (plus 0.01).

Retrieval: `Engine.embed` (mean of the last states), cosine, in blocks of 100 sentences; the nearest of the 100 must
be the translation. ``flores``: the first ``--sentences`` lines of FLORES-200 devtest, never trained on.
``held-out``: as many pairs of ``parallel/`` that the hash of their English side keeps out of training (the recipe's
``held_out``). Greek is not in the FLORES files and has only the second.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import xlm
from xlm.batches.batch import Batch
from xlm.batches.packing import pack, stream_blocks
from xlm.data.readers import read_pairs, read_texts
from xlm.data.store import is_held_out

FLORES = {
    "ar": "arb_Arab", "bg": "bul_Cyrl", "de": "deu_Latn", "en": "eng_Latn", "es": "spa_Latn", "fr": "fra_Latn",
    "he": "heb_Hebr", "hi": "hin_Deva", "ru": "rus_Cyrl", "sw": "swh_Latn", "th": "tha_Thai", "tr": "tur_Latn",
    "ur": "urd_Arab", "vi": "vie_Latn", "zh": "zho_Hans",
}  # fmt: skip
LANGUAGES = ["en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur", "he"]


def token_ids(engine: Any, path: Path, most: int | None = None) -> NDArray[np.int64]:
    """The tokens of a text file's lines, a ``</s>`` after each."""
    lines = [line for _, line in zip(range(most or 10**9), read_texts(path), strict=False)]
    encoded = engine.tokenizer(lines, add_special_tokens=False)["input_ids"]
    end = engine.tokenizer.eos_token_id
    return np.concatenate([np.array([*ids, end], np.int64) for ids in encoded])


def masked_scores(engine: Any, data: Path, language: str, length: int, rows: int) -> dict[str, float]:
    """Top-1, top-5 and loss (nats) on held-out text, and the unigram guesser's."""
    tokenizer, model = engine.tokenizer, engine.model
    special = [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    text = token_ids(engine, data / "pretrain" / "valid" / f"{language}.txt.gz")
    blocks = stream_blocks(len(text), length - 1)[:rows].tolist()
    ids, lengths = pack([np.concatenate([[tokenizer.bos_token_id], text[a:b]]) for a, b in blocks])
    rng = np.random.default_rng(7)
    chosen = np.flatnonzero((rng.random(len(ids)) < 0.15) & ~np.isin(ids, special))
    targets = ids[chosen]
    ids = ids.copy()
    ids[chosen] = tokenizer.mask_token_id

    ranks: list[NDArray[np.int64]] = []
    losses: list[NDArray[np.float64]] = []
    starts = np.cumsum([0, *lengths])
    with torch.inference_mode():
        for first in range(0, len(lengths), 32):
            low, high = int(starts[first]), int(starts[min(first + 32, len(lengths))])
            here = (chosen >= low) & (chosen < high)
            states = model.states(Batch.packed(torch.from_numpy(ids[low:high]), lengths[first : first + 32]))
            logits = model.lm_logits(states[torch.from_numpy(chosen[here] - low)]).float()
            wanted = torch.from_numpy(targets[here])[:, None]
            own = logits.gather(1, wanted)
            ranks.append((logits > own).sum(1).numpy())
            losses.append((logits.logsumexp(1, keepdim=True) - own)[:, 0].double().numpy())
    rank, loss = np.concatenate(ranks), np.concatenate(losses)

    counts = np.bincount(
        token_ids(engine, data / "pretrain" / f"{language}.txt.gz"), minlength=model.config.vocab_size
    ).astype(float)
    counts[special] = 0
    counts += 0.01
    best = np.argsort(-counts)[:5]
    return {
        "tokens": len(targets),
        "top1": float((rank < 1).mean()),
        "top5": float((rank < 5).mean()),
        "loss": float(loss.mean()),
        "unigram_top1": float((targets == best[0]).mean()),
        "unigram_top5": float(np.isin(targets, best).mean()),
        "unigram_loss": float(-np.log(counts / counts.sum())[targets].mean()),
    }


def retrieval(engine: Any, texts: list[str], right: NDArray[np.float32], candidates: int = 100) -> dict[str, float]:
    """How often the nearest of ``candidates`` is right, to and from English, whose (n, hidden) is ``right``."""
    left = engine.embed(texts, truncate=True)
    to_english: list[bool] = []
    from_english: list[bool] = []
    for start in range(0, len(texts) - candidates + 1, candidates) or [0]:
        similarity = left[start : start + candidates] @ right[start : start + candidates].T
        wanted = np.arange(len(similarity))
        to_english += (similarity.argmax(1) == wanted).tolist()
        from_english += (similarity.argmax(0) == wanted).tolist()
    return {
        "sentences": len(to_english),
        "candidates": min(candidates, len(texts)),
        "to_english": float(np.mean(to_english)),
        "from_english": float(np.mean(from_english)),
    }


def held_out_pairs(data: Path, language: str, share: float, most: int) -> tuple[list[str], list[str]]:
    """Pairs whose English side the recipe keeps out of training, every English sentence once."""
    found: dict[str, str] = {}
    for text, english in read_pairs(data / "parallel" / f"{language}-en.tsv.gz"):
        if is_held_out(english, share):
            found.setdefault(english, text)
    chosen = list(found.items())[:most]
    return [text for _, text in chosen], [english for english, _ in chosen]


def flores(data: Path, language: str, lines: int) -> list[str]:
    """The first lines of a FLORES-200 file."""
    return list(read_texts(data / "retrieval" / "flores200" / f"{FLORES[language]}.txt.gz"))[:lines]


def measure(engine: Any, data: Path, length: int, rows: int, share: float, sentences: int) -> dict[str, dict[str, Any]]:
    """All scores by language."""
    scores: dict[str, dict[str, Any]] = {}
    english = engine.embed(flores(data, "en", sentences), truncate=True)
    for language in LANGUAGES:
        entry: dict[str, Any] = {"masked": masked_scores(engine, data, language, length, rows)}
        if language != "en":
            texts, translations = held_out_pairs(data, language, share, sentences)
            entry["held-out"] = retrieval(engine, texts, engine.embed(translations, truncate=True))
            if language in FLORES:
                entry["flores"] = retrieval(engine, flores(data, language, sentences), english)
        scores[language] = entry
    return scores


def table(scores: dict[str, dict[str, Any]]) -> str:
    """A Markdown table; percentages but for the losses."""
    head = "| language | loss | unigram | top-1 | unigram | times | top-5 | unigram "
    head += "| FLORES → en | en → | held-out → en | en → |"
    lines = [head, "| --- |" + " ---: |" * 11]
    for language, entry in scores.items():
        m = entry["masked"]
        times = m["top1"] / m["unigram_top1"] if m["unigram_top1"] else math.inf
        cells = [
            language,
            f"{m['loss']:.2f}",
            f"{m['unigram_loss']:.2f}",
            f"{100 * m['top1']:.1f}",
            f"{100 * m['unigram_top1']:.1f}",
        ]
        cells += [f"{times:.1f}", f"{100 * m['top5']:.1f}", f"{100 * m['unigram_top5']:.1f}"]
        for kind in ("flores", "held-out"):
            for way in ("to_english", "from_english"):
                cells.append(f"{100 * entry[kind][way]:.0f}" if kind in entry else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with pretrain/, parallel/ and retrieval/")
    parser.add_argument("--model", default=None, help="a folder; default: the bundled model")
    parser.add_argument("--json", type=Path, help="write the scores there")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=100, help="rows of a language at most")
    parser.add_argument("--sentences", type=int, default=200, help="sentences of a language for retrieval, in hundreds")
    parser.add_argument("--held-out", type=float, default=0.02, help="the recipe's data.held_out")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scores = measure(
        xlm.load(options.model), options.data, options.length, options.rows, options.held_out, options.sentences
    )
    if options.json:
        options.json.write_text(json.dumps(scores, indent=1), "utf-8")
    print(table(scores))
    masked = [entry["masked"] for entry in scores.values()]
    threefold = sum(m["top1"] >= 3 * m["unigram_top1"] for m in masked)
    half = sum(
        min(e["flores"]["to_english"], e["flores"]["from_english"]) >= 0.5 for e in scores.values() if "flores" in e
    )
    print(f"\ntop-1 at least 3 times the unigram's in {threefold} of {len(masked)} languages")
    print(f"FLORES: half or more found both ways in {half} of {sum('flores' in e for e in scores.values())} languages")


if __name__ == "__main__":
    main()
