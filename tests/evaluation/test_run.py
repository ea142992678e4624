"""Whole evaluations with an engine that needs no model: scores, baselines, rules of selection, reports, bad input."""

import json
import re
from pathlib import Path

import pytest

from evaluation.folders import Fake, jsonl, squad, write, xnli
from xlm.cli import main
from xlm.errors import DataError, InputError, OutputError
from xlm.evaluation import pages
from xlm.evaluation.report import write_report
from xlm.evaluation.run import evaluate

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return xnli(tmp_path / "data")


def test_zero_shot(data):
    outcome = evaluate("m", "xnli", data, load=lambda name: Fake())
    assert [one.language for one in outcome.languages] == ["en", "de", "ur"]
    assert outcome.average.main == 100 and outcome.average.interval == (100, 100)
    assert outcome.baselines["majority"].main == pytest.approx(100 / 3)
    assert outcome.baselines["tfidf"].main == 100  # the label stands in the text
    assert {one.model for one in outcome.published()} == {"XLM (MLM+TLM)", "XLM-R base", "XLM-R large"}


def test_a_model_a_language(data):
    loaded: list[str] = []

    def load(name: str) -> Fake:
        loaded.append(name)
        return Fake()

    outcome = evaluate("runs/{language}/model", "xnli", data, setting="translate-train", load=load)
    assert loaded == ["runs/en/model", "runs/de/model", "runs/ur/model"]
    assert outcome.languages[2].model == "runs/ur/model"
    assert outcome.published() == []


def test_translated_tests_are_scored_in_the_source_language(tmp_path: Path):
    """MLQA's rules are those of the answers' language: English, once everything is translated into it."""
    write(tmp_path / "test/test-context-de-question-de.json", squad(["Paris"], "The capital is Paris."))

    class Articles(Fake):
        def answer(self, questions, contexts, **_):
            return [{"question": q, "answers": [{"text": "the Paris", "probability": 1.0}]} for q in questions]

    options = {"load": lambda name: Articles(), "with_baselines": False}
    assert evaluate("m", "mlqa", tmp_path, setting="translate-test", **options).average.scores["exact_match"] == 100
    assert evaluate("m", "mlqa", tmp_path, **options).average.scores["exact_match"] == 0


def test_all_languages_together_have_their_own_papers(data):
    outcome = evaluate("m", "xnli", data, setting="translate-train-all", load=lambda name: Fake())
    assert {one.model: one.average for one in outcome.published()}["XLM-R XXL"] == 86.0


def test_both_rules_of_selection(data):
    """The first is best in English, the second in Urdu: one serves all, or each language has its own."""

    class Partial(Fake):
        def __init__(self, good: str) -> None:
            super().__init__()
            self.good = good

        def classify(self, texts, *, truncate=False):
            found = super().classify(texts, truncate=truncate)
            for text, answer in zip(texts, found, strict=True):
                if self.good not in text[0]:
                    answer["labels"] = answer["labels"][::-1]
            return found

    engines = {"a": Partial("premise"), "b": Partial("مقدمہ")}
    outcome = evaluate(["b", "a"], "xnli", data, load=engines.__getitem__)
    assert outcome.chosen["by en dev"] == "a"
    assert outcome.chosen["by each language's dev"]["ur"] == "b"
    scores = {one.language: (one.score.main, one.per_language.main) for one in outcome.languages}
    assert scores["en"] == (100, 100) and scores["ur"] == (0, 100)
    assert outcome.per_language.main > outcome.average.main


def test_what_is_scored_and_averaged_is_said_wherever_numbers_are_shown(capsys, tmp_path: Path):
    """TyDiQA has no public test answers, and English is no part of its average."""
    from xlm.cli.evaluate import show

    for code in ("en", "ko", "sw"):
        write(tmp_path / "tydiqa-goldp-v1.1-dev" / f"tydiqa.goldp.{code}.dev.json", squad(["Paris", "2 million"]))
    outcome = evaluate("m", "tydiqa", tmp_path, load=lambda name: Fake())
    assert outcome.record()["split"] == "dev" and outcome.average_name == "average without en"
    page = pages.summary(outcome, None)
    assert "split dev" in page and "the dev set of tydiqa is scored" in page and "average without en" in page
    show(outcome)
    shown = capsys.readouterr()
    assert "dev set" in shown.out and "average without en" in shown.out and "the score is too high" in shown.err
    assert evaluate("m", "tydiqa", tmp_path, languages=["en"], load=lambda name: Fake()).average_name == "average"


