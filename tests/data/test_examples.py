"""Labelled files of every format become the same examples; what is wrong in them is named by file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from xlm.data.examples import read_examples
from xlm.errors import DataError, MissingExtraError
from xlm.tasks.examples import ChoiceExample, Gold, PairExample, QuestionExample, TaggedExample, TextExample

PAIR = TextExample("A man sleeps.", "Nobody is awake.", "contradiction", None, "7")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def one(path: Path, task: str, **options: Any) -> Any:
    (example,) = read_examples(path, task, **options).examples
    return example


def test_the_same_pair_from_every_format(tmp_path: Path) -> None:
    row = {"id": 7, "premise": PAIR.text, "hypothesis": PAIR.pair, "label": PAIR.label}
    line = json.dumps(row)
    assert one(write(tmp_path / "a.jsonl", line), "classify") == PAIR
    assert one(write(tmp_path / "a.jsonl.gz", gzip.compress(line.encode())), "classify") == PAIR
    assert one(write(tmp_path / "a.json", json.dumps([row])), "classify") == PAIR
    cells = ["7", PAIR.text, str(PAIR.pair), str(PAIR.label)]
    for name, sign in (("a.csv", ","), ("a.tsv", "\t")):
        table = f"id{sign}premise{sign}hypothesis{sign}label\n" + sign.join(cells) + "\n"
        assert one(write(tmp_path / name, table), "classify") == PAIR
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert one(tmp_path / "a.parquet", "classify") == PAIR


def test_csv_keeps_quoted_line_ends_and_tsv_its_quotes(tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", 'text,label\n"two\nlines, ""quoted""",x\nlast,y\n')
    assert [e.text for e in read_examples(table, "classify").examples] == ['two\nlines, "quoted"', "last"]
    table = write(tmp_path / "a.tsv", 'text\tlabel\nhe said "no\tx\n')
    assert one(table, "classify").text == 'he said "no'


def test_unusual_columns_kinds_of_labels_and_filters(tmp_path: Path) -> None:
    lines = [
        {"body": "a", "stars": 1.5, "part": "train"},
        {"body": "b", "stars": 3, "part": "train"},
        {"body": "c", "stars": ["x", "y"], "part": "dev"},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    columns = {"text": "body", "label": "stars"}
    found = read_examples(path, "classify", columns=columns).examples
    assert [example.label for example in found] == [1.5, "3", ("x", "y")]
    assert len(read_examples(path, "classify", columns=columns, where={"part": "dev"}).examples) == 1
    assert len(read_examples(path, "classify", columns=columns, limit=2).examples) == 2
    with pytest.raises(DataError, match=r"not one example with \{'part': 'test'\}"):
        read_examples(path, "classify", columns=columns, where={"part": "test"})
    with pytest.raises(DataError, match="columns: 'txet' is no field of classify"):
        read_examples(path, "classify", columns={"txet": "body"})


def test_conll(tmp_path: Path) -> None:
    text = "-DOCSTART- O\n\nAna\tB-PER\nwas\tO\n\nin O\nNew B-LOC\nYork I-LOC\n"
    found = read_examples(write(tmp_path / "a.conll", text), "tag", language="en").examples
    assert found[0] == TaggedExample(("Ana", "was"), ("B-PER", "O"), language="en")
    assert found[1].tags == ("O", "B-LOC", "I-LOC")
    rows = ["1-2 Im _ _", "1 In in ADP", "2 dem der DET"]
    tree = "# text = Im Haus\n" + "\n".join("\t".join([*row.split(), *"______"]) for row in rows) + "\n"
    assert one(write(tmp_path / "a.conllu", tree), "tag").tags == ("ADP", "DET")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("a.conll", "Ana\tB-PER\n", b"caf\xe9\tO\n"),
        ("a.conllu", "1\tAna\ta\tNOUN" + "\t_" * 6 + "\n", b"2\tcaf\xe9\ta\tNOUN" + b"\t_" * 6 + b"\n"),
        ("a.conll.gz", "Ana\tB-PER\n", b"caf\xe9\tO\n"),
    ],
)
def test_a_word_that_is_not_utf8_costs_its_whole_sentence(tmp_path: Path, name: str, good: str, bad: bytes) -> None:
    content = good.encode() + b"\n" + good.encode() + bad + b"\n" + good.encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    loaded = read_examples(path, "tag", max_bad=1)
    assert [example.words for example in loaded.examples] == [("Ana",), ("Ana",)]
    (fault,) = loaded.bad
    assert fault.where == f"{path}:4" and "invalid UTF-8: byte 0xe9" in fault.reason
    assert fault.row["words"] == ["Ana", "caf\ufffd"]


