"""Examples to rows, and scores to answers: windows, offsets, alignment, ranking, without any model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlm.assets import bundled_folder
from xlm.errors import CheckpointError, InputError
from xlm.tasks.answer import Answer
from xlm.tasks.choose import Choose, prompt_of
from xlm.tasks.classify import Classify
from xlm.tasks.embed import Embed
from xlm.tasks.examples import (
    ChoiceExample,
    Gold,
    PairExample,
    QuestionExample,
    TaggedExample,
    TextExample,
    repair_bio,
    spans_of,
)
from xlm.tasks.language import Fill
from xlm.tasks.rerank import Rerank
from xlm.tasks.tag import Tag, example_of, spans_in_text
from xlm.tasks.windows import most_context, windows
from xlm.tasks.words import split_words
from xlm.tokenizers import AutoTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    try:
        folder: Path = bundled_folder()
    except CheckpointError as error:
        pytest.skip(str(error))
    return AutoTokenizer.from_pretrained(folder)


SCRIPTS = [
    "Marie Curie was born in Warsaw, in 1867.",
    "北京是中华人民共和国的首都。",
    "東京タワーは東京都港区にある。",
    "สวัสดีชาวโลก กรุงเทพ",
    "नई दिल्ली भारत की राजधानी है।",
    "ولدت ماري كوري في وارسو، عام ١٨٦٧.",
    "Πού είναι η Αθήνα; l'eau d'Évian",
    "e\u0301te\u0301  ﬁn\u200d 👩\u200d👩\u200d👧 ½",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_words_cover_a_text(text: str) -> None:
    spans = split_words(text)
    assert all(a < b for a, b in spans) and all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
    left = "".join(text[a:b] for a, b in spans)
    assert left == "".join(text.split())


def test_windows_cover_and_overlap() -> None:
    assert windows(5, 8, 2) == [(0, 5)] and windows(0, 8) == [(0, 0)]
    found = windows(20, 8, 3)
    assert found == [(0, 8), (5, 13), (10, 18), (15, 20)]
    assert most_context(6, found) == 0 and most_context(7, found) == 1 and most_context(19, found) == 3
    with pytest.raises(InputError, match="overlap is 8"):
        windows(20, 8, 8)


class _Looked(list[tuple[int, int]]):
    """A list that counts what is read of it."""

    count = 0

    def __getitem__(self, key: Any) -> Any:
        self.count += 1
        return super().__getitem__(key)


def test_the_best_window_is_found_among_those_around() -> None:
    for length, size, overlap in ((1, 5, 0), (40, 7, 3), (41, 10, 9), (100, 8, 0), (64, 9, 6)):
        spans = windows(length, size, overlap)
        for place in range(length):
            room = [min(place - start, end - 1 - place) if start <= place < end else -1 for start, end in spans]
            assert most_context(place, spans) == room.index(max(room))
    spans = _Looked(windows(1_000_000, 100, 20))
    assert most_context(500_000, spans) == 6249
    assert spans.count < 40  # of 12,500: a text of a million characters has as many words to ask for


def test_spans_of_tags() -> None:
    assert spans_of(["O", "I-PER", "I-PER", "B-PER", "I-LOC"]) == [(1, 3, "PER"), (3, 4, "PER"), (4, 5, "LOC")]
    assert spans_of(["NOUN", "VERB"]) == [(0, 1, "NOUN"), (1, 2, "VERB")]
    assert spans_of(["O", "PER", "O", "LOC"]) == [(1, 2, "PER"), (3, 4, "LOC")], (
        "outside is no span without prefixes either"
    )
    assert spans_of(["O", "O"]) == [] and repair_bio(["I-A", "I-B"]) == ("B-A", "B-B")


@pytest.mark.parametrize("max_tokens", [10, 64])
def test_tags_come_back_in_places_of_the_text(tokenizer: Any, max_tokens: int) -> None:
    """An oracle that scores every token by its word's tag is read back exactly, through windows of any size."""
    words = "Ana Maria lives in Rio de Janeiro and Bob in Ōsaka since 1999 .".split()
    tags = "B-PER I-PER O O B-LOC I-LOC I-LOC O B-PER O B-LOC O O O".split()
    text = "  " + "\u3000".join(words)
    offsets = tuple(split_words(text))
    example = TaggedExample(tuple(text[a:b] for a, b in offsets), tuple(tags), text, offsets)
    task = Tag.of([example])
    assert task.labels[0] == "O" and task.metric == "f1"
    features = task.features([example], tokenizer, max_tokens, training=True)
    assert len(features.items) > 1 or max_tokens == 64
    # Every label is learnt once, whatever the windows share.
    assert sum(int((item.target >= 0).sum()) for item in features.items) == len(tags)
    scores = []
    for item in task.features([example], tokenizer, max_tokens).items:
        ids_words, _, spans, at = features.details[0]
        row = np.full((len(item.rows[0]), len(task.labels)), -5.0)
        end = next(b for a, b in spans if a == item.start)
        for place in range(item.start, end):
            row[at + place - item.start, task.labels.index(tags[ids_words[place]])] = 5.0
        scores.append(row)
    (answer,) = task.answers([example], features, scores)
    assert [tag for tag, _ in answer] == tags
    found = spans_in_text(example, answer)
    assert [(s["text"], s["label"]) for s in found] == [
        ("Ana\u3000Maria", "PER"),
        ("Rio\u3000de\u3000Janeiro", "LOC"),
        ("Bob", "PER"),
        ("Ōsaka", "LOC"),
    ]
    assert all(text[s["start"] : s["end"]] == s["text"] and s["probability"] > 0.99 for s in found)


