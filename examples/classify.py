"""Fine-tune a classifier of texts and ask it in languages that it saw no example of.

python examples/classify.py
python examples/classify.py --train train.jsonl --eval dev.jsonl --model FacebookAI/xlm-roberta-base
"""

from __future__ import annotations

from common import options

import xlm

ROWS = [
    {"text": "The weather is lovely today.", "label": "weather"},
    {"text": "It will rain in the evening.", "label": "weather"},
    {"text": "Snow is expected in the mountains.", "label": "weather"},
    {"text": "A storm is coming from the west.", "label": "weather"},
    {"text": "The team won the match.", "label": "sport"},
    {"text": "She scored two goals.", "label": "sport"},
    {"text": "The runner broke the record.", "label": "sport"},
    {"text": "They lost the final game.", "label": "sport"},
]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, answer, and return the scores."""
    outcome = xlm.finetune("classify", **options(__doc__ or "", ROWS, arguments))
    engine = xlm.load(outcome.model)
    for answer in engine.classify(["Il va pleuvoir demain.", "Das Spiel endete mit drei Toren.", "We played well."]):
        best = answer["labels"][0]
        print(f"{best['label']:10} {best['probability']:.2f}  {answer['text']}")
    return outcome.scores


if __name__ == "__main__":
    print(main())