def test_numbers_in_tables_are_values_where_one_has_a_point(tmp_path: Path) -> None:
    def labels(name: str, *cells: str) -> list[Any]:
        sign = "," if ".csv" in name else "\t"
        text = f"text{sign}label\n" + "".join(f"a b{sign}{cell}\n" for cell in cells)
        return [example.label for example in read_examples(write(tmp_path / name, text), "classify").examples]

    assert labels("a.csv", "3.8", "5", "-0.25", "1e-2") == [3.8, 5.0, -0.25, 0.01]
    assert labels("a.tsv", "3.8", "5") == [3.8, 5.0]
    assert labels("a.csv", "3", "5") == ["3", "5"], "whole numbers are classes"
    assert labels("a.csv", "3.8", "good") == ["3.8", "good"] and labels("a.csv", "1.2.3", "1.0") == ["1.2.3", "1.0"]
    quoted = write(tmp_path / "a.jsonl", json.dumps({"text": "a", "label": "3.8"}))
    assert one(quoted, "classify").label == "3.8", "JSON says itself what is a text"
    # Of several files one may hold whole numbers alone.
    write(tmp_path / "b.csv", "text,label\na,4\n")
    write(tmp_path / "c.csv", "text,label\na,4.5\n")
    found = read_examples([tmp_path / "b.csv", tmp_path / "c.csv"], "classify")
    assert [example.label for example in found.examples] == [4.0, 4.5]


def test_a_question_and_a_sentence_are_a_pair(tmp_path: Path) -> None:
    row = {"index": 1, "question": "Who came?", "sentence": "Ana came.", "label": "entailment"}
    loaded = read_examples(write(tmp_path / "a.jsonl", json.dumps(row)), "classify")
    assert loaded.examples == [TextExample("Who came?", "Ana came.", "entailment")]
    assert loaded.notes == ["columns: text is 'question', pair is 'sentence', label is 'label'"]
    passage = {"question": "is it so", "passage": "It is.", "title": "On it all", "label": "1"}
    loaded = read_examples(write(tmp_path / "b.jsonl", json.dumps(passage)), "classify")
    assert (loaded.examples[0].text, loaded.examples[0].pair) == ("is it so", "It is.")
    assert loaded.notes[0].endswith("; not used: 'title'")
    alone = {"question": "Who came?", "label": "HUM"}
    assert one(write(tmp_path / "c.jsonl", json.dumps(alone)), "classify").text == "Who came?"
    said = read_examples(tmp_path / "a.jsonl", "classify", columns={"text": "sentence"})
    assert said.examples[0].text == "Ana came." and said.examples[0].pair is None
    assert said.notes == ["columns: text is 'sentence', label is 'label'; not used: 'question'"]
    plain = {"text": "a b", "pair": "c d", "label": "x"}
    assert read_examples(write(tmp_path / "d.jsonl", json.dumps(plain)), "classify").notes == []


@pytest.mark.parametrize(
    ("label", "best"), [("A", 0), ("B", 1), ("1", 1), (" b", None), ("AB", None), ("C", None), ("²", None)]
)
def test_a_choice_is_one_letter_or_a_number(tmp_path: Path, label: str, best: int | None) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"prompt": "P", "choices": ["a", "b"], "label": label}))
    if best is not None:
        assert one(path, "choose").label == best
        return
    with pytest.raises(DataError, match=r"label is .* must be from 0 to 1, a choice"):
        read_examples(path, "choose")


