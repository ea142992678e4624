"""xlm evaluate on files of the user's own: every kind of task, by language, with baselines and pages; what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
import toytasks
import xlm
from evaluation.folders import LABELS, Fake, jsonl, squad, write, xnli
from xlm.cli import main
from xlm.errors import DataError, InputError
from xlm.evaluation.own import evaluate_files
from xlm.evaluation.report import write_report
from xlm.tasks.embed import Embed
from xlm.tasks.examples import PairExample
from xlm.tasks.rerank import Rerank


class Engine(Fake):
    tasks: tuple[str, ...] = ("classify",)
    model = SimpleNamespace(
        config=SimpleNamespace(num_labels=3, problem_type=None, id2label=dict(enumerate(LABELS)), label2id={})
    )


def engine(*tasks: str) -> Engine:
    made = Engine()
    made.tasks = tasks
    return made


def test_classes_by_language_with_baselines_and_pages(tmp_path: Path):
    xnli(tmp_path)
    files = tmp_path / "{language}.jsonl"
    found = evaluate_files("m", files, train=[tmp_path / "en.jsonl"], load=lambda name: engine("embed", "classify"))
    assert [one.language for one in found.languages] == ["de", "en", "ur"]
    assert found.average.main == 100 and set(found.baselines) == {"majority", "tfidf"}
    assert found.metric == "accuracy" and "macro_f1" in found.average.scores and found.languages[0].items == 36
    write_report(found, tmp_path / "report")
    assert "{language}.jsonl" in (tmp_path / "report" / "report.html").read_text("utf-8")
    assert (tmp_path / "report" / "errors" / "ur.html").is_file()


def test_every_other_task(tmp_path: Path):
    write(tmp_path / "a.conll", "Rome\tB-LOC\nis\tO\n\nOslo\tI-LOC\n")
    tagged = evaluate_files("m", tmp_path / "a.conll", load=lambda name: engine("tag"))
    assert tagged.metric == "f1" and tagged.languages[0].language == "all" and "no baselines" in tagged.notes[0]
    write(tmp_path / "s.json", squad(["Paris", "2 million"]))
    answered = evaluate_files("m", tmp_path / "s.json", load=lambda name: engine("answer"))
    assert answered.average.scores == pytest.approx({"f1": 50, "exact_match": 50})
    rows = [{"premise": "P", "choice1": "a", "choice2": "b", "label": n % 2, "lang": "x/y"} for n in range(4)]
    jsonl(tmp_path / "c.jsonl", rows)
    chosen = evaluate_files("m", tmp_path / "c.jsonl", load=lambda name: engine("choose"))
    assert chosen.average.main == 50 and chosen.languages[0].language == "x_y"


def test_what_is_refused(tmp_path: Path):
    jsonl(tmp_path / "multi.jsonl", [{"text": "a", "labels": ["x", "y"]}])
    with pytest.raises(InputError, match="several labels a text: the model gives one"):
        evaluate_files("m", tmp_path / "multi.jsonl", load=lambda name: engine("classify"))
    with pytest.raises(InputError, match="its head is for fill-mask: files are scored for classify, tag"):
        evaluate_files("m", tmp_path / "multi.jsonl", load=lambda name: engine("fill-mask"))
    with pytest.raises(InputError, match="its head is for embed, fill-mask: it cannot be asked to rerank"):
        evaluate_files("m", tmp_path / "multi.jsonl", task="rerank", load=lambda name: engine("embed", "fill-mask"))
    with pytest.raises(
        InputError, match="task is 'fill': it must be one of classify, tag, answer, choose, rerank, embed"
    ):
        evaluate_files("m", tmp_path / "multi.jsonl", task="fill", load=lambda name: engine("embed"))
    jsonl(tmp_path / "half.jsonl", [{"text": "a", "other": "b", "score": 0.3}, {"text": "a", "other": "b"}])
    with pytest.raises(DataError, match="1 of 2 pairs have no score"):
        evaluate_files("m", tmp_path / "half.jsonl", load=lambda name: engine("embed"))
    jsonl(tmp_path / "right.jsonl", [{"query": "a", "document": "b"}])
    with pytest.raises(DataError, match="none of 1 queries has both right documents and others"):
        evaluate_files("m", tmp_path / "right.jsonl", load=lambda name: engine("rerank"), task="rerank")
    jsonl(tmp_path / "other.jsonl", [{"text": "a", "label": "spam"}])
    with pytest.raises(InputError, match=f"the model's labels are .*{LABELS[0]}.*other.jsonl has spam"):
        evaluate_files("m", tmp_path / "other.jsonl", load=lambda name: engine("classify"))
    with pytest.raises(DataError, match=r"bad\.csv:3: the row has no label"):
        write(tmp_path / "bad.csv", "text,label\na,neutral\nb,\n")
        evaluate_files("m", tmp_path / "bad.csv", load=lambda name: engine("classify"))


def test_command(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("xlm.inference.engine.load", lambda *args, **options: engine("classify"))
    write(tmp_path / "t.csv", "Body;Kind\n" + "".join(f"<b>{label}</b>;{label}\n" for label in LABELS * 3))
    call = ["evaluate", "m", "--test", str(tmp_path / "t.csv"), "--column", "text=Body", "--column", "label=Kind"]
    assert main([*call, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["average"]["scores"]["accuracy"] == 100
    assert main([*call, "--report", str(tmp_path / "r")]) == 0
    assert "t.csv" in capsys.readouterr().out and (tmp_path / "r" / "results.json").is_file()
    for more, message in (
        (["--benchmark", "xnli"], "--benchmark does not go with --test"),
        (["--beams", "2"], "--beams does not go with --test"),
        (["--column", "label"], "--column is 'label': FIELD=COLUMN is needed"),
    ):
        assert main([*call, *more]) == 1
        assert message in capsys.readouterr().err
    assert main(["evaluate", "m", "-b", "xnli", "-d", ".", "--column", "a=b"]) == 1
    assert "--column goes with --test alone" in capsys.readouterr().err
    assert main(["evaluate", "a", "b", "--test", "t.csv"]) == 1
    assert "--test: 2 models given: one is needed" in capsys.readouterr().err


# -- models with weights ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model for every kind of file, with random weights."""
    place = tmp_path_factory.mktemp("models")
    base = toytasks.checkpoint(place / "base")
    found = {"embed": base}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "multi": (
            xlm.XLMRobertaForSequenceClassification,
            {"id2label": {0: "a", 1: "b", 2: "c"}, "problem_type": "multi_label_classification"},
        ),
        "value": (xlm.XLMRobertaForSequenceClassification, {"num_labels": 1, "problem_type": "regression"}),
        "rerank": (xlm.XLMRobertaForSequenceClassification, {"num_labels": 1}),
        "choose": (xlm.XLMRobertaForMultipleChoice, {}),
    }
    torch.manual_seed(0)
    for name, (cls, options) in kinds.items():
        with torch.no_grad():
            tiny.stir(cls.from_pretrained(base, **options)).save_pretrained(place / name)
        xlm.AutoTokenizer.from_pretrained(base).save_pretrained(place / name)
        found[name] = place / name
    return found


