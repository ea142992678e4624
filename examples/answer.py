"""Fine-tune a model that answers questions with spans of a context, or says that there is no answer.

python examples/answer.py
python examples/answer.py --train train-v2.0.json --eval dev-v2.0.json --model FacebookAI/xlm-roberta-large
"""

from __future__ import annotations

from common import options

import xlm

FACTS = [
    ("Ana", "Lima", "1961"),
    ("Ben", "Oslo", "1974"),
    ("Chidi", "Lagos", "1982"),
    ("Dora", "Rome", "1990"),
    ("Elif", "Ankara", "1958"),
    ("Farid", "Cairo", "1967"),
    ("Greta", "Berlin", "1979"),
    ("Hana", "Tokyo", "1985"),
    ("Ivan", "Moscow", "1993"),
    ("Juma", "Nairobi", "1955"),
]
ABOUT = ["{0} was born in {1} in {2}, and likes music.", "In {2}, in {1}, {0} was born.", "{0} ({1}, {2}) is a singer."]


def _rows() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number, (name, place, year) in enumerate(FACTS):
        context = ABOUT[number % len(ABOUT)].format(name, place, year)
        for question, answer in ((f"Where was {name} born?", place), (f"When was {name} born?", year)):
            answers = [{"text": answer, "answer_start": context.index(answer)}]
            rows.append({"question": question, "context": context, "answers": answers})
        rows.append({"question": f"Whom did {name} marry?", "context": context, "answers": []})
    return rows


ROWS = _rows()


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, answer, and return the scores."""
    outcome = xlm.finetune("answer", **options(__doc__ or "", ROWS, arguments))
    engine = xlm.load(outcome.model)
    context = "Everybody here likes music. Dora was born in Rome in 1990, and likes music."
    questions = ["Where was Dora born?", "When was Dora born?", "Whom did Dora marry?"]
    for found in engine.answer(questions, [context] * 3, top_k=2, unanswerable=True):
        print(found["question"])
        for answer in found["answers"]:
            place = f"{answer['start']}-{answer['end']}"
            print(f"  {answer['probability']:.2f}  {place}  {answer['text'] or '(no answer)'}")
    return outcome.scores


if __name__ == "__main__":
    print(main())