def test_empty_words_keep_their_place(tokenizer: Any) -> None:
    example = TaggedExample(("Ana", "", " ", "x"), ("B-PER", "O", "O", "O"))
    task = Tag.of([example])
    features = task.features([example], tokenizer, 16, training=True)
    scores = [np.zeros((len(item.rows[0]), len(task.labels))) for item in features.items]
    assert len(task.answers([example], features, scores)[0]) == 4
    assert Tag.of([example]).features([], tokenizer, 16).items == []
    with pytest.raises(InputError, match="3 tags for 4 words"):
        task.features([TaggedExample(example.words, ("O",) * 3)], tokenizer, 16, training=True)
    with pytest.raises(InputError, match="tag is 'B-LOC': it must be one of O, B-PER"):
        task.features([TaggedExample(("a",), ("B-LOC",))], tokenizer, 16, training=True)


CONTEXTS = [
    (
        "Where?",
        "  " + "Once there was a king. " * 12 + "Zoë was born in  Łódź, Poland. " + "The end came. " * 12,
        "Łódź",
    ),
    ("在哪里？", "很久以前。" * 20 + "北京是中华人民共和国的首都。" + "后来。" * 20, "北京"),
    ("أين؟", "كان يا ما كان. " * 15 + "ولدت ماري كوري في وارسو عام ١٨٦٧." + " النهاية." * 15, "وارسو"),
]


@pytest.mark.parametrize(("question", "context", "answer"), CONTEXTS, ids=["latin", "han", "arabic"])
@pytest.mark.parametrize("max_tokens", [40, 256])
def test_answers_come_back_in_places_of_the_context(
    tokenizer: Any, question: str, context: str, answer: str, max_tokens: int
) -> None:
    start = context.index(answer)
    example = QuestionExample(question, context, (Gold(answer, start),), id="q")
    task = Answer(stride=12)
    trained = task.features([example], tokenizer, max_tokens, training=True)
    assert trained.items and all(len(item.rows[0]) <= max_tokens for item in trained.items)
    features = task.features([example], tokenizer, max_tokens)
    gold = {item.start: item.target for item in trained.items}
    scores = []
    for item in features.items:
        score = np.zeros((len(item.rows[0]), 2))
        if item.start in gold:
            score[gold[item.start][0], 0] = score[gold[item.start][1], 1] = 9.0
        scores.append(score)
    best = task.answers([example], features, scores)[0]
    assert best[0]["text"] == answer and context[best[0]["start"] : best[0]["end"]] == answer
    assert best[0]["start"] == start and len(best) == task.n_best
    assert sum(one["probability"] for one in best) == pytest.approx(1.0)
    assert len({(one["start"], one["end"]) for one in best}) == len(best)


def test_no_answer_and_its_threshold(tokenizer: Any) -> None:
    example = QuestionExample("Why?", "Nobody knows.", impossible=True)
    task = Answer(unanswerable=True)
    (item,) = task.features([example], tokenizer, 64, training=True).items
    assert item.target == (0, 0)
    assert Answer().features([example], tokenizer, 64, training=True).items == []
    features = task.features([example], tokenizer, 64)
    score = np.zeros((len(item.rows[0]), 2))
    score[0] = 1.0
    assert task.answers([example], features, [score])[0][0]["text"] == ""
    patient = Answer(unanswerable=True, threshold=3.0)
    assert patient.answers([example], features, [score])[0][0]["text"] != ""
    assert all(one["text"] for one in Answer().answers([example], features, [score])[0])


