"""Fine-tune a model that answers questions with spans of a context, or says that there is no answer.

python examples/answer.py
python examples/answer.py --train train-v2.0.json --eval dev-v2.0.json --model FacebookAI/xlm-roberta-large
"""

from __future__ import annotations

from common import options

import xlm

FACTS = [("Ana", "Lima", "1961"), ("Ben", "Oslo", "1974"), ("Chidi", "Lagos", "1982"), ("Dora", "Rome", "1990")]


def _rows() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, place, year in FACTS:
        context = f"{name} was born in {place} in {year}, and likes music."
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
    context = "Ein langer Text beginnt hier. " * 60 + "Dora was born in Rome in 1990, and likes music."
    questions = ["Where was Dora born?", "Whom did Dora marry?"]
    for found in engine.answer(questions, [context] * 2, top_k=2, unanswerable=True):
        print(found["question"])
        for answer in found["answers"]:
            print(
                f"  {answer['probability']:.2f}  {answer['start']}-{answer['end']}  {answer['text'] or '(no answer)'}"
            )
    return outcome.scores


if __name__ == "__main__":
    print(main())