def test_several_labels_a_text(folders: dict[str, Path], tmp_path: Path):
    texts = ["the film was good", "Ana saw Rome", "sad day in Oslo", "Ben and Dora"]
    model = xlm.load(folders["multi"])
    said = [{one["label"] for one in answer["labels"] if one["probability"] >= 0.5} for answer in model.classify(texts)]
    right = [said[0], said[1] | {"a"}, said[2], {"b"}]
    write(
        tmp_path / "t.csv", "text,label\n" + "".join(f"{t},{'|'.join(r)}\n" for t, r in zip(texts, right, strict=True))
    )
    found = evaluate_files(folders["multi"], tmp_path / "t.csv", train=[tmp_path / "t.csv"])
    assert found.average.scores["exact"] == 100 * np.mean([a == b for a, b in zip(said, right, strict=True)])
    assert list(found.average.scores) == ["micro_f1", "macro_f1", "exact"] and set(found.baselines) == {
        "majority",
        "tfidf",
    }
    write_report(found, tmp_path / "report")
    page = (tmp_path / "report" / "errors" / "all.html").read_text("utf-8")
    assert ", ".join(sorted(right[3])) in page and (", ".join(sorted(said[3])) or "(none)") in page
    write(tmp_path / "other.csv", "text,label\ngood,a|z\n")
    with pytest.raises(InputError, match=r"the model's labels are .*: other\.csv has a, z"):
        evaluate_files(folders["multi"], tmp_path / "other.csv")


