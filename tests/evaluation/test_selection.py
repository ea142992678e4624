"""What is scored and what chooses: test or development sets, epochs chosen on what is scored, candidates without dev sets,
baselines that cannot be fitted, the languages of two sides."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.folders import Fake, jsonl, write, xnli
from xlm.errors import DataError, InputError, MissingExtraError
from xlm.evaluation.report import check_target
from xlm.evaluation.run import evaluate

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
SENTENCE = "Rome\tB-LOC\nis\tO\n\n"


def fake(name: str) -> Fake:
    return Fake()


def test_the_test_set_is_scored_where_there_is_one(tmp_path: Path):
    for split, count in (("test", 3), ("dev", 2), ("train", 4)):
        write(tmp_path / f"en.{split}.conll", SENTENCE * count)
    outcome = evaluate("m", "wikiann", tmp_path, load=fake)
    assert outcome.split == "test" and outcome.languages[0].items == 3 and not outcome.notes
    assert evaluate("m", "wikiann", tmp_path, split="dev", load=fake).languages[0].items == 2


def test_a_dev_set_is_never_called_a_test_set(tmp_path: Path):
    for split, count in (("dev", 2), ("train", 4)):
        write(tmp_path / f"en.{split}.conll", SENTENCE * count)
    outcome = evaluate("m", "wikiann", tmp_path, load=fake)
    assert outcome.split == "dev" and outcome.languages[0].items == 2
    assert "the dev set of wikiann is scored: no test file is here" in outcome.notes[0]
    with pytest.raises(InputError, match="the dev split chooses among them"):
        evaluate(["a", "b"], "wikiann", tmp_path, load=fake)


def test_hidden_answers_are_said(tmp_path: Path):
    jsonl(tmp_path / "en.dev.jsonl", [{"text": f"a entailment {n}", "label": "entailment"} for n in range(4)])
    outcome = evaluate("m", "rte", tmp_path, load=fake, with_baselines=False)
    assert outcome.split == "dev" and "the test answers are not public" in outcome.notes[0]
    with pytest.raises(DataError, match="no file of rte's split 'dev': looked for"):
        evaluate("m", "rte", tmp_path / "..", load=fake)


def test_an_epoch_that_was_chosen_on_what_is_scored(tmp_path: Path):
    data, model = xnli(tmp_path / "data"), tmp_path / "run" / "model"
    for rows, noted in (("test", True), ("dev", False)):
        recipe = {"eval": str(data / "en.jsonl"), "data": {"eval_where": {"split": rows}}}
        write(tmp_path / "run" / "recipe.json", json.dumps(recipe))
        outcome = evaluate(model, "xnli", data, load=fake, with_baselines=False)
        assert any("its epoch was chosen on what is scored (en)" in note for note in outcome.notes) == noted


def test_candidates_where_a_language_has_no_dev_file(tmp_path: Path):
    data = xnli(tmp_path / "data")
    rows = [json.loads(line) for line in (data / "ur.jsonl").read_text("utf-8").splitlines()]
    for name, language in (("dev", "en"), ("dev", "de"), ("test", "en"), ("test", "de"), ("test", "ur")):
        lines = [f"{row['premise']}\t{row['hypothesis']}\t{row['label']}" for row in rows if row["split"] == name]
        write(tmp_path / "x" / f"{name}-{language}.tsv", "\n".join(lines) + "\n")
    outcome = evaluate(["a", "b"], "xnli", tmp_path / "x", load=lambda name: Fake(0.2 if name == "a" else 1.0))
    assert outcome.chosen["by each language's dev"] == {"en": "b", "de": "b", "ur": "b"}
    assert outcome.per_language is not None and outcome.per_language.main == 100
    assert any("no dev file of ur: the model that en's chose stands for their own" in note for note in outcome.notes)


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ("runs/{language}/model", {}, "is a model a language, setting is 'zero-shot'"),
        ("m", {"limit": 5, "name": "bucc"}, "bucc mines whole corpora: leave limit out"),
    ],
)
def test_refuses(tmp_path: Path, models, options, message):
    loaded: list[str] = []
    with pytest.raises(InputError, match=message):
        evaluate(models, options.pop("name", "xnli"), xnli(tmp_path), load=loaded.append, **options)
    assert not loaded


def test_a_bad_row_of_training_costs_neither_predictions_nor_baselines(tmp_path: Path):
    write(tmp_path / "en.test.conll", SENTENCE)
    write(tmp_path / "en.train.conll", SENTENCE * 40 + "alone\n\n")
    assert set(evaluate("m", "wikiann", tmp_path, load=fake).baselines) == {"majority", "tfidf"}
    write(tmp_path / "en.train.conll", SENTENCE + "alone\n\n" * 3)
    outcome = evaluate("m", "wikiann", tmp_path, load=fake)
    assert outcome.average.main == 100 and not outcome.baselines
    assert "no baselines for en" in outcome.notes[0] and "a word and a tag are needed" in outcome.notes[0]


def test_a_missing_extra_is_said_before_anything_runs(tmp_path: Path, monkeypatch):
    loaded: list[str] = []
    monkeypatch.setattr("xlm.evaluation.baselines.find_spec", lambda name: None)
    monkeypatch.setattr("xlm.evaluation.plots.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="scikit-learn"):
        evaluate("m", "xnli", xnli(tmp_path / "data"), load=loaded.append)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        check_target(tmp_path / "report")
    assert not loaded


class Speaking(Fake):
    """Vectors that depend on the language a text is said to be in."""

    languages = ("de", "en", "fr")

    def __init__(self) -> None:
        super().__init__()
        self.lang, self.embedded = None, list[tuple[str | None, int]]()

    def embed(self, texts, *, truncate=False):
        self.embedded.append((self.lang, len(texts)))
        return super().embed(texts, truncate=truncate)


def test_each_side_is_embedded_in_its_own_language(tmp_path: Path):
    engine = Speaking()
    for code in ("de", "fr", "sw"):
        write(tmp_path / f"{code}.tsv", "".join(f"{code} {n}\tsentence {n}\n" for n in range(5)))
    evaluate("m", "tatoeba", tmp_path, load=lambda name: engine)
    assert engine.embedded == [("de", 5), ("en", 5), ("fr", 5), (None, 5)]
    assert engine.lang is None
    engine = Speaking()
    for code in ("deu_Latn", "eng_Latn", "swh_Latn"):
        write(tmp_path / "f" / f"{code}.txt", "".join(f"{code[:3]} {n}\n" for n in range(5)))
    evaluate("m", "flores", tmp_path / "f", load=lambda name: engine)
    assert engine.embedded == [("de", 5), ("en", 5), (None, 5)]
    engine = Speaking()
    for side, text in (("fr", "phrase"), ("en", "sentence")):
        write(tmp_path / "b" / f"fr-en.{side}.tsv", "".join(f"{side}-{n}\t{text} {n}\n" for n in range(20)))
    write(tmp_path / "b" / "fr-en.gold.tsv", "".join(f"fr-{n}\ten-{n}\n" for n in range(20)))
    evaluate("m", "bucc", tmp_path / "b", load=lambda name: engine, with_baselines=False)
    assert engine.embedded == [("fr", 20), ("en", 20)]


def test_no_answer_has_its_own_probability(tmp_path: Path):
    """Best span 0.4, "no answer" 0.35: that is the doubt, not 0.6."""
    context = "The capital is Paris. It has 2 million people."
    jsonl(tmp_path / "en.jsonl", [{"question": "Q?", "context": context, "answers": [], "is_impossible": True}] * 2)

    class Doubting(Fake):
        def answer(self, questions, contexts, *, unanswerable=False, top_k=1):
            spans = [(15, 20, 0.4), (0, 0, 0.35), (0, 3, 0.25)]
            answers = [{"start": a, "end": b, "text": context[a:b], "probability": p} for a, b, p in spans][:top_k]
            return [{"question": question, "answers": answers} for question in questions]

    outcome = evaluate("m", "squad2", tmp_path, load=lambda name: Doubting(), with_baselines=False)
    assert outcome.languages[0].details["best_exact_thresh"] == 0.0
    from xlm.evaluation.benchmarks import benchmark
    from xlm.evaluation.predict import predict
    from xlm.tasks.examples import QuestionExample

    said = predict(Doubting(), benchmark("squad2"), [QuestionExample("Q?", context)])
    assert said.values == ["Paris"] and said.extra["no_answer"] == pytest.approx([0.35])


def test_a_model_of_classes_gives_no_correlations(tmp_path: Path):
    write(tmp_path / "STS-B" / "dev.tsv", "sentence1\tsentence2\tscore\nA\tB\t3.5\nC\tD\t1.0\n")
    with pytest.raises(InputError, match="the model gives classes, not a value: stsb needs"):
        evaluate("m", "stsb", tmp_path, load=lambda name: Fake(labels=("1", "3.5")), with_baselines=False)


def test_vectors_of_the_other_side_are_kept_by_language():
    from xlm.evaluation.predict import _others

    engine = Speaking()
    first = _others(engine, "en", ("a 1", "b 2"))
    assert _others(engine, "en", ("a 1", "b 2")) is first
    assert _others(engine, "fr", ("a 1", "b 2")) is not first and np.array_equal(
        _others(engine, "fr", ("a 1", "b 2"))[0], first[0]
    )
    assert engine.embedded == [("en", 2), ("fr", 2)]
