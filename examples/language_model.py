"""Go on with masked language modelling on one's own text, and see that the model learnt its words.

python examples/language_model.py
python examples/language_model.py --train mine.txt --eval held_out.txt --model FacebookAI/xlm-roberta-base
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
    """Ask before and after training, and return the scores."""
    question = ["The bee flies to the <mask>."]
    given = options(__doc__ or "", ROWS, arguments)
    outcome = xlm.finetune("fill", **{**given, "batch": 1, "data": {"max_tokens": 32}})
    for name, engine in (("before", xlm.load(given["model"])), ("after", xlm.load(outcome.model))):
        guesses = engine.fill_mask(question, top_k=5)[0]["masks"][0]
        print(f"{name:7}", "  ".join(f"{guess['token']} {guess['probability']:.2f}" for guess in guesses))
    return outcome.scores


if __name__ == "__main__":
    print(main())