def test_pairs_with_scores_of_any_scale(folders: dict[str, Path], tmp_path: Path):
    stats = pytest.importorskip("scipy.stats")
    pairs = [
        ("Ana was in Rome", "Ben was in Rome"),
        ("good film", "sad day"),
        ("the film", "the film"),
        ("Oslo", "and"),
    ]
    gold = [3.5, 0.2, 5.0, 1.0]
    rows = "".join(f"{a},{b},{score}\n" for (a, b), score in zip(pairs, gold, strict=True))
    write(tmp_path / "sts.csv", "sentence1,sentence2,score\n" + rows)
    found = evaluate_files(folders["embed"], tmp_path / "sts.csv")
    here, there = (xlm.load(folders["embed"]).embed(list(side)) for side in zip(*pairs, strict=True))
    expected = stats.spearmanr(gold, (here * there).sum(1)).statistic
    assert found.metric == "spearman" and found.average.main == pytest.approx(100 * expected)
    assert set(found.baselines) == {"tfidf"} and not any("no baselines" in note for note in found.notes)
    valued = evaluate_files(folders["value"], tmp_path / "sts.csv")
    assert valued.metric == "spearman" and valued.benchmark.task == "classify"


def test_pairs_without_scores_are_found_as_in_training(folders: dict[str, Path], tmp_path: Path):
    pairs = [("Ana was in Rome", "in Rome"), ("good film", "nice film"), ("Oslo", "in Rome"), ("sad day", "poor day")]
    jsonl(tmp_path / "p.jsonl", [{"anchor": a, "positive": b} for a, b in pairs])
    found = evaluate_files(folders["embed"], tmp_path / "p.jsonl")
    model = xlm.load(folders["embed"])
    examples = [PairExample(a, b) for a, b in pairs]
    states = [np.stack([model.embed([a])[0], model.embed([b])[0]]) for a, b in pairs]
    trained = Embed().evaluate(examples, Embed().answers(examples, None, states))  # type: ignore[arg-type]
    assert found.average.scores == pytest.approx({name: 100 * value for name, value in trained.items()})
    write_report(found, tmp_path / "report")
    assert (tmp_path / "report" / "predictions" / "all.jsonl").read_text("utf-8").count("\n") == 4