def test_every_task(tmp_path: Path):
    write(tmp_path / "xquad.en.json", squad(["Paris", "2 million"]))
    found = evaluate("m", "xquad", tmp_path, load=lambda name: Fake())
    assert found.average.scores == pytest.approx({"f1": 50, "exact_match": 50})
    assert found.notes == ("no baselines: xquad has no training files: name with train what the model learnt from",)
    jsonl(tmp_path / "x" / "et.test.jsonl", [{"premise": "P", "choices": ["a", "b"], "label": n % 2} for n in range(4)])
    assert evaluate("m", "xcopa", tmp_path / "x", load=lambda name: Fake()).average.main == 50
    write(tmp_path / "n" / "en.dev.conll", "Rome\tB-LOC\nis\tO\n\nIn\tO\nRome\tB-LOC\n\n")
    write(tmp_path / "n" / "en.train.conll", "Rome\tB-LOC\nis\tO\n\nIn\tO\nOslo\tB-LOC\n\n")
    tagged = evaluate("m", "wikiann", tmp_path / "n", load=lambda name: Fake())
    assert tagged.average.scores["precision"] == pytest.approx(200 / 3) and tagged.average.scores["recall"] == 100
    assert set(tagged.baselines) == {"majority", "tfidf"}
    write(tmp_path / "t" / "fr.tsv", "".join(f"phrase {n}\tsentence {n}\n" for n in range(9)))
    assert evaluate("m", "tatoeba", tmp_path / "t", load=lambda name: Fake()).average.main == 100
    for side, text in (("zh", "句"), ("en", "sentence")):
        write(tmp_path / "b" / f"zh-en.{side}.tsv", "".join(f"{side}-{n}\t{text} {n}\n" for n in range(20)))
    write(tmp_path / "b" / "zh-en.gold.tsv", "".join(f"zh-{n}\ten-{n}\n" for n in range(20)))
    assert evaluate("m", "bucc", tmp_path / "b", load=lambda name: Fake()).average.main == 100
    jsonl(
        tmp_path / "s" / "en.dev.jsonl",
        [{"sentence1": f"a {n}", "sentence2": f"b {n % 3}", "score": n} for n in range(5)],
    )
    assert set(evaluate("m", "sts", tmp_path / "s", load=lambda name: Fake()).average.scores) >= {"pearson", "spearman"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"setting": "magic"}, InputError, "setting is 'magic': it must be one of zero-shot, translate-train"),
        ({"limit": 0}, InputError, "limit is 0: at least 1 example"),
        ({"languages": ["fr"]}, DataError, "no file for fr: there are"),
        ({"split": "valid"}, DataError, "split is 'valid': xnli has test, dev, train"),
        ({"setting": "translate-train"}, InputError, r"write \{language\} in the model's path"),
        ({"train": ["nowhere.jsonl"]}, DataError, "train='nowhere.jsonl': no such file"),
        ({"models": []}, InputError, "models: none given"),
        ({"models": ["a", "b"], "split": "dev"}, InputError, "the dev split chooses among them"),
    ],
)
def test_refuses(data, options, error, message):
    models = options.pop("models", "m")
    with pytest.raises(error, match=message):
        evaluate(models, "xnli", data, load=lambda name: Fake(), **options)


def test_training_files_of_one_s_own(data, tmp_path: Path):
    """With a column for the split only its training rows count; without, all rows do."""
    rows = [{"premise": "all", "hypothesis": "same", "label": "neutral"}] * 3
    jsonl(tmp_path / "plain.jsonl", rows)
    jsonl(tmp_path / "split.jsonl", [*({**row, "split": "dev", "label": "entailment"} for row in rows * 2),
                                     *({**row, "split": "train"} for row in rows)])  # fmt: skip
    for name in ("plain", "split"):
        outcome = evaluate("m", "xnli", data, train=[tmp_path / f"{name}.jsonl"], load=lambda _: Fake())
        cases = outcome.languages[0]
        assert cases.baselines["majority"].main == pytest.approx(100 / 3)
        assert "tfidf" not in outcome.baselines, "one class alone cannot be told from others"


def test_baselines_learn_from_every_file():
    from xlm.evaluation.baselines import evenly

    languages = ["en"] * 5000 + ["ru"] * 3000 + ["zh"] * 2000
    kept = evenly(languages, 4000)
    assert [kept.count(code) for code in ("en", "ru", "zh")] == [2000, 1200, 800]
    assert evenly([1, 2], 4000) == [1, 2]