def test_an_unlabelled_choice_has_no_right_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"prompt": "P", "choices": ["a", "b"], "label": ""}))
    with pytest.raises(DataError, match="the row has no label"):
        read_examples(path, "choose")
    assert one(path, "choose", labelled=False).label is None


def test_tables_as_spreadsheets_write_them(tmp_path: Path) -> None:
    """A byte-order mark, semicolons, quotes, and names that begin with capitals."""
    text = '\ufeff"Text";"Label"\n"gut; sehr, sehr gut";ja\nschlecht;nein\n'
    loaded = read_examples(write(tmp_path / "a.csv", text), "classify")
    assert [(e.text, e.label) for e in loaded.examples] == [("gut; sehr, sehr gut", "ja"), ("schlecht", "nein")]
    assert loaded.notes == ["columns: text is 'Text', label is 'Label'"] and loaded.where[1].endswith("a.csv:3")
    assert one(write(tmp_path / "b.csv", "text\tlabel\na, b; c\tx\n"), "classify").text == "a, b; c"
    assert one(write(tmp_path / "c.csv", "text,label;kind\na;b,x\n"), "fill").text == "a;b"
    for name in ("utf-16-le", "utf-16-be"):
        data = "\ufeff".encode(name) + "text,label\nfine,x\n".encode(name)
        with pytest.raises(DataError, match=r"d\.csv:1: UTF-16, by its byte-order mark: save the text as UTF-8"):
            read_examples(write(tmp_path / "d.csv", data), "classify", max_bad=9)


def test_what_a_file_lacks_is_said_once_with_what_it_has(tmp_path: Path) -> None:
    rows = [{"Text": "a b", "Stars": 3}, {"Text": "c", "Stars": 4}, {"Text": " ", "Stars": 4}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    expected = (
        r"a\.jsonl:1: the row has no label: looked for label, .*; there are Text, Stars; say data\.columns\.label=COLUMN "
        r"\(and in 2 more rows\): 3 of 3 rows cannot be used"
    )
    with pytest.raises(DataError, match=expected):
        read_examples(path, "classify")
    with pytest.raises(DataError, match=r"a\.jsonl:3: text is ' ': a text that is not empty is needed: 1 of 3 rows"):
        read_examples(path, "classify", columns={"label": "Stars"})
    table = write(tmp_path / "b.csv", "Word,Tag\nParis,B-LOC\n")
    with pytest.raises(DataError, match=r"its first line has Word, Tag; .*a table's cells hold no lists: give CoNLL"):
        read_examples(table, "tag")
    with pytest.raises(DataError, match=r"the row has no tags: .*first line has text, label; .*hold no lists"):
        read_examples(write(tmp_path / "c.csv", "text,label\na b,x\n"), "tag")


def test_labels_that_are_none(tmp_path: Path) -> None:
    """NaN is no value; a dash is what SNLI writes where annotators did not agree, and a label elsewhere."""
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": NaN}\n{"text": "b", "label": 0.5}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: label is nan: a value must be a finite number"):
        read_examples(path, "classify")
    row = {"premise": "a", "hypothesis": "b", "gold_label": "-"}
    with pytest.raises(DataError, match="the row has no label: nothing in column 'gold_label'"):
        read_examples(write(tmp_path / "b.jsonl", json.dumps(row)), "classify")
    assert one(write(tmp_path / "c.csv", "text,label\na,-\n"), "classify").label == "-"


