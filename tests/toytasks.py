"""A tiny checkpoint and labelled files of every task, small enough to fine-tune within a second or two."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from seeds.words import roberta_checkpoint, xlm_checkpoint

GOOD, BAD = ["good", "fine", "nice"], ["bad", "poor", "sad"]
NAMES, PLACES = ["Ana", "Ben", "Chi", "Dora"], ["Rome", "Oslo", "Lima", "Bonn"]
OTHER = "the film was and in to saw with one day . Where is ?".split()
TEXTS = [" ".join([*GOOD, *BAD, *NAMES, *PLACES, *OTHER])]


def checkpoint(folder: Path, family: str = "xlm-roberta") -> Path:
    if family == "xlm":
        xlm_checkpoint(folder, TEXTS)
    else:
        roberta_checkpoint(folder, TEXTS, "XLMRobertaXL" if family.endswith("xl") else "XLMRoberta")
    return folder


def translator(folder: Path, family: str = "xlm", **more: Any) -> Path:
    """A tiny translation model with random weights and its tokenizer; ``more`` are fields of its config."""
    import torch

    import tiny
    import xlm

    plain = checkpoint(folder / "plain", family)
    config = xlm.AutoConfig.from_pretrained(plain)
    named: dict[str, Any] = {"n_langs": 2, "lang2id": {"de": 0, "en": 1}} if family == "xlm" else {}
    torch.manual_seed(0)
    side = type(config)(**config.to_dict() | named)
    model = xlm.EncoderDecoderModel(xlm.EncoderDecoderConfig(side, side, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    tiny.stir(model).save_pretrained(folder / "pair")
    xlm.AutoTokenizer.from_pretrained(plain).save_pretrained(folder / "pair")
    return folder / "pair"


def spoken(folder: Path) -> Path:
    """A tiny model of XLM with embeddings of two languages, and the tokenizer's rules for them."""
    import torch

    import xlm

    plain = checkpoint(folder / "plain", "xlm")
    languages = {"lang2id": {"en": 0, "fr": 1}, "id2lang": {0: "en", 1: "fr"}}
    options = xlm.AutoConfig.from_pretrained(plain).to_dict() | {"n_langs": 2, "use_lang_emb": True, **languages}
    torch.manual_seed(0)
    model = xlm.XLMWithLMHeadModel(xlm.XLMConfig(**options))
    with torch.no_grad():
        model.get_parameter("transformer.embeddings.language_embeddings.weight").normal_()
    model.save_pretrained(folder / "two")
    xlm.AutoTokenizer.from_pretrained(plain, **languages).save_pretrained(folder / "two")
    return folder / "two"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def rows(task: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [_MAKERS[task](rng, number) for number in range(count)]


def _classify(rng: random.Random, number: int) -> dict[str, Any]:
    label = number % 2
    return {"text": f"the film was {rng.choice((BAD, GOOD)[label])} .", "label": ("neg", "pos")[label]}


def _tag(rng: random.Random, number: int) -> dict[str, Any]:
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    return {"words": [name, "was", "in", place, "."], "tags": ["B-PER", "O", "O", "B-LOC", "O"]}


def _answer(rng: random.Random, number: int) -> dict[str, Any]:
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    context = f"{name} was in {place} . the film was {rng.choice(GOOD)} ."
    answer = {"text": place, "answer_start": context.index(place)}
    return {"id": str(number), "question": f"Where is {name} ?", "context": context, "answers": [answer]}


def _choose(rng: random.Random, number: int) -> dict[str, Any]:
    choices = [rng.choice(GOOD), rng.choice(BAD)]
    label = number % 2
    return {"prompt": "the film was", "choices": choices[::-1] if label else choices, "label": label}


def _pair(rng: random.Random, number: int) -> dict[str, Any]:
    name = NAMES[number % len(NAMES)]
    other = NAMES[(number + 1) % len(NAMES)]
    return {
        "text": f"Where is {name} ?",
        "positive": f"{name} was in {rng.choice(PLACES)}",
        "negatives": [f"{other} ."],
    }


def _line(rng: random.Random, number: int) -> dict[str, Any]:
    return {"text": f"{rng.choice(NAMES)} was in {rng.choice(PLACES)} and saw the film ."}


_MAKERS = {
    "classify": _classify,
    "tag": _tag,
    "answer": _answer,
    "choose": _choose,
    "embed": _pair,
    "rerank": _pair,
    "fill": _line,
    "generate": _line,
}
TASKS = tuple(_MAKERS)
