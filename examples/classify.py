"""Fine-tune a classifier of texts in several languages and ask it about others.

python examples/classify.py
python examples/classify.py --train train.jsonl --eval dev.jsonl --model FacebookAI/xlm-roberta-base
"""

from __future__ import annotations

from common import options

import xlm

TEXTS = {
    "weather": [
        "The weather is lovely today.",
        "It will rain in the evening.",
        "A storm is coming from the west.",
        "Snow is expected in the mountains.",
        "Es regnet seit drei Tagen.",
        "Morgen scheint die Sonne.",
        "Il fait très froid en hiver.",
        "El viento es fuerte cerca del mar.",
        "Завтра будет дождь и ветер.",
        "Hôm nay trời mưa.",
    ],
    "sport": [
        "The team won the match.",
        "She scored two goals.",
        "The runner broke the record.",
        "They lost the final game.",
        "Der Verein hat das Spiel gewonnen.",
        "Elle a gagné une médaille aux Jeux olympiques.",
        "L'équipe a perdu la finale.",
        "Los jugadores entrenan cada semana.",
        "Он играет в футбол.",
        "Anh ấy chơi bóng đá.",
    ],
    "food": [
        "We ate bread and cheese.",
        "The soup needs more salt.",
        "I would like a cup of coffee.",
        "She is cooking rice with vegetables.",
        "Er trinkt jeden Morgen Milch.",
        "Ich esse gern Brot mit Butter.",
        "Nous mangeons du poisson et du riz.",
        "Me gusta la sopa de verduras.",
        "Она пьёт чай с молоком.",
        "Tôi ăn cơm với cá.",
    ],
}
ROWS = [{"text": text, "label": label} for label, texts in TEXTS.items() for text in texts]
ASKED = [
    "Demain il va pleuvoir.",
    "Es ist heute sehr kalt.",
    "Команда выиграла матч.",
    "El equipo ganó el partido.",
    "Bà ấy nấu cơm với thịt.",
    "Ich trinke gern Kaffee mit Milch.",
]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, answer, and return the scores."""
    outcome = xlm.finetune("classify", **options(__doc__ or "", ROWS, arguments))
    engine = xlm.load(outcome.model)
    for answer in engine.classify(ASKED):
        best = answer["labels"][0]
        print(f"{best['label']:10} {best['probability']:.2f}  {answer['text']}")
    return outcome.scores


if __name__ == "__main__":
    print(main())
