"""How ``official.json.gz`` was made: predictions, and what the official scripts said of them.

    python tests/tasks/metrics/make_fixtures.py SCRIPTS DATA

SCRIPTS holds the official programs, which are not part of this repository:
    squad_v1.py     evaluate-v1.1.py of SQuAD, as kept in google-research/xtreme@838c13b6 (third_party/evaluate_squad.py)
    squad_v2.py     evaluate-v2.0.py of SQuAD (worksheets.codalab.org, as kept in qwang70/bert@b3797fb7)
    mlqa.py         facebookresearch/MLQA@24bf470b (mlqa_evaluation_v1.py)
    conlleval.pl    version of 2004-01-26 (as kept in kyzhouhzau/BERT-NER@58c2011b); needs perl
    mining.py       google-research/xtreme@838c13b6 (third_party/utils_retrieve.py), LASER's mining. It imports faiss, for
                    which an exact search by NumPy stands in below.
DATA holds answers of XQuAD, MLQA and PersianQA (CC BY-SA; only short answer texts are kept) and tags of WikiANN (tags alone).
Predictions are right answers, damaged in ways that metrics disagree about: articles, punctuation, case, cut and added words.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

ARTICLES = {
    "en": ["the", "a"], "es": ["el", "unas"], "de": ["der", "einem"], "vi": ["của", "những"], "ar": ["ال"], "hi": ["एक"],
    "zh": ["的", "。"], "fa": ["و"], "ru": ["в"], "tr": ["bir"],
}  # fmt: skip
MARKS = [".", ",", "،", "。", "«", "-", "’", "%", "€", "।", "(", "  "]


def lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        return [json.loads(line) for line in stream]


def damaged(answer: str, language: str, rng: random.Random) -> str:
    """An answer that is right, or almost."""
    kind = rng.randrange(8)
    words = answer.split()
    extra = rng.choice(ARTICLES.get(language, ["the"]))
    if kind == 0:
        return answer.upper()
    if kind == 1:
        return f"{extra} {answer}"
    if kind == 2:
        return extra + answer
    if kind == 3:
        return rng.choice(MARKS) + answer + rng.choice(MARKS)
    if kind == 4:
        return " ".join(words[: max(1, len(words) // 2)]) if len(words) > 1 else answer[: max(1, len(answer) // 2)]
    if kind == 5:
        return f"{answer} {extra} {rng.choice(words)}"
    if kind == 6:
        return rng.choice(["", "?", extra, "42 km"])
    return answer


def module(path: Path, **stubs: types.ModuleType) -> types.ModuleType:
    sys.modules.update(stubs)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def dataset(rows: list[dict]) -> list[dict]:
    qas = [{"id": str(i), "answers": [{"text": text} for text in row["gold"]]} for i, row in enumerate(rows)]
    return [{"paragraphs": [{"qas": qas}]}]


def questions(records: list[dict], language: str, rng: random.Random, count: int) -> list[dict]:
    rows = []
    for record in rng.sample(records, count):
        gold = [answer["text"] for answer in record["answers"]]
        if gold and rng.random() < 0.3:  # several right answers
            gold.append(damaged(gold[0], language, rng) or gold[0])
        guess = damaged(gold[0], language, rng) if gold else rng.choice(["", "", "42 km"])
        rows.append({"gold": gold, "predicted": guess})
    return rows


def answers(scripts: Path, data: Path, rng: random.Random) -> dict:
    v1, mlqa = module(scripts / "squad_v1.py"), module(scripts / "mlqa.py")
    made: dict = {"squad": {}, "mlqa": {}, "squad_v2": {}}
    for language in ("en", "ar", "de", "es", "hi", "ru", "tr", "vi", "zh"):
        rows = questions(lines(data / f"qa/xquad/{language}.jsonl.gz"), language, rng, 60)
        said = {str(i): row["predicted"] for i, row in enumerate(rows)}
        made["squad"][language] = {"rows": rows, "official": v1.evaluate(dataset(rows), said)}
        if language in ("ru", "tr"):
            continue
        if language != "vi":
            rows = questions(lines(data / f"qa/mlqa/{language}-{language}.jsonl.gz"), language, rng, 60)
        rows = rows + [
            {"gold": [gold], "predicted": guess}
            for gold, guess in [
                ("الكتاب الجديد", "كتاب جديد"), ("المسالك", "مسالك"), ("中国2008年奥运会", "中国 2008 年"),
                ("《红楼梦》", "红楼梦"), ("der Hund", "ein Hund"), ("Den Haag", "Haag"), ("एक किताब।", "किताब"),
                ("những cái bàn", "bàn"), ("The Who", "Who"),
                ("$5", "5"), ("l’amour", "lamour"), ("the", "the"), ("a.b.", "ab"), ("１２", "12"), ("İstanbul", "istanbul"),
            ]
        ]  # fmt: skip
        said = {str(i): row["predicted"] for i, row in enumerate(rows)}
        made["mlqa"][language] = {"rows": rows, "official": mlqa.evaluate(dataset(rows), said, language)}
    for language, path in (("fa", "qa/persianqa/fa.jsonl.gz"), ("en", "qa/xquad/en.jsonl.gz")):
        records = lines(data / path)
        if language == "en":
            for record in rng.sample(records, len(records) // 3):
                record["answers"] = []
        rows = questions(records, language, rng, 150)
        for row in rows:
            row["no_answer"] = round(rng.betavariate(2, 5) if row["gold"] else rng.betavariate(4, 2), 2)
        with tempfile.TemporaryDirectory() as folder:
            texts = {
                "data": {"data": dataset(rows)},
                "said": {str(i): row["predicted"] for i, row in enumerate(rows)},
                "doubt": {str(i): row["no_answer"] for i, row in enumerate(rows)},
            }
            paths = {name: Path(folder, f"{name}.json") for name in texts}
            for name, text in texts.items():
                paths[name].write_text(json.dumps(text))
            call = [sys.executable, scripts / "squad_v2.py", paths["data"], paths["said"]]
            plain = subprocess.run(call, capture_output=True, check=True, text=True).stdout
            more = ["-n", paths["doubt"], "-t", "0.4"]
            doubt = subprocess.run([*call, *more], capture_output=True, check=True, text=True).stdout
        made["squad_v2"][language] = {"rows": rows, "official": json.loads(plain), "threshold_0.4": json.loads(doubt)}
    return made


def tagged(scripts: Path, data: Path, rng: random.Random) -> dict:
    made = {}
    for language in ("en", "ar", "zh"):
        with gzip.open(data / f"tokens/wikiann/{language}.dev.conll.gz", "rt", encoding="utf-8") as stream:
            sentences = [
                [line.split("\t")[1] for line in block.split("\n")] for block in stream.read().strip().split("\n\n")
            ]
        gold = rng.sample(sentences, 150)
        guesses = []
        for tags in gold:
            guess = list(tags)
            for index in range(len(guess)):
                if rng.random() < 0.15:
                    guess[index] = rng.choice(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "I-ORG", "B-ORG"])
            guesses.append(guess)
        text = "\n".join(
            "".join(f"w {a} {b}\n" for a, b in zip(tags, guess, strict=True))
            for tags, guess in zip(gold, guesses, strict=True)
        )
        call = ["perl", str(scripts / "conlleval.pl")]
        said = subprocess.run(call, input=text, capture_output=True, check=True, text=True).stdout
        made[language] = {"gold": gold, "predicted": guesses, "official": said}
    return made


class _Index:
    """faiss' exact inner-product index."""

    def __init__(self, dim: int) -> None:
        self.rows = np.zeros((0, dim), np.float32)

    def add(self, rows: np.ndarray) -> None:
        self.rows = rows

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        block = queries @ self.rows.T
        order = np.argsort(-block, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(block, order, 1), order


def mining(scripts: Path, data: Path) -> dict:
    faiss = types.ModuleType("faiss")

    def normalize(rows: np.ndarray) -> None:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    faiss.normalize_L2, faiss.IndexFlatIP, faiss.IndexFlatL2 = normalize, _Index, _Index  # type: ignore[attr-defined]
    theirs = module(scripts / "mining.py", faiss=faiss, torch=types.ModuleType("torch"))
    rng = np.random.default_rng(5)
    shared = rng.normal(size=(60, 16))
    x = np.concatenate([shared + 0.7 * rng.normal(size=shared.shape), rng.normal(size=(40, 16))]).astype(np.float32)
    y = np.concatenate([shared + 0.7 * rng.normal(size=shared.shape), rng.normal(size=(55, 16))]).astype(np.float32)
    x, y = x.round(3), y.round(3)
    gold = [[f"x-{i}", f"y-{i}"] for i in range(60)]
    made: dict = {"source": x.tolist(), "target": y.tolist(), "gold": gold, "official": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, rows in (("x", x), ("y", y)):
            (folder / f"{side}.txt").write_text("".join(f"sentence {side} {i}\n" for i in range(len(rows))))
            (folder / f"{side}.id").write_text("".join(f"{side}-{i}\n" for i in range(len(rows))))
        (folder / "gold").write_text("".join("\t".join(pair) + "\n" for pair in gold))
        paths = [str(folder / f) for f in ("x.txt", "y.txt")]
        ids = [str(folder / f) for f in ("x.id", "y.id")]
        for margin in ("ratio", "distance", "absolute"):
            out = str(folder / "candidates")
            theirs.mine_bitext(x.copy(), y.copy(), *paths, out, margin=margin)
            found = theirs.bucc_eval(out, str(folder / "gold"), *paths, *ids, str(folder / "said"))
            made["official"][margin] = {**found, "mined": len((folder / "said").read_text().splitlines())}
    return made


def main() -> None:
    scripts, data = Path(sys.argv[1]), Path(sys.argv[2])
    rng = random.Random(11)
    made = answers(scripts, data, rng)
    made["conlleval"] = tagged(scripts, data, rng)
    made["mining"] = mining(scripts, data)
    text = json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()
    (Path(__file__).parent / "official.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))


if __name__ == "__main__":
    main()
