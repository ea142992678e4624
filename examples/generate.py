"""Make the encoder a language model that looks left only, trained on one's own text, and have it continue a line.

python examples/generate.py
python examples/generate.py --train mine.txt --eval held_out.txt --model FacebookAI/xlm-roberta-base
"""

from __future__ import annotations

from common import options

import xlm

ROWS = [
    {"text": f"{who} {what} {where}."}
    for who in ("The beekeeper", "A drone", "The queen")
    for what in ("returns to", "leaves", "looks after")
    for where in ("the hive", "the old hive", "the swarm in the hive")
]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, continue two lines, and return the scores."""
    given = options(__doc__ or "", ROWS, arguments)
    outcome = xlm.finetune("generate", **{**given, "batch": 1, "learning_rate": 1e-3, "data": {"max_tokens": 32}})
    engine = xlm.load(outcome.model)
    for answer in engine.generate(["The beekeeper looks", "A drone"], max_new_tokens=8):
        print(f"{answer['text']} | {answer['generated']}")
    return outcome.scores


if __name__ == "__main__":
    print(main())
