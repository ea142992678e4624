"""Folders of benchmarks in the layouts that are published, with a few records each, and an engine that needs no model."""

import json
from pathlib import Path
from typing import Any

import numpy as np

LONG = 500
LABELS = ("entailment", "neutral", "contradiction")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def xnli(folder: Path, languages: tuple[str, ...] = ("en", "de", "ur"), count: int = 12) -> Path:
    """One file a language with a column split: 12 rows a split, whose label stands in the text for an engine to read."""
    texts = {"en": "premise", "de": "Prämisse", "ur": "مقدمہ"}
    for language in languages:
        rows = [
            {
                "premise": f"{texts[language]} {n} <b>{LABELS[n % 3]}</b>",
                "hypothesis": f"{LABELS[n % 3]} {n}",
                "label": LABELS[n % 3],
            }
            for n in range(count)
        ]
        every = [
            {"id": f"{split}-{n}", "split": split, **row}
            for split in ("train", "dev", "test")
            for n, row in enumerate(rows)
        ]
        jsonl(folder / f"{language}.jsonl", every)
    return folder


def squad(answers: list[str], context: str = "The capital is Paris. It has 2 million people.") -> str:
    """SQuAD JSON with one question an answer."""
    qas = [
        {"id": f"q{n}", "question": f"Question {n}?", "answers": [{"text": a, "answer_start": context.index(a)}]}
        for n, a in enumerate(answers)
    ]
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]})


def _long(text: str) -> bool:
    """Whether an engine would cut the text."""
    return len(text) > LONG


class Fake:
    """Answers by reading the texts. ``skill``: the share of items it gets right, every so many wrong."""

    def __init__(self, skill: float = 1.0, labels: tuple[str, ...] = LABELS) -> None:
        self.skill, self.labels, self.seen = skill, labels, 0

    def _right(self) -> bool:
        self.seen += 1
        return (self.seen * 7919 % 100) / 100 < self.skill

    def classify(self, texts: list[Any], *, truncate: bool = False) -> list[dict[str, Any]]:
        found = []
        for text in texts:
            whole = text if isinstance(text, str) else " ".join(text)
            best = next((label for label in self.labels if label in whole), self.labels[0])
            if not self._right():
                best = self.labels[(self.labels.index(best) + 1) % len(self.labels)]
            ranked = sorted(self.labels, key=lambda label: label != best)
            share = [0.8] + [0.2 / (len(ranked) - 1)] * (len(ranked) - 1)
            labels = [{"label": label, "probability": p} for label, p in zip(ranked, share, strict=True)]
            found.append({"text": text, "labels": labels} | ({"truncated": _long(whole)} if truncate else {}))
        return found

    def tag_words(self, texts: list[list[str]]) -> list[list[str]]:
        return [["B-LOC" if word[:1].isupper() and self._right() else "O" for word in words] for words in texts]

    def answer(self, questions: list[str], contexts: list[str], **_: Any) -> list[dict[str, Any]]:
        return [{"question": q, "answers": [{"start": 15, "end": 20, "text": c[15:20], "probability": 0.5}]}
                for q, c in zip(questions, contexts, strict=True)]  # fmt: skip

    def choose(
        self, prompts: list[str], choices: list[list[str]], *, questions: Any = None, truncate: bool = False
    ) -> list[dict[str, Any]]:
        return [{"prompt": p, "best": 0, "probabilities": [0.6, 0.4], "truncated": _long(p)} for p in prompts]

    def truncated(self, texts: list[str]) -> list[int]:
        return [number for number, text in enumerate(texts) if _long(text)]

    def embed(self, texts: list[str], *, truncate: bool = False) -> Any:
        """Vectors that depend on a sentence's number alone, so that translations are nearest."""
        rows = []
        for text in texts:
            digits = "".join(char for char in text if char.isdigit())
            rows.append(np.random.default_rng(int(digits or 10**6)).normal(size=16))
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