def test_a_model_with_other_labels(data):
    with pytest.raises(InputError, match="the model's labels are LABEL_0, LABEL_1: xnli has entailment, neutral"):
        evaluate("m", "xnli", data, load=lambda name: Fake(labels=("LABEL_0", "LABEL_1")))


def test_labels_in_other_case_are_the_same(data):
    spelled = tuple(label.upper() for label in ("entailment", "neutral", "contradiction"))
    assert evaluate("m", "xnli", data, load=lambda name: Fake(labels=spelled), with_baselines=False).languages


def test_report(data, tmp_path: Path):
    outcome = evaluate("m", "xnli", data, load=lambda name: Fake(0.7))
    target = tmp_path / "report"
    page = write_report(outcome, target)
    text = page.read_text("utf-8")
    errors = (target / "errors" / "ur.html").read_text("utf-8")
    for html in (text, errors):
        assert not re.search(r'(?:src|href)="(?!data:|errors/|\.\./report\.html)', html), "nothing comes from elsewhere"
        assert "<script" not in html and "<b>entailment" not in html, "texts are escaped"
    assert "&lt;b&gt;" in errors and 'dir="auto"' in errors and "مقدمہ" in errors
    assert "XLM-R large" in text and 'class="confusion"' in text
    record = json.loads((target / "results.json").read_text("utf-8"))
    assert record["average"]["scores"]["accuracy"] == pytest.approx(outcome.average.main)
    lines = (target / "predictions" / "de.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 12 and json.loads(lines[0])["id"] == "test-0"
    first = (target / "plot.svg").read_bytes()
    write_report(outcome, target)
    assert b"<svg" in first and (target / "results.json").is_file()


def test_words_of_a_right_to_left_sentence(tmp_path: Path):
    write(tmp_path / "he.dev.conll", "רומא\tB-LOC\nעיר\tO\n\n")
    outcome = evaluate("m", "wikiann", tmp_path, load=lambda name: Fake(), with_baselines=False)
    write_report(outcome, tmp_path / "report")
    html = (tmp_path / "report" / "errors" / "he.html").read_text("utf-8")
    assert '<div dir="rtl"><span class="word wrong"><bdi>רומא</bdi>' in html


def test_a_report_replaces_nothing_else(data, tmp_path: Path, monkeypatch):
    outcome = evaluate("m", "xnli", data, load=lambda name: Fake(), with_baselines=False)
    write(tmp_path / "mine" / "thesis.txt", "years of work")
    with pytest.raises(OutputError, match="holds files that are no report"):
        write_report(outcome, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    write_report(outcome, tmp_path / "report")
    before = (tmp_path / "report" / "results.json").read_bytes()

    def broken(*_: object) -> str:
        raise OSError("the disk is full")

    monkeypatch.setattr("xlm.evaluation.pages.summary", broken)
    with pytest.raises(OutputError, match="the disk is full"):
        write_report(outcome, tmp_path / "report")
    assert (tmp_path / "report" / "results.json").read_bytes() == before
    assert [path.name for path in tmp_path.glob(".*.tmp")] == []


def test_a_report_knows_its_own_files(data, tmp_path: Path):
    outcome = evaluate("m", "xnli", data, load=lambda name: Fake(), with_baselines=False)
    write(tmp_path / "mine" / "results.json", "{}")
    with pytest.raises(OutputError, match="holds files that are no report"):
        write_report(outcome, tmp_path / "mine")
    write_report(outcome, tmp_path / "report")
    write_report(outcome, tmp_path / "report")
    write(tmp_path / "report" / "errors" / "notes.txt", "mine")
    with pytest.raises(OutputError, match=r"none of its \(errors/notes\.txt\)"):
        write_report(outcome, tmp_path / "report")
    assert (tmp_path / "report" / "errors" / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".report*"))


def test_command(data, capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("xlm.inference.engine.load", lambda *args, **options: Fake())
    assert main(["evaluate", "--list"]) == 0
    assert "xnli" in capsys.readouterr().out
    assert main(["evaluate", "m", "--benchmark", "xnli"]) == 1
    assert "missing: --data" in capsys.readouterr().err
    call = ["evaluate", "m", "-b", "xnli", "-d", str(data), "-l", "de,ur"]
    assert main([*call, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record["languages"]) == ["de", "ur"] and record["average"]["scores"]["accuracy"] == 100
    assert main([*call, "--report", str(tmp_path / "r")]) == 0
    shown = capsys.readouterr()
    assert (
        "average" in shown.out
        and "zero-shot · test set" in shown.out
        and "PaddleNLP" in shown.err
        and (tmp_path / "r" / "report.html").is_file()
    )
