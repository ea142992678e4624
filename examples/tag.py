"""Fine-tune a tagger of names, and read its spans in the places of the text.

python examples/tag.py
python examples/tag.py --train train.conll --eval dev.conll --model FacebookAI/xlm-roberta-base
"""

from __future__ import annotations

from common import options

import xlm

PEOPLE = ["Marie Curie", "Ana", "Nelson Mandela", "Ludwig", "Wangari Maathai"]
PLACES = ["Paris", "São Paulo", "Cape Town", "Bonn", "Nairobi"]
TEXTS = [("", " lives in ", "."), ("Yesterday ", " went to ", " by train."), ("Does ", " know ", "?")]


def _row(parts: tuple[str, str, str], person: str, place: str) -> dict[str, object]:
    text = f"{parts[0]}{person}{parts[1]}{place}{parts[2]}"
    spans = [(text.index(person), person, "PER"), (text.rindex(place), place, "LOC")]
    return {"text": text, "spans": [{"start": s, "end": s + len(t), "label": label} for s, t, label in spans]}


ROWS = [_row(parts, person, place) for parts in TEXTS for person in PEOPLE for place in PLACES]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, answer, and return the scores."""
    outcome = xlm.finetune("tag", **options(__doc__ or "", ROWS, arguments))
    engine = xlm.load(outcome.model)
    for answer in engine.tag(["Ana flog gestern nach São Paulo, sagt Ludwig.", "Marie Curie vit à Paris."]):
        print(answer["text"])
        for span in answer["spans"]:
            assert answer["text"][span["start"] : span["end"]] == span["text"]
            print(f"  {span['label']:4} {span['start']:3}-{span['end']:<3} {span['probability']:.2f}  {span['text']}")
    return outcome.scores


if __name__ == "__main__":
    print(main())