def test_documents_ranked_for_queries(folders: dict[str, Path], tmp_path: Path):
    sklearn = pytest.importorskip("sklearn.metrics")
    documents = ["good film", "sad day in Rome", "Ana and Ben", "Where is Oslo ?", "the poor film", "nice day"]
    gains = {"Ana saw": [1, 0, 0.4, 0, 0, 0.7], "Where ?": [0, 0, 0.2, 1, 0, 0]}
    rows = [
        {"query": q, "document": d, "score": g} for q, of in gains.items() for d, g in zip(documents, of, strict=True)
    ]
    jsonl(tmp_path / "r.jsonl", [*rows, {"query": "alone", "document": "good"}])
    found = evaluate_files(folders["rerank"], tmp_path / "r.jsonl")
    model, ndcg, reciprocal = xlm.load(folders["rerank"]), [], []
    for query, of in gains.items():
        order = model.rerank(query, documents)
        scores = [one["score"] for one in sorted(order, key=lambda one: one["index"])]
        ndcg.append(sklearn.ndcg_score([of], [scores], k=10))
        reciprocal.append(1 / (1 + next(n for n, one in enumerate(order) if of[one["index"]] >= 0.5)))
    assert found.average.scores["ndcg_at_10"] == pytest.approx(100 * np.mean(ndcg))
    assert found.average.main == pytest.approx(100 * np.mean(reciprocal)) and found.metric == "mrr"
    assert "1 of 3 queries have no right document, or no other: they are not counted" in found.notes
    trained = Rerank().evaluate(
        [PairExample(r["query"], r["document"], score=r["score"]) for r in rows],
        [
            [one["score"]]
            for query in gains
            for one in sorted(model.rerank(query, documents), key=lambda one: one["index"])
        ],
    )
    assert found.average.scores["mrr"] == pytest.approx(100 * trained["mrr"])
    write_report(found, tmp_path / "report")
    first = json.loads((tmp_path / "report" / "predictions" / "all.jsonl").read_text("utf-8").splitlines()[0])
    assert first["query"] == "Ana saw" and len(first["predicted"]) == len(first["documents"]) == 6
    assert evaluate_files(folders["rerank"], tmp_path / "r.jsonl", task="rerank").average == found.average


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("value", [{"text": "good film " * 100, "label": 0.5}, {"text": "sad", "label": 0.25}]),
        ("choose", [{"prompt": "good film " * 100, "choices": ["a", "b"], "label": 0}] * 2),
        ("embed", [{"text": "good", "other": "sad " * 100}, {"text": "film " * 100, "other": "in"}]),
        ("rerank", [{"query": "Ana", "document": "good " * 100, "negatives": ["sad", "in " * 100]}]),
    ],
)
def test_what_is_cut_is_counted(
    name: str, rows: list[dict[str, Any]], folders: dict[str, Path], tmp_path: Path, capsys
):
    jsonl(tmp_path / "t.jsonl", rows)
    count = {"value": 1, "rerank": 1}.get(name, 2)
    assert main(["evaluate", str(folders[name]), "--test", str(tmp_path / "t.jsonl"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["languages"]["all"]["truncated"] == count
    assert any("longer than the model and cut: all " + str(count) in note for note in record["notes"])
    assert main(["evaluate", str(folders[name]), "--test", str(tmp_path / "t.jsonl")]) == 0
    assert "longer than the model and cut" in capsys.readouterr().err


def test_the_options_of_a_model_reach_it(folders: dict[str, Path], tmp_path: Path, capsys, monkeypatch):
    jsonl(tmp_path / "t.jsonl", [{"text": "a </s>", "label": 0.5}, {"text": "b", "label": 0.1}])
    seen = {}

    def load(*arguments: Any, **options: Any) -> Any:
        seen.update(options)
        return xlm.load(*arguments, **options)

    monkeypatch.setattr("xlm.inference.engine.load", load)
    call = ["evaluate", str(folders["value"]), "--test", str(tmp_path / "t.jsonl"), "--json"]
    assert main([*call, "--batch-invariant", "--plain-text", "--strict-finite", "--no-pickle"]) == 0
    assert {name for name, value in seen.items() if value is True} == {"batch_invariant", "plain_text", "strict_finite"}
    assert seen["allow_pickle"] is False
    assert main([*call, "--lang", "de"]) == 1
    assert "lang" in capsys.readouterr().err
    assert main(["evaluate", "m", "--pairs", "de-en=x.tsv", "--lang", "de"]) == 1
    assert "--lang does not go with --pairs" in capsys.readouterr().err