def test_choices_in_columns_of_their_own(tmp_path: Path) -> None:
    swag = 'sent1,sent2,ending1,ending0,gold-ending,label\nIt rains.,She,"goes, home",sings,x,1\n'
    loaded = read_examples(write(tmp_path / "a.csv", swag), "choose")
    assert loaded.examples == [ChoiceExample("It rains.", ("sings", "goes, home"), 1, "She")]
    assert "choices is 'ending0, ending1'" in loaded.notes[0]
    copa = {"premise": "P", "choice1": "a", "choice2": "b", "question": "cause", "label": 0}
    made = one(write(tmp_path / "b.jsonl", json.dumps(copa)), "choose")
    assert made == ChoiceExample("P", ("a", "b"), 0, "cause")
    three = "prompt,Option A,Option B,Option C,answer\nP,a,b,,B\n"
    assert one(write(tmp_path / "c.csv", three), "choose") == ChoiceExample("P", ("a", "b"), 1)
    with pytest.raises(DataError, match="no column for choices"):
        read_examples(write(tmp_path / "d.csv", "prompt,choice1,ending2,label\nP,a,b,0\n"), "choose")


def test_bio_faults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "a\tO\nb\tI-PER\nc\tI-LOC\n\nd\tB-PER\n")
    with pytest.raises(DataError, match=r"a\.conll:1: tags: tag 2 is I-PER after O: a span must begin with B-PER"):
        read_examples(path, "tag")
    repaired = read_examples(path, "tag", bio="repair")
    assert repaired.examples[0].tags == ("O", "B-PER", "B-LOC") and repaired.repaired == 1
    assert read_examples(path, "tag", bio="keep").examples[0].tags == ("O", "I-PER", "I-LOC")
    with pytest.raises(DataError, match=r"tag 'X-PER' among BIO tags"):
        read_examples(write(tmp_path / "b.conll", "a\tB-PER\nb\tX-PER\n"), "tag")
    with pytest.raises(DataError, match=r"b\.conll:2: 'word': a word and a tag are needed"):
        read_examples(write(tmp_path / "b.conll", "a\tO\nword\n"), "tag")
    row = {"tokens": ["a", "b"], "tags": ["O"]}
    with pytest.raises(DataError, match="1 tags for 2 words"):
        read_examples(write(tmp_path / "c.jsonl", json.dumps(row)), "tag")
    bioes = write(tmp_path / "s.conll", "a\tS-PER\nb\tB-PER\nc\tE-PER\n")
    with pytest.raises(DataError, match=r"tag 'S-PER' among BIO tags: .* of BIOES write S- as B- and E- as I-"):
        read_examples(bioes, "tag")


def test_spans_of_running_text(tmp_path: Path) -> None:
    def row(*spans: tuple[int, int, str], text: str = "Ana lived in São Paulo.") -> Path:
        found = [{"start": a, "end": b, "label": label} for a, b, label in spans]
        return write(tmp_path / "a.jsonl", json.dumps({"text": text, "spans": found}))

    example = one(row((0, 3, "PER"), (13, 22, "LOC")), "tag")
    assert example.words == ("Ana", "lived", "in", "São", "Paulo", ".")
    assert example.tags == ("B-PER", "O", "O", "B-LOC", "I-LOC", "O")
    assert [example.text[a:b] for a, b in example.offsets] == list(example.words)
    # A border inside a run of letters cuts the word there.
    assert one(row((0, 2, "LOC"), text="東京都"), "tag").tags == ("B-LOC", "I-LOC", "O")
    with pytest.raises(DataError, match=r"spans 0-9 \(PER\) and 4-9 \(LOC\) overlap"):
        one(row((0, 9, "PER"), (4, 9, "LOC")), "tag")
    with pytest.raises(DataError, match=r"span 4-4 \(PER\) is empty"):
        one(row((4, 4, "PER")), "tag")
    with pytest.raises(DataError, match="must lie in the text of 23 characters"):
        one(row((20, 40, "PER")), "tag")
    with pytest.raises(DataError, match="holds no word"):
        one(row((3, 4, "PER")), "tag")


CONTEXT = "Zoë was born in Łódź in 1970."


def question(**changes: Any) -> dict[str, Any]:
    answers = [{"text": "Łódź", "answer_start": 16}]
    return {"id": "q", "question": "Where?", "context": CONTEXT, "answers": answers, **changes}


