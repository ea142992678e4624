"""Search in two steps: a bi-encoder finds candidates among all documents, a cross-encoder orders them.

python examples/retrieve.py
python examples/retrieve.py --train pairs.jsonl --eval dev.jsonl --model FacebookAI/xlm-roberta-base
"""

from __future__ import annotations

from common import options

import xlm

CAPITALS = {
    "France": "Paris",
    "Poland": "Warsaw",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Norway": "Oslo",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Spain": "Madrid",
    "Turkey": "Ankara",
    "Russia": "Moscow",
    "China": "Beijing",
}
NAMES = list(CAPITALS)
ROWS = [
    {
        "query": f"capital of {country}",
        "positive": f"{CAPITALS[country]} is the capital of {country}.",
        "negatives": [
            f"{country} has many rivers and mountains.",
            *(f"{CAPITALS[other]} is the capital of {other}." for other in NAMES[number - 3 : number]),
        ],
    }
    for number, country in enumerate(NAMES)
]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train both, search, and return the scores of the second."""
    given = options(__doc__ or "", ROWS, arguments)
    output = given.pop("output")
    finder = xlm.load(xlm.finetune("embed", **given, output=output / "embed").model)
    outcome = xlm.finetune("rerank", **given, output=output / "rerank")
    judge = xlm.load(outcome.model)
    documents = [str(row["positive"]) for row in ROWS] + [row["negatives"][0] for row in ROWS]
    query = "capital of Kenya"
    nearest = (finder.embed(documents) @ finder.embed([query])[0]).argsort()[::-1][:5]
    candidates = [documents[index] for index in nearest]
    for found in judge.rerank(query, candidates):
        print(f"{found['score']:.2f}  {candidates[found['index']]}")
    return outcome.scores


if __name__ == "__main__":
    print(main())
