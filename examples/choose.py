"""Fine-tune a model that says which of several choices fits a prompt.

python examples/choose.py
python examples/choose.py --train copa.train.jsonl --eval copa.val.jsonl --model FacebookAI/xlm-roberta-large
"""

from __future__ import annotations

from common import options

import xlm

PAIRS = [
    ("It rained all day.", "The street was wet."),
    ("The sun shone.", "The snow melted."),
    ("He was hungry.", "He ate bread."),
    ("She was tired.", "She went to bed."),
    ("The glass fell.", "It broke."),
    ("The fire went out.", "It got cold."),
]
ROWS = [
    {"prompt": prompt, "question": "effect", "choices": [right, wrong][:: 1 - 2 * flip], "label": flip}
    for number, (prompt, right) in enumerate(PAIRS)
    for other, (_, wrong) in enumerate(PAIRS)
    if number != other
    for flip in (0, 1)
]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, answer, and return the scores."""
    outcome = xlm.finetune("choose", **options(__doc__ or "", ROWS, arguments))
    engine = xlm.load(outcome.model)
    choices = ["The street was wet.", "He ate bread."]
    for answer in engine.choose(["It rained all day.", "He was hungry."], [choices] * 2, questions=["effect"] * 2):
        print(f"{answer['prompt']}  {choices[answer['best']]}  {max(answer['probabilities']):.2f}")
    return outcome.scores


if __name__ == "__main__":
    print(main())