def test_questions_flat_nested_and_in_columns(tmp_path: Path) -> None:
    want = QuestionExample("Where?", CONTEXT, (Gold("Łódź", 16),), id="q")
    assert one(write(tmp_path / "a.jsonl", json.dumps(question())), "answer") == want
    columns = question(answers={"text": ["Łódź"], "answer_start": [16]})
    assert one(write(tmp_path / "a.jsonl", json.dumps(columns)), "answer") == want
    qas = [
        {"id": "q", "question": "Where?", "answers": [{"text": "Łódź", "answer_start": 16}]},
        {"id": "r", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    squad = {"version": "v2.0", "data": [{"title": "Zoë", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}
    first, second = read_examples(write(tmp_path / "a.json", json.dumps(squad)), "answer").examples
    assert first.answers == want.answers and first.title == "Zoë" and second.impossible


def test_misplaced_answers_say_how(tmp_path: Path) -> None:
    def fault(start: int, text: str = "Łódź") -> str:
        path = write(tmp_path / "a.jsonl", json.dumps(question(answers=[{"text": text, "answer_start": start}])))
        with pytest.raises(DataError) as caught:
            read_examples(path, "answer")
        return str(caught.value)

    assert "a.jsonl:1: the answer 'Łódź' is not at 17" in fault(17) and "17 counts bytes" in fault(17)
    assert "it is at 16: the offsets are shifted by +2" in fault(18)
    assert "it is nowhere in the context" in fault(0, "Kraków")


def test_choices_and_pairs(tmp_path: Path) -> None:
    row = {"premise": "It rained.", "question": "effect", "choices": ["Wet.", "Dry."], "label": 0}
    want = ChoiceExample("It rained.", ("Wet.", "Dry."), 0, "effect")
    assert one(write(tmp_path / "a.jsonl", json.dumps(row)), "choose") == want
    row = {"question": "Which?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answer": "B"}
    assert one(write(tmp_path / "a.jsonl", json.dumps(row)), "choose") == ChoiceExample("Which?", ("x", "y"), 1)
    with pytest.raises(DataError, match="label is 2: it must be from 0 to 1"):
        one(write(tmp_path / "a.jsonl", json.dumps({"prompt": "p", "choices": ["a", "b"], "label": 2})), "choose")
    row = {"query": "q", "positive": "p", "negatives": ["n"], "score": 1}
    assert one(write(tmp_path / "a.jsonl", json.dumps(row)), "embed") == PairExample("q", "p", ("n",), 1.0)
    with pytest.raises(DataError, match=r"score is 4\.5: it must lie between 0 and 1"):
        one(write(tmp_path / "a.jsonl", json.dumps({**row, "score": 4.5})), "rerank")


def test_parallel_files_must_have_as_many_lines(tmp_path: Path) -> None:
    german, english = tmp_path / "de.txt", tmp_path / "en.txt.gz"
    german.write_text("Guten Tag.\n\nJa.\nNein.\n", "utf-8")
    english.write_bytes(gzip.compress(b"Good day.\n\nYes.\nNo.\n"))
    found = read_examples(f"{german} ||| {english}", "embed", language="de").examples
    assert found[1:] == [PairExample("Ja.", "Yes.", language="de"), PairExample("Nein.", "No.", language="de")]
    english.write_bytes(gzip.compress(b"Good day.\n\n\nNo.\n"))
    with pytest.raises(DataError, match=r"en\.txt\.gz:3: the line is empty, that of the other side is not"):
        read_examples(f"{german} ||| {english}", "rerank")
    english.write_bytes(gzip.compress(b"Good day.\n\nYes.\n"))
    with pytest.raises(DataError, match=r"de\.txt has 4 lines, .*en\.txt\.gz has 3: line n of one translates line n"):
        read_examples(f"{german} ||| {english}", "embed", max_bad=9)
    with pytest.raises(DataError, match=r"exactly two files are needed, as in 'de\.txt \|\|\| en\.txt'"):
        read_examples(f"{german} ||| ", "embed")


def test_pairs_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "de-en.tsv", "Ja.\tYes.\nNein.\tNo.\n")
    with pytest.raises(DataError, match=r"no column for text: .*first line has Ja\., Yes\.; .*say data\.format=pairs"):
        read_examples(path, "embed")
    assert read_examples(path, "embed", format="pairs").examples[0] == PairExample("Ja.", "Yes.")
    with pytest.raises(DataError, match=r"b\.tsv:1: 3 columns where a pair has 2"):
        read_examples(write(tmp_path / "b.tsv", "a\tb\tc\n"), "embed", format="pairs")


def test_languages_from_file_names(tmp_path: Path) -> None:
    for language in ("en", "sw"):
        write(tmp_path / f"{language}.jsonl", json.dumps({"text": "a", "label": "x"}))
    found = read_examples(tmp_path / "{language}.jsonl", "classify")
    assert [example.language for example in found.examples] == ["en", "sw"]
    with pytest.raises(DataError, match="no file of language 'de': there are en, sw"):
        read_examples(tmp_path / "{language}.jsonl", "classify", languages=["de"])


def test_bad_lines_are_quarantined_up_to_a_quota(tmp_path: Path) -> None:
    good = json.dumps({"text": "a", "label": "x"}).encode()
    content = b"\xef\xbb\xbf" + b"\r\n".join([good, b"{broken", b'{"text": "\xff"}', b"[1]", good]) + b"\r\n"
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(DataError) as caught:
        read_examples(path, "classify", max_bad=2)
    message = str(caught.value)
    assert "a.jsonl:2: not JSON" in message and "a.jsonl:3: invalid UTF-8: byte 0xff" in message
    assert "a.jsonl:4: a JSON list: an object is needed" in message and "3 of 5 rows" in message
    loaded = read_examples(path, "classify", max_bad=3, quarantine=tmp_path / "bad" / "rows.jsonl")
    assert len(loaded.examples) == 2
    saved = [json.loads(line) for line in (tmp_path / "bad" / "rows.jsonl").read_text("utf-8").splitlines()]
    assert [row["where"].rpartition(":")[2] for row in saved] == ["2", "3", "4"]
    assert read_examples(path, "classify", max_bad=0.6).bad == loaded.bad


def test_lines_end_where_they_do_everywhere(tmp_path: Path) -> None:
    # U+2028 and a lone CR are text; the last line needs no end.
    path = write(tmp_path / "a.txt", "one\u2028still one\rstill\n\ntwo")
    assert [e.text for e in read_examples(path, "fill").examples] == ["one\u2028still one\rstill", "two"]


def test_csv_faults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,x\nb\nc,y\n")
    with pytest.raises(DataError, match=r"a\.csv:3: 1 columns, the header has 2"):
        read_examples(path, "classify")
    with pytest.raises(DataError, match="the header names a column twice"):
        read_examples(write(tmp_path / "b.csv", "text,text\na,b\n"), "classify")


def test_files_that_are_not_there_or_are_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_examples(tmp_path / "a.jsonl", "classify")
    with pytest.raises(DataError, match="the ending says no format"):
        read_examples(tmp_path / "a.xyz", "classify")
    with pytest.raises(DataError, match="not JSON"):
        read_examples(write(tmp_path / "a.json", "{"), "classify")
    with pytest.raises(DataError, match="damaged gzip"):
        read_examples(write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99)[:40]), "classify")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"xlm\[data\]"):
        read_examples("hub:xnli:en:train", "classify")


@pytest.mark.slow
def test_sets_of_the_hub_name_their_classes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    rows = rows.cast_column("label", datasets.ClassLabel(names=["neg", "pos"]))
    rows.to_parquet(str(tmp_path / "set" / "train.parquet"))
    found = read_examples(f"hub:{tmp_path / 'set'}", "classify").examples
    assert [example.label for example in found] == ["neg", "pos"]
    with pytest.raises(DataError, match="the data set cannot be loaded"):
        read_examples(f"hub:{tmp_path / 'none'}", "classify")
