"""xlm evaluate on files of the user's own: every kind of task, by language, with baselines and pages; what is refused."""

import json
from pathlib import Path

import pytest

from evaluation.folders import LABELS, Fake, jsonl, squad, write, xnli
from xlm.cli import main
from xlm.errors import DataError, InputError
from xlm.evaluation.own import evaluate_files
from xlm.evaluation.report import write_report


class Engine(Fake):
    tasks: tuple[str, ...] = ("classify",)


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
    with pytest.raises(InputError, match="several labels a text"):
        evaluate_files("m", tmp_path / "multi.jsonl", load=lambda name: engine("classify"))
    with pytest.raises(InputError, match="its head is for embed, fill-mask: files are scored for classify, tag"):
        evaluate_files("m", tmp_path / "multi.jsonl", load=lambda name: engine("embed", "fill-mask"))
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