def test_an_answer_that_is_elsewhere_is_refused(tokenizer: Any) -> None:
    example = QuestionExample("Who?", "Ana was here.", (Gold("Ana", 1),))
    with pytest.raises(InputError, match="the answer 'Ana' is not at 1"):
        Answer().features([example], tokenizer, 64, training=True)
    with pytest.raises(InputError, match="leaves no room"):
        Answer().features([QuestionExample("Who " * 30, "x")], tokenizer, 20)


def test_classes_targets_and_answers(tokenizer: Any) -> None:
    examples = [TextExample("a", label="10"), TextExample("b", label="9"), TextExample("c" * 500, "d", "9")]
    task = Classify.of(examples)
    assert task.labels == ("9", "10")
    features = task.features(examples, tokenizer, 16, training=True)
    assert [item.target for item in features.items] == [1, 0, 0] and features.cut == {2}
    best = task.answers(examples, features, [np.array([0.0, 2.0])] * 3)[0]
    assert best[0]["label"] == "10" and best[0]["probability"] == pytest.approx(0.8808, abs=1e-4)
    assert Classify.of([TextExample("a", label=0.5)]).problem == "regression"
    many = Classify.of([TextExample("a", label=("x", "y")), TextExample("b", label=())])
    assert many.problem == "multi" and many.target(TextExample("a", label=("y",)), "").tolist() == [0.0, 1.0]
    with pytest.raises(InputError, match="mixed kinds"):
        Classify.of([TextExample("a", label=0.5), TextExample("b", label="x")])
    with pytest.raises(CheckpointError, match="not finite"):
        task.answers(examples, features, [np.array([np.nan, 0.0])] * 3)


def test_rows_are_those_of_the_tokenizer(tokenizer: Any) -> None:
    long = "word " * 60
    for text, pair in (("a text", None), ("a", "b"), (long, "short"), ("short", long), (long, long)):
        want = tokenizer(text, pair, truncation=True, max_length=32)["input_ids"]
        row = Classify(("a", "b")).features([TextExample(text, pair)], tokenizer, 32).items[0].rows[0]
        assert row.tolist() == list(want)


def test_choices_and_their_questions(tokenizer: Any) -> None:
    example = ChoiceExample("It rained.", ("Wet.", "Dry."), 0, "effect")
    assert prompt_of(example) == "It rained. What happened as a result?"
    (item,) = Choose().features([example], tokenizer, 64, training=True).items
    assert len(item.rows) == 2 and item.target == 0
    assert (
        Choose().answers([example], Choose().features([example], tokenizer, 64), [np.array([0.0, 1.0])])[0]["best"] == 1
    )
    with pytest.raises(InputError, match="1 choices: at least two"):
        Choose().features([ChoiceExample("a", ("b",))], tokenizer, 64)


def test_pairs_ranks(tokenizer: Any) -> None:
    examples = [PairExample("q", "right", ("wrong", "worse")), PairExample("r", "only")]
    task = Rerank()
    features = task.features(examples, tokenizer, 64, training=True)
    assert [item.target for item in features.items] == [1.0, 0.0, 0.0, 1.0]
    answers = task.answers(examples, features, [np.array([0.0]), np.array([1.0]), np.array([-1.0]), np.array([0.0])])
    assert task.evaluate(examples, answers)["mrr"] == 0.5
    vectors = [np.eye(2, dtype=np.float32)[[0, 0]], np.eye(2, dtype=np.float32)[[1, 0]]]
    ranks = Embed().answers([PairExample("a", "A"), PairExample("b", "B")], features, vectors)
    assert ranks == [2, 2]  # ties count against the partner


def test_language_rows_hold_every_token_once(tokenizer: Any) -> None:
    lines = [TextExample(f"line number {n} " * (1 + n % 5)) for n in range(20)]
    items = Fill().features(lines, tokenizer, 24).items
    inside = [token for item in items for token in item.rows[0][item.target[0] : item.target[1]].tolist()]
    want = [t for ids in tokenizer([e.text for e in lines], add_special_tokens=False)["input_ids"] for t in ids]
    assert inside == want and max(len(item.rows[0]) for item in items) <= 24


def test_running_text_as_an_example() -> None:
    example = example_of("Ana, 東京", "ja")
    assert example.words == ("Ana", ",", "東", "京") and example.language == "ja"
